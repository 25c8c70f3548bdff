"""Saying something to a working agent, with a receipt: it has it, or an error says that it may not."""

from __future__ import annotations

import asyncio
import re

from thopter.fleet.live import LiveBox
from thopter.kit import failpoint
from thopter.kit.channel import BoxLink
from thopter.model.api import TellRequest, TellResult
from thopter.model.errors import BadInput, NotNow, TimedOut
from thopter.model.evidence import Evidence, Fact
from thopter.model.nouns import Box, BoxState, RunState, WaitReason
from thopter.model.sockets import Keys, Reading

PANE = "agent:0.0"
MAX_TEXT = 1 << 20  # bytes; the limit of one prompt
_INTERRUPT_WAIT_S = 5.0


def bare(text: str) -> str:
    """What survives any terminal: the words, without white space (editors re-wrap and trim) and
    without the blank that keeps a slash from being a command."""
    return re.sub(r"[\s\u2800]+", "", text)


def check_text(text: str) -> str:
    """Refuse what can't be a message: nothing, NUL, more than a megabyte."""
    if not text.strip():
        raise BadInput("there is nothing to say", hint="give the message as an argument, or '-' for stdin")
    if "\x00" in text:
        raise BadInput("the message holds a NUL character", hint="remove it; terminals can't carry it")
    if len(text.encode(errors="surrogateescape")) > MAX_TEXT:
        raise BadInput(
            f"the message is longer than {MAX_TEXT >> 20} MiB",
            hint="put it into a file in the repository and tell the agent to read that",
        )
    return text


async def press(link: BoxLink, steps: tuple[Keys, ...]) -> None:
    """Send keystrokes to the agent's pane."""
    wire = [
        {
            k: v
            for k, v in (
                ("text", s.text),
                ("paste", s.paste),
                ("keys", list(s.keys)),
                ("pause_ms", s.pause_ms),
            )
            if v
        }
        for s in steps
    ]
    await link.tmux_keys(PANE, wire)


def dialog(live: LiveBox) -> Evidence | None:
    """The dialog that is open at the agent's terminal, or None. (A question that the agent only
    declared is none: it is at its prompt.)"""
    if live.verdict.reason not in (WaitReason.PERMISSION, WaitReason.QUESTION):
        return None
    asks = (Fact.PERMISSION_ASKED, Fact.QUESTION_ASKED)
    return next((e for e in live.verdict.because if e.fact in asks), None)


def must_be_up(box: Box) -> None:
    """Refuse a message for a box whose processes stand still or are ended; the hub can keep it."""
    if box.state in (BoxState.FROZEN, BoxState.SUSPENDED, BoxState.STOPPED):
        how = "thaw" if box.state is BoxState.FROZEN else "resume"
        raise NotNow(
            f"{box.name} is {box.state} and takes no message now",
            hint=f"'thopter {how} {box.name}' first; 'thopter tell --when-idle {box.name}' waits for that",
        )


def no_dialog(live: LiveBox) -> None:
    """Words typed at an open dialog would be taken for its answer."""
    asked = dialog(live)
    if asked is not None:
        what = f": {asked.detail}" if asked.detail else ""
        raise NotNow(
            f"{live.box.name} asks for a {live.verdict.reason} and takes no message now{what}",
            hint=f"answer it with 'thopter attach {live.box.name}', or interrupt it first: 'thopter tell -i'",
        )


def must_listen(live: LiveBox) -> None:
    """Refuse when no agent is there to listen."""
    assert live.run is not None and live.agent is not None  # the fleet checked
    if live.verdict.state in (RunState.FAILED, RunState.STOPPED) or not live.agent_running:
        raise NotNow(
            f"the agent of {live.box.name} is not running ({live.verdict.state})",
            hint=f"look with 'thopter attach {live.box.name}' or 'thopter ssh {live.box.name}'",
        )


async def interrupt(live: LiveBox) -> None:
    """Stop the present turn; returns when the agent shows that it stopped, or has nothing to stop."""
    must_listen(live)
    assert live.agent is not None  # checked above
    link = await live.link()
    started = live.deps.clock.now_ms()
    await press(link, live.agent.interrupt())
    resting = (Fact.INTERRUPTED, Fact.IDLE, Fact.TURN_ENDED, Fact.TURN_FAILED)
    await live.until(
        lambda b: (
            b.verdict.state is not RunState.WORKING
            or any(e.fact in resting and e.at_ms >= started for e in b.evidence)
        ),
        _INTERRUPT_WAIT_S,
    )


async def tell(live: LiveBox, req: TellRequest) -> TellResult:
    """Enter ``req.text`` as the user's own message and wait for its receipt.

    Raises TimedOut when no receipt came: the agent may or may not have it, and the error shows the
    screen. Tells to one thopter are serialised, so that two never mix in its input line.
    """
    check_text(req.text)
    must_listen(live)
    assert live.agent is not None  # checked above
    if not req.interrupt:
        no_dialog(live)
    steps = live.agent.say(req.text)
    want = bare("".join(step.text or step.paste for step in steps))
    busy = live.verdict.state is RunState.WORKING  # then what the agent says it has, it has queued
    got: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()

    def look(reading: Reading) -> None:
        seen = bare(reading.receipt)
        if not got.done() and seen and (seen in want or want in seen):
            got.set_result(reading)

    async with live.tell_lock:
        link = await live.link()
        if req.interrupt:
            await interrupt(live)
        began = live.deps.clock.monotonic()
        stop = live.on_receipt(look)
        try:
            await press(link, steps)
            failpoint.hit("talk.pressed")
            async with asyncio.timeout(req.receipt_timeout_ms / 1000):
                reading = await got
        except TimeoutError:
            raise await _no_receipt(live, link) from None
        finally:
            stop()
    ms = (live.deps.clock.monotonic() - began) * 1000
    how = reading.evidence[0].detail if reading.evidence else ""
    kind = reading.receipt_kind or ("queued" if busy and not req.interrupt else "taken")
    return TellResult(receipt=kind, evidence=how, ms=ms)


async def _no_receipt(live: LiveBox, link: BoxLink) -> TimedOut:
    pane = await link.tmux_capture(PANE)
    return TimedOut(
        f"no sign that {live.box.name} has the message",
        hint=f"see its screen with 'thopter attach {live.box.name}'; the text may stand in its input line",
        screen=str(pane.get("screen", ""))[-4000:],
    )
