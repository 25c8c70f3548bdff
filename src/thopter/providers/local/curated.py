"""The small root that boxes start from: everything but /usr, made by us and by nobody's secrets.

/usr is the machine's own, laid under the box read-only; /home, /root, /etc, /run and /var of the
machine are not there at all. What of /etc programs in /usr need is copied by an explicit list, and
only what every user of the machine may read anyway.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
from pathlib import Path

from thopter.model.errors import Refused

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS = (
    ("boot", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("media", 0o755), ("mnt", 0o755),
    ("opt", 0o755), ("opt/thopter", 0o755), ("proc", 0o555), ("root", 0o700), ("run", 0o755), ("srv", 0o755),
    ("sys", 0o555), ("tmp", 0o1777), ("usr", 0o755), ("var", 0o755), ("var/cache", 0o755),
    ("var/cache/apt", 0o755), ("var/cache/apt/archives", 0o755), ("var/cache/apt/archives/partial", 0o700),
    ("var/lib", 0o755), ("var/lib/apt", 0o755), ("var/lib/apt/lists", 0o755),
    ("var/lib/apt/lists/partial", 0o700), ("var/lib/dpkg", 0o755), ("var/lib/dpkg/updates", 0o755),
    ("var/lib/thopter", 0o700), ("var/log", 0o755), ("var/log/apt", 0o755), ("var/spool", 0o755),
    ("var/tmp", 0o1777), ("work", 0o755),
)  # fmt: skip

# Names (and patterns) below /etc that are copied when world-readable. Nothing of apt, pip, npm,
# git, ssh, proxies or the machine's services is among them: those are where credentials live.
_ETC = (
    "ImageMagick-*", "R", "alternatives", "bash_completion*", "binfmt.d", "ca-certificates",
    "ca-certificates.conf", "dconf", "debian_version", "default/locale", "deluser.conf", "adduser.conf",
    "emacs", "ethertypes", "fonts", "gai.conf", "groff", "inputrc", "java-*", "jvm-*", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "ldap/ldap.conf", "locale.alias", "locale.conf", "localtime", "login.defs",
    "logcheck", "lsb-release", "magic", "magic.mime", "mailcap", "manpath.config", "mime.types",
    "mke2fs.conf",
    "nanorc", "netconfig", "openal", "opt", "os-release", "pam.conf", "pam.d", "perl", "pkcs11",
    "postgresql-common",
    "protocols", "python3", "python3.*", "rpc", "screenrc", "security/limits.conf", "security/pam_env.conf",
    "selinux/semanage.conf", "services", "shells", "skel", "ssl/certs", "ssl/openssl.cnf", "system-release",
    "redhat-release", "fedora-release", "alpine-release", "pki/tls/certs", "pki/ca-trust/extracted",
    "crypto-policies", "sysctl.conf", "terminfo", "timezone", "ucf.conf", "vdpau_wrapper.cfg", "vim",
    "wgetrc",
    "X11/app-defaults", "xdg", "xml", "sgml", "texmf", "libnl-3", "libblockdev", "mysql/my.cnf", "gdb",
)  # fmt: skip

_NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files
networks: files
protocols: files
services: files
"""
_PROFILE = """\
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
for part in /opt/thopter/*/bin; do
  case ":$PATH:" in *":$part:"*) ;; *) [ -d "$part" ] && PATH="$PATH:$part" ;; esac
done
unset part
umask 022
[ -n "$BASH" ] && [ -f "$HOME/.bashrc" ] && . "$HOME/.bashrc"
"""
_BASHRC = """\
case $- in *i*) ;; *) return ;; esac
HISTCONTROL=ignoreboth
shopt -s histappend checkwinsize
PS1='\\[\\e[1;36m\\]${THOPTER_NAME:-\\h}\\[\\e[0m\\]:\\[\\e[1;34m\\]\\w\\[\\e[0m\\]\\$ '
alias ls='ls --color=auto' ll='ls -alF' grep='grep --color=auto'
[ -f /usr/share/bash-completion/bash_completion ] && . /usr/share/bash-completion/bash_completion
"""
_RESOLV = "# A box has no resolver and no route: its gateways are on the loopback interface.\n"
_WRITTEN = {
    "etc/nsswitch.conf": _NSSWITCH, "etc/profile": _PROFILE, "etc/resolv.conf": _RESOLV,
    "etc/hostname": "box\n", "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n", "etc/fstab": "",
    "etc/environment": "", "etc/machine-id": "", "root/.bashrc": _BASHRC, "root/.profile": _PROFILE,
}  # fmt: skip


def check_machine() -> None:
    """Refuse, with the reason, a machine whose /bin and /lib are not links into /usr."""
    for name in ("bin", "lib"):
        if os.path.isdir("/" + name) and not os.path.islink("/" + name):
            raise Refused(
                f"/{name} of this machine is not a link into /usr (no 'merged /usr')",
                hint="install the usrmerge package, or use another provider",
            )
    if not os.path.exists("/usr/bin/env"):
        raise Refused("this machine has no programs in /usr/bin to lay under a box")


