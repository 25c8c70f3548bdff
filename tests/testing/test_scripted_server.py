"""The scripted model over HTTP: answers, streams, faults, log, and as a program."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from thopter.model.errors import BadInput, Conflict, TimedOut
from thopter.testing.scripted_model import ScriptedModel, load_scenario, parse_scenario, running

TOOLS = [{"name": "Bash"}]
SCENARIO = parse_scenario(
    {
        "script": [
            {"name": "all", "turns": [
                {"think": "hm", "say": "hello ${cwd} 漢字", "tools": [
                    {"name": "Bash", "input": {"command": "ls ${cwd}", "n": 1}},
                    {"name": "Read", "input": {"file_path": "/a"}, "id": "toolu_mine"}],
                 "usage": {"input_tokens": 7, "cache_read_input_tokens": 3}},
                {"say": "over", "stop_reason": "max_tokens"}]},
            {"name": "limit", "turns": [{"status": 429, "message": "slow down", "retry_after": 1.5}]},
            {"name": "shaky", "turns": [{"say": "well", "status": 529, "fail_first": 2}]},
            {"name": "drop", "turns": [{"say": "word " * 40, "drop_after": 3}]},
            {"name": "gone", "turns": [{"say": "x", "drop_after": 0}]},
            {"name": "stall", "turns": [{"say": "word " * 40, "stall_after": 1}]},
            {"name": "pause", "turns": [{"say": "word " * 40, "stall_after": 1, "stall_ms": 50}]},
            {"name": "midway", "turns": [{"say": "word " * 40, "error_after": 2, "message": "busy"}]},
            {"name": "late", "turns": [{"say": "x", "delay_ms": 300}]},
        ]
    },
    "test",
)  # fmt: skip


def body(text: str, **more: Any) -> dict[str, Any]:
    system = "working directory: /w\n"
    return {"model": "m", "max_tokens": 9, "tools": TOOLS, "system": system,
            "messages": [{"role": "user", "content": text}], **more}  # fmt: skip


def ask(model: ScriptedModel, text: str, **more: Any) -> httpx2.Response:
    return httpx2.post(model.url + "/v1/messages", json=body(text, **more), timeout=30)


def events(raw: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in raw.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines["event"], json.loads(lines["data"])))
    return found


def rebuilt(raw: str) -> dict[str, Any]:
    """The message that a client puts together from a stream."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for kind, data in events(raw):
        assert data["type"] == kind
        if kind == "message_start":
            message = data["message"]
        elif kind == "content_block_start":
            assert data["index"] == len(message["content"])
            message["content"].append(data["content_block"])
        elif kind == "content_block_delta":
            block, delta = message["content"][data["index"]], data["delta"]
            if delta["type"] == "text_delta":
                block["text"] += delta["text"]
            elif delta["type"] == "thinking_delta":
                block["thinking"] += delta["thinking"]
            elif delta["type"] == "signature_delta":
                block["signature"] = delta["signature"]
            else:
                inputs[data["index"]] = inputs.get(data["index"], "") + delta["partial_json"]
        elif kind == "message_delta":
            message.update(data["delta"], usage=data["usage"])
    for index, text in inputs.items():
        message["content"][index]["input"] = json.loads(text)
    assert events(raw)[-1][0] == "message_stop"
    return message


