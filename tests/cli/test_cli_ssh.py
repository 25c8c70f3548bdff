"""Real OpenSSH, scp, sftp and rsync, curl and a web server, all through a box that has no route."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli_support import BOUND, Cli, Terminal, wait_for
from e2e_lab import Lab, lab
from test_cli_live import Live

pytestmark = [pytest.mark.claude, pytest.mark.root, pytest.mark.xdist_group("ssh"), pytest.mark.timeout(600)]
WORDS = Path("/usr/share/common-licenses/GPL-3")
SERVE = """
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with lab() as found:
        yield found


@pytest.fixture(scope="module")
def live(made: Lab) -> Live:
    """A thopter ``flag`` with a web server on its port 3000."""
    live = Live(made, made.repo("proj"))
    live.ok("create", "flag", "--repo", "proj")
    live.ok("exec", "-n", "flag", "--", "sh", "-c", f"setsid python3 -c '{SERVE}' >/dev/null 2>&1 &")
    return live


def servers() -> list[str]:
    where = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    return [name for name in ("sshd", "dropbear") if shutil.which(name, path=where)]


@pytest.fixture(params=servers())
def ssh(request: pytest.FixtureRequest, live: Live) -> dict[str, object]:
    """How to run OpenSSH's programs with our configuration and each server there is."""
    live.ok("ssh-config")
    env = live.env | {"THOPTER_SSH_SERVER": request.param}
    return {"env": env, "capture_output": True, "timeout": BOUND}


def config(live: Live) -> str:
    return str(live.state / "ssh/config")


def test_there_is_an_ssh_server_to_test_with():
    assert servers(), "./dev setup installs one"


def test_ssh_runs_a_command_with_its_output_and_exit_code(live: Live, ssh):
    argv = ["ssh", "-F", config(live), "flag.thopter", "echo $THOPTER_NAME; cat; echo bad >&2; exit 7"]
    done = subprocess.run(argv, input=b"typed\n", **ssh)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"flag\ntyped\n", b"bad\n")


def test_a_terminal_over_ssh_has_its_size(live: Live, ssh):
    command = f"ssh -tt -F {config(live)} flag.thopter 'tty; stty size'"
    argv = ["script", "-qec", f"stty rows 31 cols 77; {command}", "/dev/null"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, **ssh)
    assert b"/dev/pts/" in done.stdout and b"31 77" in done.stdout


def test_scp_sftp_and_rsync_carry_files_both_ways(live: Live, ssh, tmp_path: Path):
    data = tmp_path / "data with spaces"
    data.write_bytes(os.urandom(3 << 20))
    subprocess.run(["scp", "-F", config(live), data, "flag.thopter:/tmp/there"], check=True, **ssh)
    subprocess.run(
        ["scp", "-F", config(live), "flag.thopter:/tmp/there", tmp_path / "back"], check=True, **ssh
    )
    assert (tmp_path / "back").read_bytes() == data.read_bytes()
    batch = f"get /tmp/there {tmp_path}/got\n"
    argv = ["sftp", "-F", config(live), "-b", "-", "flag.thopter"]
    subprocess.run(argv, input=batch.encode(), check=True, **ssh)
    assert (tmp_path / "got").stat().st_size == 3 << 20
    folder = tmp_path / "tree"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/c").write_text("deep")
    shell = f"ssh -F {config(live)}"
    subprocess.run(["rsync", "-a", "-e", shell, f"{folder}/", "flag.thopter:/tmp/tree/"], check=True, **ssh)
    subprocess.run(["rsync", "-a", "-e", shell, "flag.thopter:/tmp/tree/", f"{folder}2/"], check=True, **ssh)
    assert Path(f"{folder}2/a/b/c").read_text() == "deep"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(url, body, timeout=BOUND) as answer:
        return bytes(answer.read())


def test_forwards_go_in_out_and_by_socks_until_ctrl_c(live: Live, tmp_path: Path):
    there, socks, back = free_port(), free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as home:
        at = home.getsockname()[1]
        forwards = ["-L", f"{there}:127.0.0.1:3000", "-D", str(socks), "-R", f"{back}:127.0.0.1:{at}"]
        process = live.spawn("ssh", "-N", *forwards, "flag")
        assert process.stderr is not None
        assert b"Forwarding" in process.stderr.readline()
        assert post(f"http://127.0.0.1:{there}/", b"in") == b"in"
        argv = ["curl", "-sS", "--socks5", f"127.0.0.1:{socks}", "-d", "proxied", "http://127.0.0.1:3000/"]
        assert subprocess.run(argv, capture_output=True, timeout=BOUND).stdout == b"proxied"
        script = f"import socket; socket.create_connection(('127.0.0.1', {back})).sendall(b'out')"
        live.ok("exec", "-n", "flag", "--", "python3", "-c", script)
        home.settimeout(BOUND)
        taken, _ = home.accept()
        with taken:
            assert taken.recv(3) == b"out"
    process.send_signal(signal.SIGINT)
    assert process.wait(BOUND) == 0
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    with pytest.raises(urllib.error.URLError):
        post(f"http://127.0.0.1:{there}/", b"gone")


