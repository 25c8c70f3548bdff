"""Settings: one table of what exists, read from defaults, files and environment with their origin.

Precedence, strongest first: flag > ``THOPTER_*`` > chosen profile > project ``thopter.toml`` > user config
> default. A file that can't be parsed is never written over and never ignored: it is an error with the
line. A project's file may come from anywhere with a clone: what it may set is :data:`PROJECT_KEYS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from thopter.model.errors import BadInput
from thopter.model.notes import CHOICES as NOTE_KINDS


class Setting(Struct, frozen=True):
    """One setting: dotted ``key``, default (its type is the setting's type), and its sentence."""

    key: str
    default: Any
    doc: str
    choices: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()  # a comma-separated list of these

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return "THOPTER_" + self.key.upper().replace(".", "_").replace("-", "_")


SETTINGS: tuple[Setting, ...] = (
    Setting("default_thopter", "", "The thopter that '.' means in every command."),
    Setting("profile", "", "The profile (table profiles.NAME of a configuration file) that counts."),
    Setting("run.repo", "", "The repository when none is named: folder, URL, owner/repo, or one of repos."),
    Setting("run.branch", "", "The branch that run.repo is read from; empty means its default one."),
    Setting("run.checkouts", "", "Further repositories of every thopter: REPO[:BRANCH], spaces between."),
    Setting("owner", "", "Who owns new thopters; empty means git's user.name, else the login."),
    Setting("git.email", "", "The address of commits made in boxes; empty means git's user.email."),
    Setting(
        "git.refresh_minutes", 15,
        "How often mirrors that boxes use are refreshed from their repositories; 0 means never.",
    ),
    Setting("provider", "local", "Where boxes are made.", ("local",)),
    Setting("agents.default", "claude", "The agent used when none is named.", ("claude",)),
    Setting("agents.claude.version", "2.1.329", "Claude Code version put into the golden box."),
    Setting("agents.claude.base_url", "https://api.anthropic.com", "Model endpoint of Claude Code."),
    Setting(
        "agents.claude.token_url", "https://platform.claude.com/v1/oauth/token",
        "Where a subscription login of Claude Code is renewed ('thopter reauth --login-file').",
    ),
    Setting(
        "agents.claude.client_id", "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
        "The OAuth client that such a login was made by; the default is Claude Code itself.",
    ),
    Setting("agents.claude.model", "", "Model name passed to Claude Code; empty means its own default."),
    Setting(
        "agents.claude.permission_mode", "bypassPermissions",
        "Permission mode of Claude Code inside a box.",
        ("bypassPermissions", "acceptEdits", "default", "plan"),
    ),
    Setting(
        "agents.claude.instructions", "",
        "File whose text each new agent gets as its user-level CLAUDE.md, in place of thopter's own; "
        "an absolute path.",
    ),
    Setting(
        "run.limit_over_text", "The rate limit is over. Look at what is already done, then go on.",
        "What an agent that gave up its turn on a rate limit is told when that is over (if run.go_on is on).",
    ),
    Setting(
        "run.budget", "", "What a new thopter may spend when --budget does not say: e.g. 5usd,2h,200turns or "
        "3Mtokens, commas between.",
    ),
    Setting("budget.usd_per_day", 0.0, "Dollars that all your thopters may spend a day (UTC); 0: no limit."),
    Setting("budget.tokens_per_day", 0, "Tokens that they may use a day; 0: no limit."),
    Setting(
        "budget.go_on_text", "Your budget was raised. Look at what is already done, then go on.",
        "What an agent that was stopped by its budget is told when that is raised.",
    ),
    Setting(
        "prices.endpoints", "", "Further model endpoints (HOST[:PORT], commas between) that ask list prices, "
        "such as a proxy of yours.",
    ),
    Setting("policy", "", "Policy of new thopters; empty means the default of policy.toml."),
    Setting("box.memory_mb", 4096, "Memory limit of a box in MiB; 0 means none."),
    Setting("box.pids", 2048, "How many processes a box may have; 0 means no limit."),
    Setting("box.cpus", 2.0, "How many processors a box may use; 0 means no limit."),
    Setting("box.disk_mb", 20480, "How much a box may write in MiB; 0 means no limit."),
    Setting("box.snapshot", "", "The snapshot that new thopters start from; empty means a fresh box."),
    Setting("box.keep_alive", 720, "Minutes until a box that is not at work is put to sleep; 0 means never."),
    Setting("box.idle_timeout", 0, "Minutes of idleness until then; 0 means that idleness is no reason."),
    Setting(
        "box.on_idle", "suspend", "What happens to a box whose time is over.",
        ("freeze", "suspend", "stop", "destroy", "none"),
    ),
    Setting(
        "run.checkpoint", "off", "Save a checkpoint of a thopter at the end of each turn.", ("turn", "off")
    ),
    Setting("run.checkpoints_kept", 20, "How many checkpoints of turns a thopter keeps; 0 means all."),
    Setting(
        "run.revive", "ask", "What a starting hub does with thopters whose processes are gone: resume them, "
        "or show them as lost until you do.", ("auto", "ask"),
    ),
    Setting(
        "run.go_on", True, "Tell an agent that died in the middle of its turn (killed, machine restarted, "
        "put to sleep on the disk) to go on when it is resumed.",
    ),
    Setting(
        "run.go_on_text",
        "Your program was ended in the middle of your work and has been started again. Look at what is "
        "already done, then go on.",
        "What such an agent is told.",
    ),
    Setting(
        "local.isolation", "auto", "How the local provider isolates boxes; auto takes the strongest of the "
        "usual kinds; gvisor and vm are the least that every box shall have.",
        ("auto", "namespaces-idmapped", "namespaces-user", "bubblewrap", "container", "none", "gvisor", "vm"),
    ),
    Setting(
        "local.pool", "auto", "Where boxes of the local provider write: a btrfs image (disk limits, instant "
        "forks) or plain folders; auto takes btrfs where it can be had.", ("auto", "btrfs", "plain"),
    ),
    Setting(
        "local.runsc", "auto", "gVisor's program (of 2024-07-29 or newer), for gVisor boxes; auto takes the "
        "one on PATH, off is none.",
    ),
    Setting(
        "local.criu", "auto", "The CRIU program (4.2 or newer) that forks running processes; auto takes the "
        "one on PATH, off is none.",
    ),
    Setting(
        "local.vm_kernel", "auto", "Where the kernel of virtual machines is: a folder into which a package "
        "with one and busybox-static were unpacked; auto takes this machine's own.",
    ),
    Setting(
        "box.post_create", "", "A shell command run in the work folder of each new box before its agent "
        "starts; when it fails, the box is not made.",
    ),
    Setting("box.post_create_seconds", 900, "How long that command may take."),
    Setting(
        "ssh.server", "auto", "The ssh server that runs in a box for 'ssh NAME.thopter'; auto takes sshd, "
        "else dropbear.", ("auto", "sshd", "dropbear"),
    ),
    Setting(
        "local.import_entries", 500_000, "How many files an imported snapshot may have, at most.",
    ),
    Setting(
        "local.import_bytes", 64 << 30, "How many bytes an imported snapshot may unpack to, at most.",
    ),
    Setting(
        "local.debian_sources", "", "A file in the form of apt's sources.list that 'thopter snapshot build "
        "debian:SUITE' uses; empty: the mirrors of this machine's own apt, or Debian's.",
    ),
    Setting(
        "hub.listen", "", "Address for TCP, e.g. 127.0.0.1:8480; empty means unix socket only. One "
        "that is not loopback needs hub.tls_cert.",
    ),
    Setting("hub.tls_cert", "", "File of the certificate (PEM, with its chain) for https at hub.listen."),
    Setting("hub.tls_key", "", "File of its private key (PEM, mode 0600)."),
    Setting(
        "page.push_hosts", "", "Push services of your own network (HOST:PORT, commas between) that pages may "
        "name; all others must be on the internet.",
    ),
    Setting(
        "page.url", "", "Where your devices reach the page, e.g. https://laptop.example.ts.net: the "
        "address of a tunnel or proxy that leads to hub.listen.",
    ),
    Setting(
        "notify.on",
        "waiting_permission,waiting_question,turn_end,done,failed,stuck,unknown,budget,disk",
        "What you are told of, with commas between; empty for nothing.", parts=NOTE_KINDS,
    ),
    Setting("notify.stop", True, "Whether the end of a turn is told at all (the old stopNotifications)."),
    Setting("notify.ntfy_server", "https://ntfy.sh", "The ntfy server that notes go to."),
    Setting("notify.ntfy_topic", "", "The ntfy topic that notes go to; empty means that ntfy is not used."),
    Setting(
        "notify.priority", "", "Priority of every note; empty: high when you are needed, else default.",
        ("", "min", "low", "default", "high", "max"),
    ),
    Setting("notify.tags", "", "Tags added to those of each kind of note, with commas between."),
    Setting("notify.click", "", "What a tap on a note opens: a URL; {name} in it is the thopter's name."),
    Setting("notify.title", "{name} {what}", "Title of a note; may use {name} {what} {state} {task} {repo}."),
    Setting("notify.text", "{detail}", "Text of a note; {detail} is what is asked, else the last words."),
    Setting(
        "notify.quiet_seconds", 30,
        "No note of a turn's end so soon after a message of yours; 0: always (stopNotificationQuietPeriod).",
    ),
    Setting("notify.when_attached", False, "Whether notes come also while somebody is at its terminal."),
    Setting("notify.stuck_minutes", 10, "After how long without any sign a working agent counts as stuck."),
    Setting("notify.unknown_minutes", 5, "After how long an unknown state is told."),
    Setting("notify.per_hour", 60, "At most this many notes an hour; 0 means no limit."),
    Setting("hub.keep_days", 90, "Days that what is known of destroyed thopters is kept; 0 means for ever."),
    Setting("hub.log_level", "info", "How much the hub logs.", ("debug", "info", "warning", "error")),
)  # fmt: skip

# What a project's thopter.toml may set: nothing that names an endpoint, a credential, a file or a
# repository of this machine, or whom to tell. All of it takes effect inside that project's boxes only.
# A stranger's clone may ask for less of this machine than its user gives, never for more (0 is no limit).
PROJECT_BOUNDS = frozenset({"box.memory_mb", "box.pids", "box.cpus", "box.disk_mb"})
PROJECT_KEYS = PROJECT_BOUNDS | {
    "agents.default", "agents.claude.model", "box.post_create", "box.post_create_seconds",
}  # fmt: skip
TABLES = ("repos", "uploads", "profiles")  # of the same files, with readers of their own

_BY_KEY = {s.key: s for s in SETTINGS}
_MOST = 10**15  # of any number: with it one can still reckon


class Value(Struct, frozen=True):
    """A setting's value and where it came from (``default``, a path, or a variable's name)."""

    value: Any
    origin: str


class Settings:
    """An immutable set of values; unset keys have their defaults."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def get(self, key: str) -> Any:
        """Return the value of ``key``, which must be in :data:`SETTINGS`."""
        return self.explain(key).value

    def explain(self, key: str) -> Value:
        """Return value and origin of ``key``."""
        return self._values.get(key) or Value(setting(key).default, "default")

    def section(self, prefix: str) -> dict[str, Any]:
        """Return ``{rest: value}`` of all keys below ``prefix.``."""
        cut = len(prefix) + 1
        return {s.key[cut:]: self.get(s.key) for s in SETTINGS if s.key.startswith(prefix + ".")}


def setting(key: str) -> Setting:
    """Return the definition of ``key`` or raise BadInput naming the known keys."""
    if key not in _BY_KEY:
        raise BadInput(f"there is no setting {key!r}", hint="known settings: " + ", ".join(sorted(_BY_KEY)))
    return _BY_KEY[key]


def parse(key: str, raw: Any, origin: str) -> Value:
    """Check ``raw`` (a string, or a TOML value) against the setting's type and choices."""
    spec = setting(key)
    kind = type(spec.default)
    value: Any
    try:
        if kind is bool:
            value = raw if isinstance(raw, bool) else _BOOLS[str(raw).strip().lower()]
        elif kind in (int, float):
            if isinstance(raw, bool):
                raise ValueError
            value = kind(raw)
            if not 0 <= value <= _MOST:
                raise ValueError
        elif isinstance(raw, str):
            value = raw
        else:
            raise ValueError
    except (KeyError, ValueError, TypeError, OverflowError):
        raise BadInput(f"{key} = {raw!r} ({origin}) is not a usable {kind.__name__}", hint=spec.doc) from None
    stray = [p for p in split(value) if p not in spec.parts] if spec.parts else []
    if stray:
        hint = f"any of {', '.join(spec.parts)}, with commas between"
        raise BadInput(f"{key} ({origin}) has {stray[0]!r} in it, which means nothing", hint=hint)
    if spec.choices and value not in spec.choices:
        raise BadInput(f"{key} = {value!r} ({origin}) is not one of {', '.join(spec.choices)}", hint=spec.doc)
    return Value(value, origin)


def split(value: str) -> list[str]:
    """The parts of a comma-separated list, without blanks and empty ones."""
    return [part.strip() for part in value.split(",") if part.strip()]


_BOOLS = {"1": True, "true": True, "yes": True, "on": True,
          "0": False, "false": False, "no": False, "off": False}  # fmt: skip


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; missing = empty; unparsable = BadInput that says the line."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise BadInput(f"{path} can't be read: {e.strerror}") from None
    import tomllib  # dear to import, and most often there is no file

    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadInput(f"{path} is not TOML: {e}", hint="mend that line; nothing was changed") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, flat: ``{dotted key: raw value}``, without the other tables."""
    return _flatten({k: v for k, v in tree.items() if k not in TABLES})


def load(
    config: Path,
    env: Mapping[str, str] | None = None,
    project: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Settings:
    """Read all sources. ``project`` is a ``thopter.toml``; unknown keys are an error that lists the known
    ones, keys that a project may not set are left out, and ``say`` is told."""
    env = os.environ if env is None else env
    trees = [(config, read_toml(config), False)]
    if project is not None:
        trees.append((project, read_toml(project), True))
    values: dict[str, Value] = {}
    mine: dict[str, Value] = {}
    for path, tree, shy in trees:
        values |= _allowed(plain(tree), str(path), mine if shy else None, say)
        mine = mine if shy else dict(values)
    outer = {s.key: parse(s.key, env[s.env], s.env) for s in SETTINGS if env.get(s.env, "") != ""}
    outer |= {key: parse(key, raw, "flag") for key, raw in (flags or {}).items()}
    chosen = (outer.get("profile") or values.get("profile") or Value("", "")).value
    if chosen:
        values |= _profile(chosen, trees, mine, say)
    return Settings(values | outer)


def _allowed(
    flat: Mapping[str, Any],
    origin: str,
    users: Mapping[str, Value] | None,
    say: Callable[[str], None] | None,
) -> dict[str, Value]:
    """What a file may set. ``users`` (for a project's file) are the values it may at most tighten."""
    found = {key: parse(key, raw, origin) for key, raw in flat.items()}
    kept_out = sorted(k for k, v in found.items() if users is not None and not _may(k, v, users))
    if kept_out and say is not None:
        say(
            f"note: {origin} sets {', '.join(kept_out)}, which a project may not (or not so high); "
            "put it into your own config"
        )
    return {key: value for key, value in found.items() if key not in kept_out}


def _may(key: str, wanted: Value, users: Mapping[str, Value]) -> bool:
    if key not in PROJECT_BOUNDS:
        return key in PROJECT_KEYS
    now = users[key].value if key in users else _BY_KEY[key].default
    return bool(wanted.value > 0 and (now == 0 or wanted.value <= now))


def _profile(
    name: str,
    trees: Sequence[tuple[Path, Mapping[str, Any], bool]],
    mine: Mapping[str, Value],
    say: Callable[[str], None] | None,
) -> dict[str, Value]:
    """The settings of a profile: the user's, with the project's of the same name over it."""
    values: dict[str, Value] = {}
    known: set[str] = set()
    for path, tree, shy in trees:
        tables = tree.get("profiles", {})
        if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
            raise BadInput(f"profiles in {path} are not tables", hint="write [profiles.NAME]")
        known |= tables.keys()
        users = {**mine, **values} if shy else None
        values |= _allowed(_flatten(tables.get(name, {})), f"profile {name} ({path})", users, say)
    if name not in known:
        raise BadInput(f"there is no profile {name!r}", hint="known: " + (", ".join(sorted(known)) or "none"))
    if "profile" in values:
        raise BadInput(f"profile {name} names another profile")
    return values
