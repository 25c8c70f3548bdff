"""Notes from a changed state to a phone: real store, real apprise, an emulated ntfy server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import structs
from notes_lab import Lab
from ntfy_server import NtfyServer

from thopter.fleet.note_sender import GIVE_UP_MS, after
from thopter.kit.secrets import secret
from thopter.model.api.notes import MuteRequest, TestRequest
from thopter.model.errors import NotFound
from thopter.model.evidence import Evidence, Fact, Source
from thopter.model.nouns import BoxState, RunState, WaitReason

pytestmark = pytest.mark.timeout(200)
PERMISSION, TURN_END = WaitReason.PERMISSION, WaitReason.TURN_END


def lab(folder: Path, ntfy: NtfyServer, **more: object) -> Lab:
    given: dict[str, object] = {"ntfy_server": ntfy.url, "ntfy_topic": "phone", **more}
    return Lab(folder, **{f"notify.{k}": v for k, v in given.items()})


def test_a_waiting_run_rings_the_phone_once_also_over_restarts(tmp_path: Path, ntfy: NtfyServer) -> None:
    ntfy.token = "tk_0123456789abcdefghijklmnopqrs"
    made = lab(tmp_path, ntfy, click="https://hub.example/t/{name}", tags="work")
    made.secrets.set("notify.ntfy.token", secret("plain", ntfy.token))

    async def first() -> None:
        async with made.up():
            heron = await made.thopter()
            await made.becomes(heron, RunState.WAITING, PERMISSION)
            await made.settled()

    async def again() -> None:
        async with made.up():
            await made.decided()
            assert len(await made.store.notes.list()) == 1

    asyncio.run(first())
    asyncio.run(again())
    (message,) = ntfy.messages
    assert message["topic"] == "phone"
    assert message["title"] == "heron asks for permission"
    assert message["message"] == "I have mended the login."
    assert (message["priority"], message["tags"]) == (4, ["raised_hand", "work"])
    assert message["click"] == "https://hub.example/t/heron"


def test_a_change_recorded_before_the_hub_died_rings_when_it_is_back(
    tmp_path: Path, ntfy: NtfyServer
) -> None:
    made = lab(tmp_path, ntfy)

    async def dies() -> None:
        made.settings = lab(tmp_path, ntfy, ntfy_topic="").settings
        async with made.up():
            heron = await made.thopter()
            await made.decided()
        # As when it was killed right after the state was committed: nobody has looked at the event.
        from thopter.store.store import Store

        made.store = await Store.open(made.paths.state / "hub.db")
        await made.becomes(heron, RunState.FAILED, problem="exit code 1")
        await made.store.close()

    async def back() -> None:
        made.settings = lab(tmp_path, ntfy).settings
        async with made.up():
            await made.settled()

    asyncio.run(dies())
    asyncio.run(back())
    assert [m["title"] for m in ntfy.messages] == ["heron has failed"]
    assert ntfy.messages[0]["message"] == "exit code 1"


def test_a_server_that_is_down_or_fails_gets_the_note_when_it_is_back(
    tmp_path: Path, ntfy: NtfyServer
) -> None:
    made = lab(tmp_path, ntfy)

    async def go() -> None:
        async with made.up():
            ntfy.go()
            heron = await made.thopter()
            await made.becomes(heron, RunState.WAITING, PERMISSION)
            await made.until(lambda: said("onnection error"))
            ntfy.status = 500
            ntfy.come()
            made.clock.ahead_ms += 10_000
            made.notes._sender.wake()
            await made.until(lambda: said("made to fail"))
            ntfy.status = 200
            made.clock.ahead_ms += 400_000
            made.notes._sender.wake()
            (view,) = await made.settled()
            assert view.fate == "sent"
            assert view.sends[0].attempts == 3

    async def said(problem: str) -> bool:
        found = await made.store.notes.list()
        return bool(found) and problem in found[0].sends[0].problem

    asyncio.run(go())
    assert [m["title"] for m in ntfy.messages] == ["heron asks for permission (6 min ago)"]


def test_a_note_is_given_up_after_a_day_and_that_is_told(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy)
    ntfy.status = 503

    async def go() -> None:
        async with made.up():
            heron = await made.thopter()
            await made.becomes(heron, RunState.WAITING, PERMISSION)
            await asyncio.to_thread(ntfy.tried, 1)
            made.clock.ahead_ms += GIVE_UP_MS
            made.notes._sender.wake()
            (view,) = await made.settled()
            assert view.fate == "given_up"
            assert "made to fail" in view.sends[0].problem
            state = await made.notes.state()
            assert state.given_up == 1
            events = (await made.store.events.newest(1)).events
            assert "not delivered to ntfy" in events[0].data["text"]

    asyncio.run(go())


def test_a_slow_server_holds_nothing_up(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy)
    ntfy.delay = 3.0

    async def go() -> None:
        async with made.up():
            heron, wren = await made.thopter(), await made.thopter("wren")
            await made.becomes(heron, RunState.WAITING, PERMISSION)
            await asyncio.to_thread(ntfy.tried, 1)
            await made.becomes(wren, RunState.FAILED)  # decided and sent while the first is on its way
            await asyncio.to_thread(ntfy.tried, 2)
            assert ntfy.messages == []
            await made.settled(2)

    asyncio.run(go())
    assert {m["title"] for m in ntfy.messages} == {"heron asks for permission", "wren has failed"}


def test_what_holds_a_note_is_recorded_and_nothing_is_sent(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy, per_hour=1)

    async def go() -> list[tuple[str, str]]:
        async with made.up():
            heron = await made.thopter()
            with heron.person(True):
                await made.becomes(heron, RunState.WAITING, PERMISSION)
                await made.decided()
            await made.notes.mute(MuteRequest(name="heron", muted=True))
            await made.becomes(heron, RunState.WORKING)
            await made.becomes(heron, RunState.WAITING, WaitReason.QUESTION)
            await made.decided()
            assert (await made.notes.state()).muted_thopters == ["heron"]
            await made.notes.mute(MuteRequest(name="heron", muted=False))
            made.prompted(heron, 5)
            await made.becomes(heron, RunState.WAITING, TURN_END)
            await made.decided()
            await made.becomes(heron, RunState.FAILED)
            await made.decided()
            await made.becomes(heron, RunState.DONE)
            await made.decided()
            return [(v.note.kind.value, v.note.held) for v in reversed(await made.settled(5))]

    assert asyncio.run(go()) == [
        ("waiting_permission", "somebody is at its terminal"),
        ("waiting_question", "muted"),
        ("turn_end", "within 30 s of your message"),
        ("failed", ""),
        ("done", "within 30 s of your message"),
    ]
    assert [m["title"] for m in ntfy.messages] == ["heron has failed"]


def test_more_than_the_cap_in_an_hour_is_held(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy, per_hour=2)

    async def go() -> None:
        async with made.up():
            heron = await made.thopter()
            for reason in (PERMISSION, WaitReason.QUESTION, PERMISSION):
                await made.becomes(heron, RunState.WAITING, reason)
                await made.decided()
                made.clock.ahead_ms += 1000
            found = await made.settled(3)
            assert [v.note.held for v in found] == ["more than 2 notes in an hour", "", ""]
            made.clock.ahead_ms += 3_600_000
            await made.becomes(heron, RunState.FAILED)
            assert (await made.settled(4))[0].fate == "sent"

    asyncio.run(go())
    assert len(ntfy.messages) == 3


def test_silence_rings_once_and_a_frozen_box_not_at_all(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy, stuck_minutes=10)

    async def go() -> None:
        async with made.up():
            heron, wren = await made.thopter(), await made.thopter("wren")
            wren.box = structs.replace(wren.box, state=BoxState.FROZEN)
            made.clock.ahead_ms += 601_000
            heron.alive_ms = wren.alive_ms = made.clock.now_ms()
            await made.settled()
            made.clock.ahead_ms += 20_000
            heron.alive_ms = made.clock.now_ms()
            now = made.clock.now_ms()
            heron.evidence.append(
                Evidence(source=Source.HOOK, fact=Fact.ACTIVITY, at_ms=now, seen_ms=now, detail="Bash")
            )
            made.clock.ahead_ms += 601_000
            heron.alive_ms = made.clock.now_ms()
            await made.settled(2)  # another silence, another note

    asyncio.run(go())
    assert [m["title"] for m in ntfy.messages][:2] == ["heron shows nothing any more"] * 2
    assert len(ntfy.messages) == 2


def test_a_test_goes_to_every_target_and_says_what_came_of_it(tmp_path: Path, ntfy: NtfyServer) -> None:
    made = lab(tmp_path, ntfy)
    port = ntfy.url.rpartition(":")[2]
    made.secrets.set("notify.target.other", secret("plain", f"ntfy://127.0.0.1:{port}/other"))
    made.secrets.set("notify.target.wrong", secret("plain", "nosuch://xyzzy-s3cr3t-token/x"))

    async def go() -> None:
        async with made.up():
            view = await made.notes.test(TestRequest())
            fates = {s.target: (s.state, s.problem) for s in view.sends}
            assert fates["ntfy"] == fates["other"] == ("sent", "")
            assert fates["wrong"][0] == "given_up"
            assert "s3cr3t" not in fates["wrong"][1]
            assert view.fate == "partly_sent"
            shown = str(await made.notes.state())
            assert "s3cr3t" not in shown
            with pytest.raises(NotFound):
                await made.notes.test(TestRequest(target="nobody"))
            assert len((await made.notes.test(TestRequest(target="other"))).sends) == 1

    asyncio.run(go())
    assert sorted(m["topic"] for m in ntfy.messages) == ["other", "other", "phone"]


def test_without_a_target_nothing_is_sent_and_a_test_says_so(tmp_path: Path) -> None:
    made = Lab(tmp_path)

    async def go() -> None:
        async with made.up():
            heron = await made.thopter()
            await made.becomes(heron, RunState.FAILED)
            (view,) = await made.settled()
            assert view.note.held == "nowhere to send it"
            with pytest.raises(NotFound, match="nowhere"):
                await made.notes.test(TestRequest())

    asyncio.run(go())


def test_a_budget_event_rings(tmp_path: Path, ntfy: NtfyServer) -> None:
    from thopter.model.events import Event

    made = lab(tmp_path, ntfy)

    async def go() -> None:
        async with made.up():
            heron = await made.thopter()
            assert heron.run is not None
            said = {"name": "heron", "text": "5.00 of 5.00 USD"}
            event = Event(kind="run.budget", at_ms=1, box=heron.box.id, run=heron.run.id, data=said)
            await made.store.events.append([event])
            await made.settled()

    asyncio.run(go())
    assert ntfy.messages[0]["title"] == "heron has used up its budget"
    assert ntfy.messages[0]["message"] == "5.00 of 5.00 USD"


def test_pauses_between_attempts_grow_and_end_after_a_day() -> None:
    from thopter.model.notes import Letter, Note, NoteKind, Send

    note = Note(id="n", key="k", kind=NoteKind.DONE, letter=Letter(title="t"), created_ms=0)
    send, now, pauses = Send(note="n", target="ntfy"), 0, []
    while send.state == "queued":
        send = after(structs.replace(send, attempts=send.attempts + 1), note, "no", now)
        pauses.append(send.next_ms - now)
        now = send.next_ms
    assert pauses == sorted(pauses)
    assert pauses[0] == 5000
    assert GIVE_UP_MS - 1_800_000 <= now - pauses[-1] <= GIVE_UP_MS
    assert len(pauses) < 80
    assert after(send, note, "", 5).state == "sent"