def make_root(root: Path) -> None:
    """Fill the new folder ``root``. Blocking, about 0.1 s. Raises OSError."""
    check_machine()
    root.mkdir(mode=0o755)
    for name, _ in _FOLDERS:
        (root / name).mkdir()
    for name in _MERGED:
        if os.path.islink("/" + name):
            (root / name).symlink_to("usr/" + name)
    for pattern in _ETC:
        for found in glob.glob("/etc/" + glob.escape(pattern).replace("[*]", "*")):
            _copy(found, str(root / found[1:]))
    _users(root / "etc")
    for name, text in _WRITTEN.items():
        _write(root / name, text)
    (root / "root/.profile").chmod(0o644)
    _dpkg(root / "var/lib/dpkg")
    _sys(root / "sys")
    for path in ("var/run", "var/lock"):
        (root / path).symlink_to("/run" if path == "var/run" else "/run/lock")
    (root / "etc/mtab").symlink_to("/proc/self/mounts")
    for name, mode in _FOLDERS:  # last: an ordinary user can't write into what it closed
        (root / name).chmod(mode)


def complete(root: Path) -> None:
    """Give a root that somebody else made what every box needs: the places of its mounts, boxd's own
    folder. Nothing that is there is changed but links in their way."""
    for name in ("dev", "proc", "run", "sys", "tmp", "opt", "opt/thopter", "root", "var", "var/lib",
                 "var/lib/thopter", "etc", "home", "work"):  # fmt: skip
        place = root / name
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            place.unlink()
        if not place.exists():
            place.mkdir()
            place.chmod(0o700 if name in ("root", "var/lib/thopter") else 0o755)
    if not any((root / "sys").iterdir()):
        _sys(root / "sys")


def _copy(source: str, target: str) -> None:
    """Copy what everybody may read; links stay links; no owner, no device, no socket."""
    found = os.lstat(source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISDIR(found.st_mode):
        if found.st_mode & 0o005 == 0o005:
            os.makedirs(target, exist_ok=True)
            for name in os.listdir(source):
                _copy(f"{source}/{name}", f"{target}/{name}")
    elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o004:
        shutil.copyfile(source, target)
        os.chmod(target, 0o755 if found.st_mode & 0o111 else 0o644)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o644)


def _users(etc: Path) -> None:
    """System users of the machine (packages in /usr expect them), none of its people."""
    for name, gid_at in (("passwd", 3), ("group", 2)):
        lines = []
        for line in Path("/etc", name).read_text(errors="replace").splitlines():
            parts = line.split(":")
            if len(parts) <= gid_at or not parts[2].isdigit():
                continue
            if int(parts[2]) >= 1000 and int(parts[2]) < 65000:
                continue
            if name == "passwd":
                shell = "/bin/bash" if parts[2] == "0" else parts[-1]
                parts = [
                    parts[0],
                    "x",
                    parts[2],
                    parts[3],
                    parts[4],
                    "/root" if parts[2] == "0" else parts[5],
                    shell,
                ]
            else:
                parts = [parts[0], "x", parts[2], ""]
            lines.append(":".join(parts))
        _write(etc / name, "\n".join(lines) + "\n")
    locked = [
        f"{line.split(':')[0]}:*:19000:0:99999:7:::" for line in (etc / "passwd").read_text().splitlines()
    ]
    _write(etc / "shadow", "\n".join(locked) + "\n")
    (etc / "shadow").chmod(0o600)


def _dpkg(folder: Path) -> None:
    """The list of what is installed in /usr, so that dpkg and apt inside know it."""
    status = Path("/var/lib/dpkg/status")
    if status.exists() and status.stat().st_mode & 0o004:
        shutil.copyfile(status, folder / "status")
    else:
        (folder / "status").touch()
    (folder / "available").touch()
    for name in ("info", "alternatives", "triggers"):
        (folder / name).mkdir()
    # Which package owns which file; the scripts of packages stay behind, they are for this machine.
    for path in (*glob.glob("/var/lib/dpkg/info/*.list"), "/var/lib/dpkg/info/format"):
        if os.path.exists(path):
            _copy(path, str(folder / "info" / os.path.basename(path)))


def _sys(folder: Path) -> None:
    """Instead of sysfs: the few files that C libraries and runtimes ask for."""
    cpu = folder / "devices/system/cpu"
    cpu.mkdir(parents=True)
    for name in ("online", "possible", "present"):
        try:
            text = Path("/sys/devices/system/cpu", name).read_text()
        except OSError:
            text = f"0-{(os.cpu_count() or 1) - 1}\n"
        _write(cpu / name, text)
    for index in range(os.cpu_count() or 1):
        (cpu / f"cpu{index}").mkdir()
    (folder / "fs/cgroup").mkdir(parents=True)
