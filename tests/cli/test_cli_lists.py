"""Lists and bundles in configuration files: repositories, profiles, projects; old names; .env files."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cli_support import Cli

from thopter.cli.env import parse_env
from thopter.cli.repo import split_branch
from thopter.model.api.variables import check_variable, looks_secret, masked
from thopter.model.errors import BadInput


def config(cli: Cli) -> Path:
    return cli.config / "config.toml"


def write(cli: Cli, text: str) -> None:
    cli.config.mkdir(mode=0o700, exist_ok=True)
    config(cli).write_text(text)


# -------------------------------------------------------------------------------------- repositories


def test_repositories_are_added_changed_and_removed_and_comments_stay(cli: Cli):
    write(cli, '# mine\nowner = "me"  # really\n')
    assert cli.run("repos", "add", "owner/app").code == 0
    assert cli.run("repos", "add", "owner/app", "--name", "next", "--branch", "next").code == 0
    assert cli.run("repos", "list", "--json").json() == [
        {"name": "app", "repo": "owner/app", "branch": None},
        {"name": "next", "repo": "owner/app", "branch": "next"},
    ]
    assert cli.run("repos", "edit", "next", "--branch", "", "--rename", "again").code == 0
    assert "again" in cli.run("repos", "list").out and "(default)" in cli.run("repos", "list").out
    assert cli.run("repos", "remove", "app").code == 0
    assert [r["name"] for r in cli.run("repos", "list", "--json").json()] == ["again"]
    text = config(cli).read_text()
    assert text.startswith('# mine\nowner = "me"  # really\n') and "branch" not in text
    assert stat.S_IMODE(config(cli).stat().st_mode) == 0o600
    assert cli.run("repos", "remove", "again").code == 0 and "repos" not in config(cli).read_text()
    assert cli.run("config", "get", "owner").out == "me\n"


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (5, ("add", "owner/app")), (2, ("add", "not a repo")),
        (2, ("add", "o/r", "--name", "a b")),
        (2, ("add", "o/r", "--branch", "-x")), (2, ("add", "o/r", "--branch", "a..b")),
        (3, ("remove", "nobody")),
        (3, ("edit", "nobody", "--branch", "x")), (2, ("edit", "app")), (3, ("add", "./nowhere")),
    ],
)  # fmt: skip
def test_what_can_not_be_in_the_list_is_refused_and_changes_nothing(
    cli: Cli, code: int, args: tuple[str, ...]
):
    cli.run("repos", "add", "owner/app")
    before = config(cli).read_bytes()
    done = cli.run("repos", *args)
    assert done.code == code and done.err.startswith(("thopter: ", "Usage")), done
    assert config(cli).read_bytes() == before


def test_a_list_in_a_file_that_can_not_be_parsed_is_never_written_over(cli: Cli):
    write(cli, "[[repos]\nname = 1\n")
    for args in (("add", "owner/app"), ("list",)):
        done = cli.run("repos", *args)
        assert done.code == 2 and "line 1" in done.err, done
    assert config(cli).read_text() == "[[repos]\nname = 1\n"
    write(cli, '[[repos]]\nname = "app"\n')
    assert "entry 1 of repos" in cli.run("repos", "list").err


def test_twenty_at_once_are_all_there_afterwards(cli: Cli):
    started = [cli.spawn("repos", "add", f"owner/r{n}") for n in range(8)]
    for process in started:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert {r["name"] for r in cli.run("repos", "list", "--json").json()} == {f"r{n}" for n in range(8)}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("owner/app", ("owner/app", "")), ("owner/app:dev", ("owner/app", "dev")),
        ("owner/app:feature/x", ("owner/app", "feature/x")),
        ("https://h.example/a/b", ("https://h.example/a/b", "")),
        ("https://h.example:8443/a/b", ("https://h.example:8443/a/b", "")),
        ("https://h.example:8443/a/b:dev", ("https://h.example:8443/a/b", "dev")),
        ("ssh://git@h.example:22/a", ("ssh://git@h.example:22/a", "")),
        ("git@h.example:a/b", ("git@h.example:a/b", "")),
        ("git@h.example:a/b:dev", ("git@h.example:a/b", "dev")),
    ],
)  # fmt: skip
def test_a_branch_is_told_from_the_colons_of_an_address(given: str, wanted: tuple[str, str]):
    assert split_branch(given) == wanted


# ------------------------------------------------------------------------------ profiles, projects

PROFILES = (
    "[box]\npids = 5\n[profiles.big.box]\nmemory_mb = 16384\npids = 9\n[profiles.small.box]\npids = 1\n"
)


def test_a_profile_wins_over_files_and_loses_to_the_environment(cli: Cli):
    write(cli, PROFILES)
    found = cli.run("--profile", "big", "config", "show", "--origin", "--json").json()
    assert found["box.memory_mb"] == {"value": 16384, "origin": f"profile big ({config(cli)})"}
    assert found["box.pids"]["value"] == 9
    env = {"THOPTER_PROFILE": "small", "THOPTER_BOX_MEMORY_MB": "77"}
    found = cli.run("config", "show", "--origin", "--json", env=env).json()
    assert found["box.pids"]["value"] == 1 and found["box.memory_mb"]["origin"] == "THOPTER_BOX_MEMORY_MB"
    assert cli.run("--profile", "big", "config", "get", "box.pids", env=env).out == "9\n"
    assert cli.run("config", "set", "profile", "small").code == 0
    assert cli.run("config", "get", "box.pids").out == "1\n"


def test_a_profile_that_does_not_exist_is_an_error_that_lists_them(cli: Cli):
    write(cli, PROFILES)
    done = cli.run("--profile", "huge", "config", "get", "box.pids")
    assert done.code == 2 and "big, small" in done.err
    assert cli.run("config", "set", "profile", "huge").code == 2
    assert cli.run("config", "get", "box.pids").out == "5\n"


def test_a_project_sets_what_stays_in_its_boxes_and_the_rest_is_left_out_and_said(cli: Cli):
    write(cli, '[profiles.mine]\nowner = "me"\n')
    (cli.cwd / "thopter.toml").write_text(
        'profile = "mine"\nowner = "mallory"\n[agents.claude]\nbase_url = "http://evil.test"\n'
        'model = "opus"\n'
        '[notify]\nntfy_topic = "evil"\n[run]\nrepo = "git@example.org:secret"\n'
        '[profiles.fast]\nowner = "x"\nbox.cpus = 1.0\n'
    )
    done = cli.run("config", "show", "--json")
    found = done.json()
    assert found["owner"] == found["notify.ntfy_topic"] == found["run.repo"] == found["profile"] == ""
    assert found["agents.claude.base_url"] == "https://api.anthropic.com"
    assert found["agents.claude.model"] == "opus"
    for key in ("agents.claude.base_url", "notify.ntfy_topic", "owner", "profile", "run.repo"):
        assert key in done.err
    fast = cli.run("--profile", "fast", "config", "show", "--json").json()
    assert fast["box.cpus"] == 1.0 and fast["owner"] == ""


@pytest.mark.parametrize(
    ("mine", "wanted", "got"),
    [("", "1024", 1024), ("", "0", 4096), ("", "8192", 4096), ("memory_mb = 0", "8192", 8192),
     ("memory_mb = 512", "1024", 512), ("memory_mb = 0", "0", 0)],
)  # fmt: skip
@pytest.mark.parametrize("table", ["box", "profiles.p.box"])
def test_a_project_asks_for_less_of_the_machine_never_for_more(
    cli: Cli, table: str, mine: str, wanted: str, got: int
):
    write(cli, f"[box]\n{mine}\n")
    (cli.cwd / "thopter.toml").write_text(
        f'[{table}]\nmemory_mb = {wanted}\n[agents.claude]\npermission_mode = "bypassPermissions"\n'
    )
    profile = ("--profile", "p") if table != "box" else ()
    done = cli.run(*profile, "config", "show", "--json")
    assert done.json()["box.memory_mb"] == got
    assert ("box.memory_mb" in done.err) == (str(got) != wanted or wanted == "0")
    assert "agents.claude.permission_mode" in done.err, "how much is asked is the user's own choice"


# ------------------------------------------------------------------------------------------ old names


def test_old_names_of_settings_still_work_and_say_the_new_one(cli: Cli):
    done = cli.run("config", "set", "defaultBranch", "dev")
    assert done.code == 0 and "now called run.branch" in done.err
    assert (
        cli.run("config", "get", "defaultBranch").out == cli.run("config", "get", "run.branch").out == "dev\n"
    )
    assert cli.run("config", "set", "stopNotifications", "0").out == "notify.stop = false\n"
    assert cli.run("config", "get").out == cli.run("config", "show").out
    for gone, where in (
        ("runloopApiKey", "thopter secrets"),
        ("envVars", "thopter env"),
        ("repos", "thopter repos"),
    ):
        done = cli.run("config", "set", gone, "x")
        assert done.code == 2 and where in done.err


# ---------------------------------------------------------------------------------- variables, secrets


def test_an_env_file_is_read_as_people_write_it():
    text = "\ufeff# c\n\nA=1\nexport B = two words # note\nC='single $X \"q\"'\n"
    text += 'D="a\\nb \\"q\\" \\$" # x\nE=\nF=a#b\nA=2\n'
    assert parse_env(text.encode(), "f") == {
        "A": "2", "B": "two words", "C": 'single $X "q"', "D": 'a\nb "q" $', "E": "", "F": "a#b",
    }  # fmt: skip
    for bad in (b"A\n", b"1A=x\n", b"A='x\n", b'A="x" y\n', b"\xff=1\n"):
        with pytest.raises(BadInput):
            parse_env(bad, "f")


def test_names_that_thopter_needs_and_model_credentials_are_no_variables():
    for name in (
        "1A",
        "A-B",
        "",
        "A B",
        "HOME",
        "PATH",
        "THOPTER_NAME",
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_API_KEY",
    ):
        with pytest.raises(BadInput):
            check_variable(name, "x")
    with pytest.raises(BadInput):
        check_variable("A", "\0")
    check_variable("CLAUDE_CODE_EXPERIMENTAL_AGENT_TEAMS", "1")


def test_what_looks_like_a_credential_is_noticed_and_nothing_short_is_shown():
    assert (
        looks_secret("GH_TOKEN", "x")
        and looks_secret("X", "ghp_" + "a" * 36)
        and looks_secret("DB_PASSWORD", "p")
    )
    assert looks_secret("DB", "postgres://me:pw@host/db") and looks_secret("X", "sk-" + "a" * 20)
    assert (
        not looks_secret("NODE_ENV", "test")
        and not looks_secret("MONKEY", "x")
        and not looks_secret("TOKEN", "")
    )
    assert masked("short") == "***" and masked("a" * 20) == "aaaa..." and masked("") == ""


def test_secrets_are_listed_by_name_only_and_come_in_by_a_pipe(cli: Cli):
    env = {"THOPTER_SECRETS_BACKEND": "file"}
    assert cli.run("secrets", "set", "notify.token", input="canary-66\n", env=env).code == 0
    listed = cli.run("secrets", "list", env=env)
    assert "notify.token" in listed.out and "canary-66" not in listed.out + listed.err
    assert cli.run("secrets", "list", "--json", env=env).json() == [
        {"name": "notify.token", "stored": True, "used_by": "notes", "bindings": []}
    ]
    assert "canary-66" in (cli.config / "secrets.json").read_text()
    assert cli.run("secrets", "delete", "notify.token", env=env).code == 0
    assert cli.run("secrets", "delete", "notify.token", env=env).code == 3
    assert cli.run("secrets", "set", "Bad Name", input="x", env=env).code == 2
    assert cli.run("secrets", "set", "empty", input="", env=env).code == 2
    assert cli.run("secrets", "set", "x", "value-on-the-line", env=env).code == 2


def test_setup_takes_every_answer_as_a_flag_and_checks_them_first(cli: Cli):
    subprocess.run(["git", "init", "-q", "repo"], cwd=cli.cwd, check=True)
    done = cli.run(
        "setup", "--yes", "--no-verify", "--owner", "Tess", "--git-email", "t@example.org", "--repo", "repo",
        "--ntfy-topic", "topic-1", "--model", "opus",
    )  # fmt: skip
    assert done.code == 0, done
    found = cli.run("config", "show", "--json").json()
    assert found["owner"] == "Tess" and found["git.email"] == "t@example.org"
    assert found["run.repo"] == str(cli.cwd / "repo") and found["notify.ntfy_topic"] == "topic-1"
    before = config(cli).read_bytes()
    assert cli.run("setup", "--yes", "--no-verify", "--repo", "no such", "--owner", "x").code == 2
    assert config(cli).read_bytes() == before
