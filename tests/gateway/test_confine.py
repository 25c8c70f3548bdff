"""What a confined process can still do: its work, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from thopter.gateway import confine

SOURCE = str(Path(confine.__file__).resolve().parents[2])
PROBE = """
import encodings.idna, json, os, resource, socket, sys
from pathlib import Path
from thopter.gateway.confine import confine
allowed, forbidden, port, network = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
uid = int(sys.argv[5])
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
sys.path += [str(forbidden.parent), str(forbidden.parent / "modules")]  # as a .pth file does
done = confine(writable=[allowed], network=network, private=[forbidden])
def can(act):
    try:
        act()
    except OSError as e:
        return e.strerror
    return True
def dial():
    socket.create_connection(("127.0.0.1", port), 5).close()
def abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\\0thopter-probe-" + str(port))
def listen():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)); s.listen()
print(json.dumps({
    "done": done,
    "write allowed": can(lambda: (allowed / "x").write_text("x")),
    "write forbidden": can(lambda: (forbidden / "x").write_text("x")),
    "read forbidden": can(lambda: (forbidden / "secret").read_text()),
    "list forbidden": can(lambda: os.listdir(forbidden)),
    "read system": can(lambda: Path("/etc/passwd").read_text()),
    "read modules": can(lambda: (forbidden.parent / "modules/m.py").read_text()),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
    "mkfifo": can(lambda: os.mkfifo(allowed / "p")),
    "dial": can(dial), "abstract": can(abstract), "listen": can(listen),
    "chroot": can(lambda: os.chroot("/")),
    "powerless": "CapEff:\\t0000000000000000" in Path("/proc/self/status").read_text(),
}))
"""


def probe(tmp_path: Path, *, network: bool, uid: int = 0, python: str = sys.executable) -> dict[str, object]:
    allowed, forbidden = tmp_path / "allowed", tmp_path / "forbidden"
    for folder in (allowed, forbidden):
        folder.mkdir()
        folder.chmod(0o777)
    (forbidden / "secret").write_text("s")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/m.py").write_text("")
    with socket.socket() as door, socket.socket(socket.AF_UNIX) as hidden:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        hidden.bind(f"\0thopter-probe-{port}")
        hidden.listen()
        argv = [python, "-c", PROBE, str(allowed), str(forbidden), str(port), "1" if network else "0"]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([*argv, str(uid)], capture_output=True, timeout=60, check=False, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def test_a_confined_git_gateway_writes_and_reads_only_its_own_and_dials_nobody(tmp_path: Path) -> None:
    found = probe(tmp_path, network=False)
    assert found["write allowed"] is True and found["read system"] is True  # the controls
    done = found["done"]
    assert isinstance(done, list)
    if "landlock" in done:
        assert found["write forbidden"] is not True and found["read forbidden"] is not True
        assert found["list forbidden"] is not True and found["mkfifo"] is not True
    assert "landlock" in done or "no-network" in done, "neither measure is to be had on this kernel"
    assert found["dial"] is not True and found["abstract"] is not True
    if "no-capabilities" in done:
        assert found["chroot"] is not True and found["powerless"] is True


def test_modules_are_found_where_an_editable_installation_has_them_and_a_home_is_not_opened_for_it(
    tmp_path: Path,
) -> None:
    found = probe(tmp_path, network=True)
    assert found["read modules"] is True
    if "landlock" in str(found["done"]):
        assert found["read forbidden"] is not True  # its parent is on sys.path, too


def test_a_crash_starts_no_program_of_the_machine(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    assert probe(tmp_path, network=True)["core"] == (0 if hard == 0 else 1)  # 0 would still start it


def test_a_confined_model_gateway_may_dial_and_still_writes_only_its_own(tmp_path: Path) -> None:
    found = probe(tmp_path, network=True)
    assert found["dial"] is True and found["write allowed"] is True
    done = found["done"]
    assert isinstance(done, list) and "no-network" not in done
    if "landlock" in done:
        assert found["write forbidden"] is not True and found["read forbidden"] is not True


@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/usr/bin/python3", os.X_OK), reason="becomes an ordinary user"
)
def test_an_ordinary_user_gets_the_same_where_user_namespaces_are_allowed() -> None:
    with tempfile.TemporaryDirectory(prefix="thopter-gw-") as folder:  # one that others may enter
        os.chmod(folder, 0o755)
        found = probe(Path(folder), network=False, uid=65534, python="/usr/bin/python3")
    assert found["write allowed"] is True
    done = found["done"]
    assert isinstance(done, list) and {"no-core", "no-new-privs", "not-dumpable", "no-capabilities"} <= set(
        done
    )
    assert found["dial"] is not True or not {"landlock", "no-network"} & set(done)