def test_a_forward_that_can_not_be_is_an_error_and_leaves_no_ssh_behind(live: Live):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = live.run("ssh", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:3000", "flag")
    assert done.code == 1 and "ssh could not forward" in done.err and str(port) in done.err
    assert live.run("ssh", "-N", "-L", "1:x:2", "nobody").code == 3


def test_the_shell_with_a_forward_is_ours_and_the_forward_ends_with_it(live: Live):
    port = free_port()
    done = live.ok("ssh", "flag", "-L", f"{port}:127.0.0.1:3000", "--", "sh", "-c", "pwd; exit 0")
    assert done.out == "/work/proj\n"
    with pytest.raises(urllib.error.URLError):
        post(f"http://127.0.0.1:{port}/", b"gone")


def test_the_command_is_printed_and_works_as_printed(live: Live):
    line = live.ok("ssh", "flag", "--print-command").out.strip()
    done = subprocess.run(f"{line} hostname", shell=True, capture_output=True, timeout=BOUND, env=live.env)
    assert done.stdout == b"flag\n", done
    spawn = json.loads(live.ok("ssh", "flag", "--spawn-json", "-L", "1:b:2", "--", "ls", "-l").out)
    assert spawn["command"].endswith("ssh")
    assert spawn["args"][-4:] == ["-L", "1:b:2", "flag.thopter", "ls -l"]


def test_install_adds_one_line_and_uninstall_takes_it_out_again(live: Live, tmp_path: Path):
    file = tmp_path / "dot/config"
    for _ in range(2):
        live.ok("ssh-config", "--install", "--file", str(file))
    assert file.read_text() == f'Include "{config(live)}"\n\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.write_text(file.read_text() + "Host mine\n  User me\n")
    file.chmod(0o644)
    done = subprocess.run(["ssh", "-F", file, "flag.thopter", "hostname"], capture_output=True, timeout=BOUND)
    assert done.stdout == b"flag\n", done
    live.ok("ssh-config", "--uninstall", "--file", str(file))
    assert file.read_text() == "Host mine\n  User me\n" and stat.S_IMODE(file.stat().st_mode) == 0o644


def test_the_private_key_never_leaves_the_state_folder(live: Live, ssh):
    private = live.state / "ssh/id_ed25519"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    secret = private.read_text().splitlines()[2]
    part = secret[:20] + "''" + secret[20:40]  # so that the search does not find its own command line
    script = f"grep -rlsF '{part}' /root /run /etc /tmp /work /proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    assert live.run("exec", "-n", "flag", "--", "sh", "-c", script).out == ""
    listening = live.ok("exec", "-n", "flag", "--", "sh", "-c", "cat /proc/net/tcp | wc -l").out
    subprocess.run(["ssh", "-F", config(live), "flag.thopter", "true"], check=True, **ssh)
    assert live.ok("exec", "-n", "flag", "--", "sh", "-c", "cat /proc/net/tcp | wc -l").out == listening


def test_a_thopter_that_is_not_there_is_said_by_ssh(live: Live, ssh):
    done = subprocess.run(["ssh", "-F", config(live), "nobody.thopter"], stdin=subprocess.DEVNULL, **ssh)
    assert done.returncode == 255 and b"there is no thopter 'nobody'" in done.stderr


def test_a_port_is_shown_to_many_connections_at_once(live: Live):
    process = live.spawn("port", "flag", "3000")
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert url.startswith("http://127.0.0.1:")
        bodies = [os.urandom(200_000) for _ in range(24)]
        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(lambda body: post(url, body), bodies)) == bodies
        for foreign in ({"Host": "evil.test"}, {"Origin": "http://evil.test"}):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(url, headers=foreign), timeout=BOUND)
            refused.value.close()
            assert refused.value.code == 421
        assert post(url, b"once more") == b"once more"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == 0
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def test_a_port_where_nothing_listens_is_refused_with_a_clear_line(live: Live):
    done = live.run("port", "flag", "3999")
    told = json.loads(live.ok("audit", "--kind", "person.dial", "--box", "flag", "--json").out)
    last = told[-1]
    assert (last["data"]["port"], last["name"]) == (3999, "flag") and f"uid {os.getuid()}" in last["by"], told
    assert done.code == 5 and done.err.startswith("thopter: nothing listens on port 3999 in flag\n"), done
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = live.run("port", "flag", "3000", "--local", str(taken.getsockname()[1]))
    assert done.code == 5 and "can't be used" in done.err, done


def test_control_mode_is_for_a_terminal_that_knows_it(live: Live):
    with Terminal(live, "attach", "--cc", "flag") as plain:
        assert plain.end() == 5
        assert "iTerm2" in plain.text
    with Terminal(live, "attach", "--cc", "flag", env={"LC_TERMINAL": "iTerm2"}) as terminal:

        def began() -> bool:
            terminal.read()
            return b"\x1bP1000p%begin " in terminal.raw

        wait_for(began)
        terminal.type("detach-client\n")
        assert terminal.end() == 0 and b"%exit" in terminal.raw


def test_nothing_to_forward_is_a_usage_error(cli: Cli):
    assert cli.run("ssh", "-N", "flag").code == 2
    assert cli.run("ssh", "-N", "-L", "1:b:2", "flag", "ls").code == 2
    assert cli.run("ssh-config", "--install", "--uninstall").code == 2