def test_the_stream_and_the_plain_answer_are_the_same_message() -> None:
    with running(SCENARIO) as model:
        plain = ask(model, "script:all").json()
        stream = ask(model, "script:all", stream=True)
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert rebuilt(stream.text) == plain
    kinds = [b["type"] for b in plain["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert plain["content"][1]["text"] == "hello /w 漢字"
    assert plain["content"][2]["input"] == {"command": "ls /w", "n": 1}
    assert plain["content"][3]["id"] == "toolu_mine"
    assert (plain["stop_reason"], plain["usage"]["input_tokens"]) == ("tool_use", 7)
    assert plain["usage"]["cache_read_input_tokens"] == 3


def test_the_next_turn_has_its_own_stop_reason_and_ids() -> None:
    with running(SCENARIO) as model:
        first = ask(model, "script:all").json()
        talk = [{"role": "user", "content": "script:all"}, {"role": "assistant", "content": first["content"]}]
        second = ask(model, "", messages=[*talk, {"role": "user", "content": []}]).json()
    assert (second["content"][0]["text"], second["stop_reason"]) == ("over", "max_tokens")
    assert second["id"] != first["id"]


def test_an_unknown_prompt_is_told_that_this_is_no_language_model() -> None:
    with running(load_scenario("demo")) as model:
        said = ask(model, "write me a poem").json()["content"][0]["text"]
    assert "scripted model" in said
    assert "> write me a poem" in said
    assert "fix, flag, docs" in said


def test_errors_have_the_forms_of_the_api() -> None:
    with running(SCENARIO) as model:
        limit = ask(model, "script:limit")
        assert (limit.status_code, limit.headers["retry-after"]) == (429, "1.5")
        assert limit.json()["error"] == {"type": "rate_limit_error", "message": "slow down"}
        unknown = ask(model, "script:nope")
        assert unknown.status_code == 400
        assert "no script 'nope'" in unknown.json()["error"]["message"]
        assert httpx2.get(model.url + "/v2/none").status_code == 404
        for raw in (b"{", b"[]", b"\xff", b"[" * 100_000):
            answer = httpx2.post(model.url + "/v1/messages", content=raw)
            assert answer.status_code == 400
            assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_turn_can_fail_first_and_then_succeed_for_each_conversation_alone() -> None:
    with running(SCENARIO) as model:
        codes = [ask(model, "script:shaky", stream=bool(n % 2)).status_code for n in range(4)]
        assert codes == [529, 529, 200, 200]
        assert ask(model, "script:shaky again").status_code == 529
        assert [s.attempt for s in model.seen] == [1, 2, 3, 4, 1]


def test_a_stream_can_be_cut_in_the_middle_or_before_its_first_byte() -> None:
    with running(SCENARIO) as model:
        got = b""
        with (
            pytest.raises(httpx2.RemoteProtocolError),
            httpx2.stream(
                "POST", model.url + "/v1/messages", json=body("script:drop", stream=True)
            ) as answer,
        ):
            for piece in answer.iter_raw():
                got += piece
        assert got.count(b"content_block_delta") > 0
        assert b"message_stop" not in got
        with pytest.raises(httpx2.RemoteProtocolError):
            ask(model, "script:gone", stream=True)
        with pytest.raises(httpx2.RemoteProtocolError):
            ask(model, "script:drop")
        assert [s.outcome for s in model.seen] == ["dropped"] * 3


def test_an_error_can_come_in_the_middle_of_a_stream() -> None:
    with running(SCENARIO) as model:
        found = events(ask(model, "script:midway", stream=True).text)
    assert found[-1] == ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})


def test_a_stalled_stream_stays_silent_until_the_client_leaves() -> None:
    with running(SCENARIO) as model:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(model.url + "/v1/messages", json=body("script:stall", stream=True), timeout=0.5)
        end = time.monotonic() + 30
        while model.seen[0].ms == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert model.seen[0].outcome == "gone"
        assert rebuilt(ask(model, "script:pause", stream=True).text)["content"][0]["text"] == "word " * 40


