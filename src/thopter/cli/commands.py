"""The table of commands: what there is, where it lives, and one line on each; nothing here is imported."""

from __future__ import annotations

from typing import Any

import click

# section -> (command, module:attribute, short help)
SECTIONS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Start",
        (
            ("run", "run:run", "Start an agent on a task, in a box of its own."),
            ("create", "run:create", "Make a box with an agent that waits for its first message."),
            ("fork", "fork:fork", "New thopters with the files and the conversation of one."),
            ("snapshot", "snapshot:snapshot", "Saved boxes that new thopters start from."),
            ("setup", "setup:setup", "Say which model endpoint and credential agents use."),
        ),
    ),
    (
        "Look",
        (
            ("status", "status:status", "Show all thopters, or one and the evidence of its state."),
            ("dashboard", "dashboard:dashboard", "The page in your browser or on your phone: log in."),
            ("top", "top:top", "A screen to keep open: all thopters, live, with keys to act."),
            ("tail", "tail:tail", "Show the conversation, -f as it happens."),
            ("log", "log:log", "Print the whole conversation, as text, Markdown, JSON or a page."),
            ("wait", "life:wait", "Wait until a thopter is done, waiting, or in another state."),
            ("note", "labels:note", "Put a note of yours on a thopter."),
            ("statusline", "labels:statusline", "Set the line shown as its task."),
            ("egress", "egress:egress", "What a box reached and was refused; allow it more."),
            ("budget", "budget:budget", "What a thopter may spend of models, and has; raise it."),
            ("cost", "cost:cost", "Show the tokens and the money that runs used."),
            ("check", "life:check", "Is its tmux there, is its agent running?"),
            ("screen", "life:screen", "Print what its agent's screen shows now."),
            ("logs", "hub:logs", "Show the hub's log, or a thopter's."),
        ),
    ),
    (
        "Talk",
        (
            ("tell", "tell:tell", "Say something to the agent; answers with a receipt."),
            ("ask", "ask:ask", "Say something, wait for the turn's end, print the answer."),
            ("queue", "queue:queue", "Show, drop or change messages that wait for the agent."),
            ("approvals", "approve:approvals", "Show what agents ask you."),
            ("approve", "approve:approve", "Allow what an agent asks for, or answer its question."),
            ("deny", "approve:deny", "Refuse what an agent asks for, and say why."),
            ("interrupt", "tell:interrupt", "Stop what the agent is doing now."),
            ("attach", "terminal:attach", "The agent's own screen, in tmux."),
            ("ssh", "ssh:ssh", "A shell in the box; -L, -R and -D forward ports."),
            ("exec", "terminal:exec_", "Run one command in the box, exactly as given."),
            ("port", "port:port", "Show a port of the box at a loopback URL here."),
            ("ssh-config", "ssh:ssh_config", "Make 'ssh NAME.thopter', scp and editors work."),
            ("ssh-proxy", "ssh:ssh_proxy", "Carry one ssh connection (OpenSSH's ProxyCommand)."),
        ),
    ),
    (
        "Take home",
        (
            ("diff", "work:diff", "Show the work as a diff."),
            ("pull", "work:pull", "Bring the work into your clone, as a branch of its own."),
            ("push", "push:push", "Bring its branch to where the repository came from."),
            ("refresh", "refresh:refresh", "Let its box fetch what is new in its repositories."),
            ("done", "labels:done", "Declare the work of a thopter done, or not."),
        ),
    ),
    (
        "Sleep and go back",
        (
            ("suspend", "sleep:suspend", "Put a thopter to sleep, in memory or on the disk."),
            ("resume", "sleep:resume", "Let it go on with its conversation, from sleep or death."),
            ("restart", "sleep:restart", "End the agent and start it again in its box."),
            ("stop", "sleep:stop", "End the agent; its box stays."),
            ("keepalive", "sleep:keepalive", "Begin the time anew after which it is put to sleep."),
            ("checkpoint", "fork:checkpoint", "Save this moment of a thopter."),
            ("checkpoints", "fork:checkpoints", "List the moments it can go back to."),
            ("rewind", "fork:rewind", "Take a thopter back to a checkpoint."),
        ),
    ),
    (
        "End",
        (
            ("freeze", "life:freeze", "Stop every process of a box, to go on later."),
            ("thaw", "life:thaw", "Let a frozen box go on."),
            ("destroy", "life:destroy", "Remove thopters for good."),
        ),
    ),
    (
        "House",
        (
            ("hub", "hub:hub", "The hub itself: start, stop, restart, status, logs."),
            ("doctor", "doctor:doctor", "Check this machine, and say what to change."),
            ("notify", "notify:notify", "Notes to your phone: test, list, on, off, targets."),
            ("reauth", "setup:reauth", "Replace the model credential, and check it."),
            ("repos", "repos:repos", "Repositories you often use, by a short name."),
            ("env", "env:env", "Variables that new boxes get (agents can read them)."),
            ("secrets", "secrets:secrets", "What is kept outside boxes, and where it may be used."),
            ("token", "token:token", "Who may call the hub over TCP, and what for."),
            ("policy", "policy:policy", "What boxes may reach: show, check, test, explain."),
            ("audit", "audit:audit", "Who decided and did what; is the record of it whole?"),
            ("pool", "pool:pool", "Boxes kept ready, their agent started: set, list, clear."),
            ("config", "config:config", "Read and change settings."),
            ("use", "config:use", "Choose the thopter that '.' means."),
            ("completion", "about:completion", "Print completion for bash, zsh or fish."),
            ("version", "about:version", "Show versions."),
            ("help", "about:help_", "Show help on a command."),
        ),
    ),
)

# What Thopter Swarm called them, and what fingers type.
ALIASES = {
    "ls": "status",
    "list": "status",
    "rm": "destroy",
    "kill": "destroy",
    "shutdown": "destroy",
}

TABLE = {name: (where, text) for _, rows in SECTIONS for name, where, text in rows}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command, by its name or an alias."""
        return load(ALIASES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with suggestions for a command that does not exist."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing and not name.startswith("-"):
            raise click.UsageError(f"there is no command {name[:40]!r}{_similar(name)}", ctx)
        if command is None:
            return super().resolve_command(ctx, args)
        return command.name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, without loading them."""
        for title, rows in SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, _, text in rows], col_max=12)


def load(name: str) -> click.Command | None:
    """Import and return the command ``name``, or None."""
    if name not in TABLE:
        return None
    from importlib import import_module

    module, _, attribute = TABLE[name][0].partition(":")
    found: Any = getattr(import_module(f"thopter.cli.{module}"), attribute)
    assert isinstance(found, click.Command)
    return found


def _similar(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, [*TABLE, *ALIASES], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
