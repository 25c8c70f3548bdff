"""A GitHub App end to end: its key by the command line, a private repository, and a push out of the box."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from canary_hunt import Hunt
from e2e_lab import Lab, lab

sys.path.append(str(Path(__file__).parents[1] / "gateway"))  # the small GitHub

from github_emulator import github, new_key
from upstream_rig import secret_in_processes

REPO, REF = "acme/proj", "refs/heads/thopter/bee"
POLICY = """
default = "team"
[policies.team]
extends = "default"
[policies.team.git]
push = "upstream"
credential = "forge"
[policies.team.credentials.forge]
secret = "git.app"
hosts = ["localhost"]
"""


def _holders(folder: Path, text: str) -> set[str]:
    hunt = Hunt(text)
    hunt.tree(folder)
    assert hunt.looked > 1_000_000
    return {Path(where).name for where in hunt.hits}


@pytest.mark.battery("G10")
def test_a_box_pushes_to_a_private_repository_by_an_app_whose_key_stays_in_the_hub(tmp_path: Path) -> None:
    with lab("demo") as made:
        seed = made.repo("seed")
        bare = made.folder / "up" / f"{REPO}.git"
        made.git(seed, "clone", "-q", "--bare", str(seed), str(bare))
        made.git(bare, "config", "http.receivepack", "true")
        key, public = new_key()
        with github(made.folder / "up", tmp_path) as (address, ca, server):
            server.apps, server.installed = {"77": public}, {REPO: (5, "77")}
            made.env["GIT_SSL_CAINFO"] = str(ca)
            _by_the_command_line(made, key)
            made.run("create", "bee", "--repo", f"{address}/{REPO}.git")
            script = "exec 2>&1; echo x > x; git add -A; git commit -qm x; git push; env"
            said = made.run("exec", "-n", "bee", "--", "bash", "-lc", script).stdout
            head = made.run("exec", "-n", "bee", "--", "git", "rev-parse", "HEAD").stdout.strip()
            assert f"upstream has it: thopter/bee at {head[:12]}" in said
            assert made.git(bare, "rev-parse", REF) == head
            (token,) = server.issued
            assert set(server.given) == {f"x-access-token:{token}"} and server.seen == []
            line = key.splitlines()[6]
            assert token not in said and line not in said and not secret_in_processes(line)
            assert _holders(made.folder, token) == set()
            assert _holders(made.folder, line) == {"secrets.json"}
            server.installed = {}
            gone = made.run("run", "--name", "bat", "--repo", f"{address}/acme/other.git", "hi", check=False)
            assert gone.returncode != 0
            assert "GitHub App 77 is not installed on acme/other" in gone.stdout + gone.stderr


def _by_the_command_line(made: Lab, key: str) -> None:
    policy = made.folder / "config/policy.toml"
    policy.parent.mkdir(exist_ok=True)
    policy.write_text(POLICY)
    refused = made.run("secrets", "set", "git.app", "--github-app", "77", stdin="no key", check=False)
    assert refused.returncode == 2 and "no private key in PEM form" in refused.stderr
    wrong = made.run("secrets", "set", "notify.x", "--github-app", "77", stdin=key, check=False)
    assert wrong.returncode == 2 and "takes no GitHub App" in wrong.stderr
    made.run("secrets", "set", "git.app", "--github-app", "77", stdin=key)
    bound = made.run("secrets", "bind", "git.app", "--host", "example.com", check=False)
    assert bound.returncode == 2 and "never sent anywhere" in bound.stderr
