"""What the hub knows about its own health: each check says what is wrong and what to change."""

from __future__ import annotations

import shutil

from thopter.fleet.deps import Deps
from thopter.kit.settings import Settings
from thopter.model.api import Check
from thopter.model.errors import ThopterError
from thopter.model.nouns import BoxState, Isolation
from thopter.model.tiers import Tiers

_LOW_DISK = 2 << 30
_TOLD_MS = 2 * 86_400_000  # a note is given up after one day: tell it for another
_TEST = "thopter notify test; thopter notify list"


async def doctor(deps: Deps) -> list[Check]:
    """Run every check; one that fails itself is a failed check, not an error."""
    checks: list[Check] = []
    for name, provider in deps.providers.items():
        try:
            caps = await provider.caps()
        except ThopterError as e:
            checks.append(Check(name=f"provider {name}", level="fail", text=e.message, fix=e.hint))
            continue
        weak = caps.isolation is Isolation.NONE
        checks.append(
            Check(
                name=f"provider {name}",
                level="warn" if weak else "ok",
                text=f"isolation {caps.isolation}; limits: {', '.join(sorted(caps.limits)) or 'none'}",
            )
        )
        if isinstance(provider, Tiers):
            checks += [_tier(name, kind, why) for kind, why in (await provider.tiers(again=True)).items()]
        checks += [
            Check(name=f"provider {name}: {what}", level="warn", text=sentence)
            for what, sentence in sorted(caps.missing.items())
        ]
    checks.append(_disk(deps))
    checks += await _boxes(deps)
    checks += await _credentials(deps)
    checks += await deps.policies.checks()
    checks += await _notes(deps)
    checks.append(page_check(deps.settings))
    return checks


def page_check(settings: Settings) -> Check:
    """Where the page is reached, and whether phones can install it and be rung: by https only."""
    url, listen = str(settings.get("page.url")), str(settings.get("hub.listen"))
    if url.startswith("https:") or settings.get("hub.tls_cert"):
        return Check(name="page", level="ok", text=f"reached by https at {url or listen or 'loopback'}")
    text = "on this machine only ('thopter dashboard'); phones install it and are rung by https: a tailnet, "
    return Check(name="page", level="ok", text=text + "a tunnel or a certificate of your own, see page.url")


def _tier(provider: str, kind: str, why: str) -> Check:
    """Whether a stronger kind of box than the usual one can be had."""
    text = f"can't be had: {why}" if why else "can be had: a box of it was made"
    return Check(name=f"provider {provider}: isolation {kind}", level="warn" if why else "ok", text=text)


def _disk(deps: Deps) -> Check:
    free = shutil.disk_usage(deps.paths.state).free
    low = free < _LOW_DISK
    return Check(
        name="disk",
        level="fail" if low else "ok",
        text=f"{free / (1 << 30):.1f} GiB free for {deps.paths.state}",
        fix="free some space; below 384 MiB boxes stand still" if low else "",
    )


async def _boxes(deps: Deps) -> list[Check]:
    found = []
    served = await deps.gateways.attached()
    for box in await deps.store.boxes.list():
        if box.state is BoxState.LOST:
            found.append(
                Check(
                    name=f"thopter {box.name}",
                    level="warn",
                    text=f"lost: {box.problem}",
                    fix=f"thopter resume {box.name}",
                )
            )
        elif box.state is BoxState.READY and box.id not in served:
            found.append(
                Check(
                    name=f"thopter {box.name}",
                    level="fail",
                    text="no gateway serves it; it has no network",
                    fix="thopter hub restart",
                )
            )
    return found or [Check(name="thopters", level="ok", text="every box is there and served")]


async def _credentials(deps: Deps) -> list[Check]:
    found = []
    for name in deps.agents:
        base = str(deps.settings.get(f"agents.{name}.base_url"))
        problem = deps.credential_problem(name)
        found.append(
            Check(
                name=f"model endpoint of {name}",
                level="warn" if problem else "ok",
                text=problem or base,
                fix="thopter setup" if problem else "",
            )
        )
    return found


async def _notes(deps: Deps) -> list[Check]:
    counts = await deps.store.notes.counts(deps.clock.now_ms() - _TOLD_MS)
    bad = [t for t in await deps.postman.targets() if t.problem]
    lost = counts.get("given_up", 0)
    found = [Check(name=f"notes to {t.name}", level="fail", text=t.problem, fix=_TEST) for t in bad]
    if lost:
        found.append(Check(name="notes", level="warn", text=f"{lost} could not be delivered", fix=_TEST))
    return found
