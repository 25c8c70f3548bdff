"""How ``run`` and ``create`` furnish a box: options, settings and lists put into one request, all of it
checked before the hub is asked for anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from thopter.cli.app import App, project_file
from thopter.model.api.furnish import Checkout, Furnishing, Upload
from thopter.model.errors import BadInput, NotFound, Refused

_KEY = "thopter.furnish"
_MAX = 32 << 20
_LIMITS = ("memory_mb", "pids", "cpus", "disk_mb")


def furnish_options(command: Any) -> Any:
    """Options about what is in a new box; :func:`furnishing` reads them."""
    for option in reversed((
        click.option("--home", is_flag=True, expose_value=False, callback=_keep,
                     help="Work in the box's home folder; without --repo there is no repository."),
        click.option("--checkout", multiple=True, expose_value=False, callback=_keep, metavar="REPO[:BRANCH]",
                     help="Clone one more repository below /work; may be repeated."),
        click.option("--upload", multiple=True, expose_value=False, callback=_keep, metavar="LOCAL:REMOTE",
                     help="Put a file or folder of this machine into the box; may be repeated."),
        click.option("--post-create", expose_value=False, callback=_keep, metavar="COMMAND",
                     help="Run this in the new box first; when it fails, the box is not made."),
        click.option("--instructions", expose_value=False, callback=_keep, metavar="FILE",
                     help="Tell the agent this in place of thopter's own words on its box (CLAUDE.md)."),
    )):  # fmt: skip
        command = option(command)
    return command


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    ctx.meta.setdefault(_KEY, {})[param.name] = value
    return value


def option(name: str) -> Any:
    """What the option ``name`` of this invocation was given."""
    return click.get_current_context().meta.get(_KEY, {}).get(name)


def set_option(name: str, value: Any) -> None:
    """As if the option had been given: an answer to a question counts the same."""
    click.get_current_context().meta.setdefault(_KEY, {})[name] = value


def furnishing(app: App, local_setting: Callable[[str], str]) -> Furnishing:
    """The request's part; ``local_setting`` gives what only this process knows of a setting."""
    from thopter.kit.settings import parse

    checkouts = [*str(app.settings.get("run.checkouts")).split(), *(option("checkout") or ())]
    return Furnishing(
        home=bool(option("home")),
        checkouts=[_checkout(app, text) for text in checkouts],
        uploads=_uploads(app),
        post_create=option("post_create") or local_setting("box.post_create"),
        instructions=_instructions(app, local_setting),
        limits={
            k: parse(f"box.{k}", v, "setting").value for k in _LIMITS if (v := local_setting(f"box.{k}"))
        },
    )


def _instructions(app: App, local_setting: Callable[[str], str]) -> str:
    """The text of the option's file, or of the setting's where only this process knows that."""
    from thopter.kit.instructions import read_instructions

    given = option("instructions")
    if given:
        return read_instructions(str(Path(given).expanduser().absolute()), "--instructions")
    agent = click.get_current_context().params.get("agent") or app.settings.get("agents.default")
    key = f"agents.{agent}.instructions"
    found = local_setting(key)
    return read_instructions(str(Path(found).expanduser().absolute()), key) if found else ""


def _checkout(app: App, text: str) -> Checkout:
    from thopter.cli.repo import known, resolve, split_branch

    name, branch = split_branch(text)
    predefined = known(app.paths, name)
    if predefined is not None:
        name, branch = predefined.repo, branch or predefined.branch
    return Checkout(repo=resolve(name, app.say), branch=branch)


# ------------------------------------------------------------------------------------------ uploads


def _uploads(app: App) -> list[Upload]:
    """Project's, then the user's, then those of options: the last one that names a place wins."""
    from thopter.cli.tables import upload_rules

    found: dict[str, Upload] = {}
    project = project_file()
    if project is not None:
        for rule in upload_rules(project):
            for upload in _read(_inside(rule.local, project), rule.remote):
                found[upload.path] = upload
    pairs = [(rule.local, rule.remote) for rule in upload_rules(app.paths.config_file)]
    pairs += [_pair(text) for text in option("upload") or ()]
    for local, remote in pairs:
        for upload in _read(Path(local).expanduser(), remote):
            found.pop(upload.path, None)
            found[upload.path] = upload
    if sum(len(u.content) for u in found.values()) > _MAX:
        raise BadInput(f"the uploads are over {_MAX >> 20} MiB", hint="put big files into a snapshot")
    return list(found.values())


def _pair(text: str) -> tuple[str, str]:
    local, colon, remote = text.rpartition(":")
    if not colon or not local or not remote:
        raise BadInput(f"{text!r} is not LOCAL:REMOTE", hint="e.g. --upload ~/notes.md:/work/notes.md")
    return local, remote


def _inside(local: str, project: Path) -> Path:
    """A project's file may only send what is in the project: it may have come with a clone."""
    top = project.parent.resolve()
    path = (top / local).resolve()
    if path != top and top not in path.parents:
        raise Refused(
            f"{project} wants to upload {local!r}, which is outside the project",
            hint="uploads of other files belong into your own config.toml",
        )
    return path


def _read(path: Path, remote: str) -> list[Upload]:
    """A file, or all plain files below a folder; links in it are left out, not followed."""
    if not remote.startswith(("/", "~/")):
        raise BadInput(f"{remote!r} is no place in a box", hint="an absolute path, or ~/…")
    if not path.is_dir():
        return [_file(path, remote + path.name if remote.endswith("/") else remote)]
    uploads: list[Upload] = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(f for f in folders if not (Path(folder) / f).is_symlink())
        for name in sorted(files):
            file = Path(folder) / name
            if stat.S_ISREG(file.lstat().st_mode):
                uploads.append(_file(file, f"{remote.rstrip('/')}/{file.relative_to(path)}"))
        if len(uploads) > 1000:
            raise BadInput(f"{path} has over 1000 files", hint="upload an archive, or make a snapshot")
    return uploads


def _file(path: Path, remote: str) -> Upload:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"{path} is not a plain file")
        if path.stat().st_size > _MAX:
            raise BadInput(f"{path} is over {_MAX >> 20} MiB")
        return Upload(path=remote, content=path.read_bytes(), mode=path.stat().st_mode & 0o777)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path} to upload", hint="nothing was made") from None
    except OSError as e:
        raise BadInput(f"{path} can't be read: {e.strerror}", hint="nothing was made") from None
