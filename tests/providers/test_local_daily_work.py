"""What people and agents do all day works inside the walls."""

from __future__ import annotations

import shutil

import pytest
from local_lab import Lab

from thopter.model.sockets import BoxHandle

DEB = """
set -e
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/etc
cat > /tmp/p/DEBIAN/control <<E
Package: hello-box
Version: 1
Architecture: all
Maintainer: a <a@b.c>
Description: x
E
printf '#!/bin/sh\\necho hello from a package\\n' > /tmp/p/usr/bin/hello-box
printf '#!/bin/sh\\nchown nobody /etc/hello-box && chmod 4711 /etc/hello-box' > /tmp/p/DEBIAN/postinst
echo x > /tmp/p/etc/hello-box
chmod 755 /tmp/p/usr/bin/hello-box /tmp/p/DEBIAN/postinst
dpkg-deb --root-owner-group -b /tmp/p /tmp/p.deb > /dev/null
dpkg -i /tmp/p.deb > /tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
hello-box; stat -c '%U %a' /etc/hello-box; dpkg -s hello-box | grep Status
dpkg -r hello-box > /dev/null 2>&1; test ! -e /usr/bin/hello-box
"""
GIT = """
set -e
cd /work; git init -q -b main p; cd p; echo a > f; git add f
git -c user.name=a -c user.email=a@b commit -qm one; git checkout -qb x; git log --format=%s
"""


@pytest.fixture(scope="module")
def one(lab: Lab) -> BoxHandle:
    """A box."""
    return lab.box()


@pytest.mark.root
def test_root_of_a_box_is_root_in_it(lab: Lab, one: BoxHandle) -> None:
    own = "touch /work/f && chown nobody /work/f && stat -c %U /work/f"
    other = "su nobody -s /bin/sh -c 'id -un; echo x 2> /dev/null > /work/g || echo no'"
    assert lab.sh(one.key, f"{own} && {other}").split() == ["nobody", "nobody", "no"]


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("dpkg"), reason="no dpkg on this machine")
def test_a_package_can_be_installed_and_removed(lab: Lab, one: BoxHandle) -> None:
    said = lab.sh(one.key, DEB)
    assert said.splitlines() == ["hello from a package", "nobody 4711", "Status: install ok installed"]


def test_git_works(lab: Lab, one: BoxHandle) -> None:
    assert lab.sh(one.key, GIT) == "one"


@pytest.mark.skipif(not shutil.which("node", path="/usr/bin"), reason="no node in /usr")
def test_node_works(lab: Lab, one: BoxHandle) -> None:
    code = (
        "const say = () => require('child_process').execFileSync('echo', ['node']).toString().trim();"
        "new (require('worker_threads').Worker)('', {eval: true})"
        ".on('exit', () => console.log(say(), require('os').cpus().length > 0))"
    )
    assert lab.exec(one.key, "node", "-e", code).stdout.decode().split() == ["node", "true"]


def test_python_works(lab: Lab, one: BoxHandle) -> None:
    code = (
        "import multiprocessing, threading, ssl, socket\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "with multiprocessing.get_context('fork').Pool(2) as p: print(sum(p.map(abs, [-1, -2])))\n"
        "print(len(ssl.create_default_context().get_ca_certs()) > 0, socket.gethostbyname('localhost'))"
    )
    done = lab.exec(one.key, "python3", "-c", code)
    assert done.stdout.decode().split() == ["thread", "3", "True", "127.0.0.1"], done.stderr


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux on this machine")
def test_tmux_works(lab: Lab, one: BoxHandle) -> None:
    work = (
        "tmux -S /tmp/t new-session -d -x 80 -y 24 'echo in tmux; tty; sleep 60'; "
        "for i in $(seq 200); do tmux -S /tmp/t capture-pane -p | grep -q dev/pts && break; sleep 0.1; done; "
        "tmux -S /tmp/t capture-pane -p; tmux -S /tmp/t kill-server"
    )
    assert lab.sh(one.key, work).split()[:3] == ["in", "tmux", "/dev/pts/0"]


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler on this machine")
def test_a_program_can_be_compiled(lab: Lab, one: BoxHandle) -> None:
    source = "printf '#include <stdio.h>\\nint main(){puts(\"built\");}' > /tmp/b.c"
    assert lab.sh(one.key, f"{source} && gcc /tmp/b.c -o /work/b && /work/b") == "built"


def test_what_a_box_changes_is_its_own_and_the_golden_stays(lab: Lab, one: BoxHandle) -> None:
    lab.sh(one.key, "mkdir -p /work/deep/er && mv /work/deep /work/moved && echo 1 > /work/moved/er/f")
    lab.sh(one.key, "echo mine > /etc/profile && rm /etc/nsswitch.conf && ln -s f /root/l")
    other = lab.box()
    assert "thopter" in lab.sh(other.key, "cat /etc/profile")
    assert lab.sh(other.key, "test -e /etc/nsswitch.conf; ls /work") == ""
    assert lab.sh(one.key, "cat /work/moved/er/f /etc/profile").split() == ["1", "mine"]


def test_a_box_knows_its_name(lab: Lab, one: BoxHandle) -> None:
    look = "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))"
    said = lab.exec(one.key, "python3", "-c", look).stdout.decode().split()
    assert said == ["b" + one.key[4:], "127.0.0.1"]
    assert lab.sh(one.key, "cat /etc/hostname") == "b" + one.key[4:]


def test_low_ports_can_be_used(lab: Lab, one: BoxHandle) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 80)); print(s.getsockname()[1])"
    assert lab.exec(one.key, "python3", "-c", code).stdout.strip() == b"80"