def test_a_delay_is_kept_and_answers_do_not_wait_for_one_another() -> None:
    with running(SCENARIO) as model:
        began = time.monotonic()
        threads = [threading.Thread(target=ask, args=(model, "script:late")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.3 <= time.monotonic() - began < 2.2
        assert len(model.seen) == 8


def test_small_things_that_clients_ask_for() -> None:
    with running(SCENARIO) as model:
        assert httpx2.head(model.url + "/").status_code == 200
        assert httpx2.get(model.url + "/").json()["scripts"][0] == "all"
        models = httpx2.get(model.url + "/v1/models").json()
        assert models["data"][0]["id"] == "scripted-model"
        counted = httpx2.post(model.url + "/v1/messages/count_tokens", json=body("x" * 4000)).json()
        assert 1000 < counted["input_tokens"] < 1200
        title = ask(model, "script:all", tools=[]).json()
        assert title["content"] == [{"type": "text", "text": "Scripted session"}]


def test_a_key_can_be_required_and_is_never_in_the_log(tmp_path: Path) -> None:
    guarded = parse_scenario({"require_key": "sk-secret-1"}, "test")
    log = tmp_path / "log"
    with running(guarded, log=log) as model:
        url = model.url + "/v1/messages"
        assert httpx2.post(url, json=body("x")).status_code == 401
        wrong = httpx2.post(url, json=body("x"), headers={"authorization": "Bearer sk-wrong"})
        assert wrong.json()["error"]["type"] == "authentication_error"
        for headers in ({"authorization": "Bearer sk-secret-1"}, {"x-api-key": "sk-secret-1"}):
            assert httpx2.post(url, json=body("x"), headers=headers).status_code == 200
        shown = httpx2.get(model.url + "/_log").json()["seen"]
        assert [s["credential"].split()[0] for s in shown] == ["none", "bearer", "bearer", "x-api-key"]
        assert [x.headers.get("x-api-key") for x in model.exchanges][3] == "sk-secret-1"
    assert "sk-secret-1" not in log.read_text() + json.dumps(shown)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [401, 401, 200, 200, 200]


def test_scripts_can_be_added_while_it_runs() -> None:
    with running(SCENARIO) as model:
        new = {"script": [{"name": "new", "turns": [{"say": "fresh"}]}]}
        names = httpx2.post(model.url + "/_scripts", json=new).json()["scripts"]
        assert names[-1] == "new"
        assert ask(model, "script:new").json()["content"][0]["text"] == "fresh"
        bad = httpx2.post(model.url + "/_scripts", json={"script": [{"name": "x y", "turns": []}]})
        assert bad.status_code == 400
        assert ask(model, "script:new").status_code == 200


def test_the_log_says_what_was_asked() -> None:
    with running(SCENARIO) as model:
        ask(model, "script:all", stream=True)
        seen = model.seen[0]
    assert (seen.script, seen.turn, seen.stream, seen.model, seen.prompt) == (
        "all",
        0,
        True,
        "m",
        "script:all",
    )


def test_waiting_for_a_request_is_bounded() -> None:
    async def go() -> None:
        async with ScriptedModel(SCENARIO) as model:
            with pytest.raises(TimedOut, match="no such request"):
                await model.wait_for(lambda s: s.script == "all", seconds=0.1)

    asyncio.run(go())


def test_a_port_in_use_and_a_log_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with running(SCENARIO) as model:
        port = int(model.url.rsplit(":", 1)[1])
        with pytest.raises(Conflict), running(SCENARIO, port=port):
            raise AssertionError("it listens twice")
    with pytest.raises(BadInput, match="can't be written"), running(SCENARIO, log=tmp_path / "no" / "log"):
        raise AssertionError("it runs without its log")


def program(*argv: str) -> list[str]:
    return [sys.executable, "-m", "thopter.testing.scripted_model", *argv]


def test_as_a_program_it_says_where_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    ready, log = tmp_path / "ready", tmp_path / "log"
    argv = program("--scenario", "demo", "--port", "0", "--ready-file", str(ready), "--log", str(log))
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < end:
            time.sleep(0.05)
        url = ready.read_text().strip()
        assert url.startswith("http://127.0.0.1:")
        assert httpx2.get(url + "/").json()["scripts"]
    finally:
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=60)
    assert (child.returncode, out.strip()) == (0, url)
    assert sorted(os.listdir(tmp_path)) == ["log"]
    assert json.loads(log.read_text().splitlines()[0])["path"] == "/"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--scenario", "/nonexistent", "--port", "0"), 2, "can't be read"),
        (("--scenario", "demo", "--port", "0", "--log", "/nonexistent/log"), 2, "can't be written"),
        (("--scenario", "demo"), 2, "--port"),
    ],
)
def test_as_a_program_it_names_mistakes(argv: tuple[str, ...], code: int, words: str) -> None:
    done = subprocess.run(program(*argv), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
