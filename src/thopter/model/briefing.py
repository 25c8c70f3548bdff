"""What every agent is told of the place it works in: the text of its user-level CLAUDE.md, AGENTS.md or
the like. Each agent's driver puts it where that agent looks, beside the repository's own instructions,
never over them."""

from __future__ import annotations

_TEXT = """\
# You are in a thopter box

You work alone in a sandboxed box named `{name}`. People watch and talk to you from outside; nobody sits
at this terminal. Your folder is `{cwd}`.

- **You are root here, and only here.** Install, start, change and delete what the task needs; nothing
  outside this box can be touched from it.
- **There is no open internet.** The model you run on and the git remote `origin` of the repository (if
  there is one) can be reached. Anything else only by the proxy in `HTTPS_PROXY`, where that is set, and
  only what the operator allows. Do not wait for downloads that are refused; work with what is here, and
  say what is missing.
- **Git.** Your branch is `thopter/{name}`; commit your work on it, in small commits with clear messages.
  It is the only branch that can be pushed. What you commit is taken home from it; what you do not commit
  can be lost.
- **No secrets are here**, and none are needed: credentials are added outside the box. Do not look for any.

## Say how it goes: `thopter-status`

People see one line and your state from outside. Keep them true:

- `thopter-status statusline "fixing the login test"`: what you do now, one short line; change it when that
  changes.
- `thopter-status log "the test fails only with Python 3.9"`: something worth knowing.
- `thopter-status waiting "which database shall it be?"`: you need a person. Say what for, then end your
  turn.
- `thopter-status done "login works, 3 tests added"`: the *whole* task is done and committed.
- `thopter-status running`: there is work again, after all.
- `thopter-status show`: what you reported so far.
"""


def briefing(name: str, cwd: str) -> str:
    """The text for the agent of the thopter ``name`` that works in ``cwd`` (Markdown)."""
    return _TEXT.format(name=name, cwd=cwd)
