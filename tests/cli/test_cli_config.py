"""Settings on the command line: where they come from, and that a file is never damaged."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cli_support import Cli

from thopter.kit.settings import SETTINGS

BEFORE = """# my settings
owner = "ada"   # that's me

[agents.claude]
# pinned on purpose
version = "2.1.300"
[box]
pids = 100
"""


def config(cli: Cli) -> Path:
    return cli.config / "config.toml"


def write(cli: Cli, text: str) -> None:
    cli.config.mkdir(mode=0o700, exist_ok=True)
    config(cli).write_text(text)


def test_setting_one_leaves_everything_else_as_it_was(cli: Cli):
    write(cli, BEFORE)
    assert cli.run("config", "set", "box.pids", "200").out == "box.pids = 200\n"
    assert config(cli).read_text() == BEFORE.replace("100", "200")
    assert cli.run("config", "set", "agents.claude.model", "opus").code == 0
    assert config(cli).read_text().startswith(BEFORE.partition("version")[0])
    assert cli.run("config", "unset", "agents.claude.model").out == 'agents.claude.model = "" (default)\n'
    assert cli.run("config", "get", "box.pids").out == "200\n"
    assert stat.S_IMODE(config(cli).stat().st_mode) == 0o600


@pytest.mark.parametrize("key", [s.key for s in SETTINGS])
def test_every_setting_can_be_set_to_its_default_and_read_back(cli: Cli, key: str):
    spec = next(s for s in SETTINGS if s.key == key)
    value = str(spec.default).lower() if isinstance(spec.default, bool) else str(spec.default)
    done = cli.run("config", "set", "--", key, value)
    assert done.code == 0, done
    shown = cli.run("config", "get", key, "--json").json()
    assert shown == spec.default and type(shown) is type(spec.default)


def test_it_says_where_each_value_comes_from_and_what_wins(cli: Cli):
    write(cli, 'owner = "file"\n[box]\npids = 9\nmemory_mb = 6\n')
    (cli.cwd / "thopter.toml").write_text("[box]\npids = 7\ncpus = 1.5\n")
    deep = cli.cwd / "a" / "b"
    deep.mkdir(parents=True)
    done = cli.run("config", "show", "--origin", "--json", env={"THOPTER_OWNER": "env"}, cwd=deep)
    found = done.json()
    assert found["owner"] == {"value": "env", "origin": "THOPTER_OWNER"}
    assert found["box.pids"] == {"value": 7, "origin": str(cli.cwd / "thopter.toml")}
    assert found["box.memory_mb"] == {"value": 6, "origin": str(config(cli))}
    assert found["provider"] == {"value": "local", "origin": "default"}
    text = cli.run("config", "show", "--origin", cwd=deep).out
    assert [line.split()[:3] for line in text.splitlines() if line.startswith("box.cpus")] == [
        ["box.cpus", "1.5", str(cli.cwd / "thopter.toml")]
    ]
    assert cli.run("config", "show").out.count("\n") == len(SETTINGS)


def test_a_value_that_does_not_take_effect_says_so(cli: Cli):
    done = cli.run("config", "set", "owner", "me", env={"THOPTER_OWNER": "other"})
    assert done.code == 0 and "THOPTER_OWNER says other, and that counts more" in done.err


def test_a_project_file_beyond_the_repository_does_not_count(cli: Cli):
    (cli.cwd / "thopter.toml").write_text('owner = "outside"\n')
    inner = cli.cwd / "repo" / "src"
    inner.mkdir(parents=True)
    (cli.cwd / "repo" / ".git").mkdir()
    assert cli.run("config", "get", "owner", cwd=inner).out == '""\n'


@pytest.mark.parametrize(
    "args",
    [("set", "nonsense", "1"), ("get", "nonsense"), ("unset", "nonsense"), ("set", "box.pids", "many"),
     ("set", "box.pids", "-1"), ("set", "provider", "cloud"), ("set", "hub.log_level", "loud")],
)  # fmt: skip
def test_what_can_not_be_a_setting_is_refused_and_writes_nothing(cli: Cli, args: tuple[str, ...]):
    done = cli.run("config", args[0], "--", *args[1:])
    assert done.code == 2 and done.err.startswith("thopter: ") and not config(cli).exists()


@pytest.mark.parametrize("text", ["x = 1\nthis is not toml\n", 'a = "\n', "\xff\xfe", "[box\n"])
def test_a_file_that_can_not_be_read_is_never_written_over_and_the_line_is_told(cli: Cli, text: str):
    cli.config.mkdir(mode=0o700)
    config(cli).write_bytes(text.encode("latin-1"))
    for args in (("config", "set", "owner", "x"), ("config", "show"), ("use", "x"), ("use", "--clear"),
                 ("setup", "--yes", "--model", "m"), ("run", "do it")):  # fmt: skip
        done = cli.run(*args)
        assert done.code == 2, (args, done)
        assert str(config(cli)) in done.err and ("line" in done.err or "utf-8" in done.err)
    assert config(cli).read_bytes() == text.encode("latin-1")


def test_a_setting_where_a_table_should_be_is_an_error(cli: Cli):
    write(cli, 'owner = "x"\n')
    (cli.config / "config.toml").write_text("box = 5\n")
    done = cli.run("config", "set", "box.pids", "5")
    assert done.code == 2 and "Traceback" not in done.err and config(cli).read_text() == "box = 5\n"


def test_a_symlink_of_a_dotfile_manager_stays_one(cli: Cli):
    real = cli.root / "dotfiles.toml"
    real.write_text("# mine\n")
    cli.config.mkdir(mode=0o700)
    config(cli).symlink_to(real)
    assert cli.run("config", "set", "owner", "x").code == 0
    assert config(cli).is_symlink() and real.read_text() == '# mine\nowner = "x"\n'


def test_many_at_once_lose_nothing(cli: Cli):
    keys = ["owner", "agents.claude.model", "hub.log_level", "box.pids", "box.memory_mb", "box.disk_mb"]
    values = ["me", "m", "debug", "1", "2", "3"]
    codes: list[int] = []
    writers = [
        threading.Thread(target=lambda k=k, v=v: codes.append(cli.run("config", "set", k, v).code))
        for k, v in zip(keys, values, strict=True)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert codes == [0] * len(keys)
    for key, value in zip(keys, values, strict=True):
        assert cli.run("config", "get", key).out == value + "\n"


def test_use_shows_and_clears_the_default(cli: Cli):
    assert cli.run("use").out == "No default thopter.\n"
    write(cli, 'default_thopter = "flag"\n')
    assert cli.run("use").out == "flag\n"
    assert cli.run("use", "--clear").code == 0 and cli.run("use").out == "No default thopter.\n"


def test_the_folder_is_private(cli: Cli):
    old = os.umask(0)
    try:
        assert cli.run("config", "set", "owner", "x").code == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE(cli.config.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in cli.config.iterdir()} == {0o600}


def test_a_full_disk_leaves_the_old_file(cli: Cli):
    write(cli, "# " + "x" * 5000 + "\n")
    script = 'ulimit -f 1; trap "" XFSZ; exec "$@"'
    from cli_support import THOPTER

    done = subprocess.run(
        ["bash", "-c", script, "bash", *THOPTER, "config", "set", "owner", "me"],
        env=cli.env,
        capture_output=True,
    )
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert config(cli).read_text() == "# " + "x" * 5000 + "\n"
    assert sorted(p.name for p in cli.config.iterdir()) == ["config.lock", "config.toml"]
