"""What OpenSSH needs to reach a box: a key pair, a configuration, and the server that runs inside.

A box has no route, so nothing listens anywhere: each connection is one ``sshd -i`` (or ``dropbear
-i``) in the box, its bytes carried by the hub. Who may connect is decided by the hub's socket; the key
pair only lets OpenSSH's own protocol go through, and lies in the state folder, 0600.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from thopter.kit.durable import write_private
from thopter.kit.paths import Paths, private_dir
from thopter.model.errors import Refused, ThopterError

SUFFIX = ".thopter"
SERVERS = ("auto", "sshd", "dropbear")

# Runs in the box. Positional: the public key, which server. Everything it makes is the box's own.
SERVE = r"""
set -eu
umask 077
key=$1 want=$2 dir=/run/thopter/ssh
home=$(sed -n 's/^root:[^:]*:0:0:[^:]*:\([^:]*\):.*/\1/p' /etc/passwd)
home=${home:-/root}
mkdir -p "$dir"
find() { command -v "$1" || { [ -x "/usr/sbin/$1" ] && echo "/usr/sbin/$1"; } || true; }
sshd=$(find sshd) drop=$(find dropbear)
case $want in sshd) drop= ;; dropbear) sshd= ;; esac
once() { # FILE COMMAND...: the command writes $new, which becomes FILE unless somebody was faster
  file=$1; shift
  [ ! -f "$file" ] || return 0
  new=$dir/.new.$$
  "$@" "$new" >/dev/null 2>&1
  ln "$new" "$file" 2>/dev/null || :
  rm -f "$new" "$new.pub"
}
variables=$home/.thopter/env
[ -r "$variables" ] && . "$variables"
if [ -n "$sshd" ]; then
  mkdir -p -m 0755 /run/sshd
  grep -q '^sshd:' /etc/passwd || echo 'sshd:x:64100:65534::/run/sshd:/usr/sbin/nologin' >>/etc/passwd
  once "$dir/host" ssh-keygen -q -t ed25519 -N '' -f
  for part in /opt/thopter/*/bin; do
    case :$PATH: in *:$part:*) ;; *) [ ! -d "$part" ] || PATH=$PATH:$part ;; esac
  done
  line=SetEnv newline='
'
  for name in PATH LANG THOPTER_NAME THOPTER_ID THOPTER_OWNER \
    $([ ! -r "$variables" ] || sed -n 's/^export \([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' "$variables"); do
    eval "value=\${$name-}"
    case $value in "" | *"$newline"*) continue ;; esac
    line="$line \"$name=$(printf %s "$value" | sed 's/[\\"]/\\&/g')\""
  done
  printf '%s\n' "$key" >"$dir/keys.$$"
  mv "$dir/keys.$$" "$dir/keys"
  cat >"$dir/config.$$" <<END
HostKey $dir/host
AuthorizedKeysFile $dir/keys
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
PrintMotd no
PrintLastLog no
MaxSessions 100
PermitTunnel no
LogLevel FATAL
AcceptEnv LANG LC_* COLORTERM
Subsystem sftp internal-sftp
PidFile none
$line
END
  mv "$dir/config.$$" "$dir/config"
  exec "$sshd" -i -e -f "$dir/config"
elif [ -n "$drop" ]; then
  once "$dir/drop" dropbearkey -t ed25519 -f
  mkdir -p "$home/.ssh"
  keys=$home/.ssh/authorized_keys
  grep -qxF "$key" "$keys" 2>/dev/null || printf '%s\n' "$key" >>"$keys"
  exec python3 -c "$3" "$drop" -i -e -s -r "$dir/drop" -W 1048576
fi
echo "thopter: this box has no ssh server; install dropbear-bin and openssh-sftp-server (or openssh-server)" \
  "on the machine it runs on. 'thopter ssh' without -L, -R and -D works without one" >&2
exit 127
"""


# dropbear wants one socket to read from and to write to, and a command in a box has two pipes.
SOCKET = """
import os, socket, subprocess, sys, threading
ours, its = socket.socketpair()
child = subprocess.Popen(sys.argv[1:], stdin=its, stdout=its)
its.close()
def feed():
    try:
        while True:
            data = os.read(0, 65536)
            if not data:
                return ours.shutdown(socket.SHUT_WR)
            ours.sendall(data)
    except OSError:
        pass
threading.Thread(target=feed, daemon=True).start()
with open(1, "wb", buffering=0) as out:
    while True:
        data = ours.recv(65536)
        if not data:
            break
        while data:
            data = data[out.write(data):]
sys.exit(child.wait())
"""


def serve_argv(public_key: str, server: str) -> list[str]:
    """The command that serves one connection in a box, on its standard streams."""
    return ["/bin/sh", "-c", SERVE, "sh", public_key, server, SOCKET]


def key_pair(paths: Paths) -> tuple[Path, str]:
    """The private key's file and the public key's line; made when there is none. Two at once make
    one. ThopterError without ssh-keygen."""
    folder = private_dir(private_dir(paths.state) / "ssh")
    private, public = folder / "id_ed25519", folder / "id_ed25519.pub"
    if not private.exists():
        fresh = folder / f".new-{os.getpid()}"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "thopter", "-f", str(fresh)]
        try:
            subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
        except (OSError, subprocess.SubprocessError) as e:
            raise ThopterError(
                f"no key could be made with ssh-keygen: {e}", hint="install openssh-client"
            ) from None
        with contextlib.suppress(FileExistsError):
            os.link(fresh, private)
        fresh.unlink()
        fresh.with_name(fresh.name + ".pub").unlink()
    if private.stat().st_mode & 0o077:
        raise Refused(f"{private} may be read by others", hint=f"remove it: rm {private}")
    return private, _public_of(private, public)


def _public_of(private: Path, public: Path) -> str:
    """The public line, derived from the private key once, so that the two always belong together."""
    with contextlib.suppress(FileNotFoundError):
        if public.stat().st_mtime_ns >= private.stat().st_mtime_ns:
            return public.read_text("ascii").strip()
    argv = ["ssh-keygen", "-y", "-f", str(private)]
    try:
        done = subprocess.run(
            argv, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, text=True
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise ThopterError(
            f"{private} can't be read as a key: {e}", hint="remove it; a new one is made"
        ) from None
    write_private(public, done.stdout.encode())
    return done.stdout.strip()


def own_command() -> list[str]:
    """How another program starts this command line."""
    script = Path(sys.executable).parent / "thopter"
    return [str(script)] if script.exists() else [sys.executable, "-m", "thopter.cli.main"]


def config_text(paths: Paths, private: Path) -> str:
    """The ``Host *.thopter`` block. A name with a quote in it never matches: it goes to a shell."""
    where = {
        "THOPTER_STATE_DIR": paths.state,
        "THOPTER_RUNTIME_DIR": paths.runtime,
        "THOPTER_CONFIG_DIR": paths.config,
    }
    words = ["env", *(f"{k}={v}" for k, v in where.items()), *own_command(), "ssh-proxy"]
    command = " ".join(shlex.quote(w) for w in words).replace("%", "%%")
    return f"""\
# Written by thopter; 'thopter ssh-config' writes it anew.
# The way to a box is the hub's private socket, so there is no host key to check.
Host *{SUFFIX} "!*'*"
    User root
    IdentityFile "{private}"
    IdentitiesOnly yes
    PreferredAuthentications publickey
    ProxyCommand {command} -- '%h'
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    LogLevel ERROR
    ForwardAgent no
    ForwardX11 no
"""


def write_config(paths: Paths) -> Path:
    """Write the configuration into the state folder when it is not what it should be; its path."""
    private, _ = key_pair(paths)
    target = private.parent / "config"
    text = config_text(paths, private).encode()
    if not target.exists() or target.read_bytes() != text:
        write_private(target, text)
    return target


def ssh_argv(paths: Paths, name: str, options: list[str]) -> list[str]:
    """OpenSSH's own command line to the box."""
    program = shutil.which("ssh")
    if program is None:
        raise ThopterError("ssh is not installed", hint="install openssh-client")
    return [program, "-F", str(write_config(paths)), *options, name + SUFFIX]


def include(file: Path, config: Path) -> bool:
    """Put ``Include config`` at the top of the user's own ssh configuration; False when it is there.
    Atomic, mode kept, a symlink stays one."""
    line = f'Include "{config}"'
    target = file.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    old = target.read_bytes() if target.exists() else b""
    if line.encode() in old.splitlines():
        return False
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    write_private(target, line.encode() + b"\n\n" + old)
    target.chmod(mode)
    return True


def exclude(file: Path, config: Path) -> bool:
    """Take that line out again; False when it was not there."""
    line = f'Include "{config}"'.encode()
    target = file.resolve()
    old = target.read_bytes() if target.exists() else b""
    if line not in old.splitlines():
        return False
    mode = target.stat().st_mode & 0o777
    head, _, tail = old.partition(line + b"\n")
    write_private(target, head + tail.removeprefix(b"\n"))
    target.chmod(mode)
    return True
