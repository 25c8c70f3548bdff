"""The hub's HTTP API over its real socket: answers, errors, keys, bodies, files."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from hub_support import HubProcess, Raw, rss_kib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thopter.model import api
from thopter.model.errors import from_dict


@pytest.fixture
def name(hub: HubProcess) -> str:
    """A thopter of this test."""
    found = "t-" + uuid.uuid4().hex[:12]
    assert hub.post("/v1/thopters", {"name": found}).status_code == 202
    return found


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"} and answer.headers["content-type"] == "application/json"
    return dict(body["error"])


def created(hub: HubProcess, name: str) -> list[dict[str, Any]]:
    """The events that tell of the creation of ``name``."""
    with hub.client() as client, client.stream("GET", "/v1/events?after=0&kinds=box.created,note") as answer:
        head = int(hub.post("/v1/hub/none", {}).status_code)  # any round trip: all before is committed
        assert head == 404
        mark = "mark-" + uuid.uuid4().hex[:8]
        hub.post("/v1/thopters", {"name": mark})
        found = []
        for line in answer.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line[6:])["data"]
                if data.get("name") == mark:
                    return [each for each in found if each.get("name") == name]
                found.append(data)
    raise AssertionError("the stream ended")


def test_every_answer_has_the_type_that_the_contract_says(hub: HubProcess, name: str) -> None:
    at = f"/v1/thopters/{name}"
    for path, kind in (
        ("/v1/hub", api.HubInfo), ("/v1/thopters", api.Thopters), ("/v1/thopters?gone=true", api.Thopters),
        (at, api.ThopterDetail), (f"{at}/transcript?after=3&limit=2", api.TranscriptPage),
        (f"{at}/check", api.CheckResult), (f"{at}/screen", api.ScreenText), (f"{at}/diff", api.DiffResult),
        ("/v1/flows/flow_1", api.FlowView), ("/v1/doctor", api.Checks), ("/v1/doctor/leaks", api.Leaks),
    ):  # fmt: skip
        answer = hub.get(path)
        assert answer.status_code == 200, answer.text
        assert msgspec.json.decode(answer.content, type=kind)
    for path, body, kind, status in (
        ("/v1/runs", {"prompt": "x"}, api.Accepted, 202), (f"{at}/tell", {"text": "x"}, api.TellResult, 200),
        (f"{at}/interrupt", {}, api.Nothing, 200), (f"{at}/freeze", {}, api.Nothing, 200),
        (f"{at}/thaw", {}, api.Nothing, 200), (f"{at}/pull", {"wip": True}, api.PullInfo, 200),
        ("/v1/doctor/sweep", {}, api.Leaks, 200),
    ):  # fmt: skip
        answer = hub.post(path, body)
        assert answer.status_code == status, answer.text
        msgspec.json.decode(answer.content, type=kind)
    gone = hub.request("DELETE", at)
    assert gone.status_code == 202 and gone.json()["name"] == name
    assert hub.get(at).status_code == 404


def test_calls_without_a_request_need_no_body_and_no_type(hub: HubProcess, name: str) -> None:
    for verb in ("interrupt", "freeze", "thaw", "pull"):
        assert hub.request("POST", f"/v1/thopters/{name}/{verb}").status_code == 200
    assert hub.request("POST", "/v1/runs").status_code == 422, "this one needs a prompt"


def test_a_prefix_that_fits_several_is_a_conflict_that_lists_them(hub: HubProcess) -> None:
    one = "p" + uuid.uuid4().hex[:8]
    hub.post("/v1/thopters", {"name": one + "-a"})
    hub.post("/v1/thopters", {"name": one + "-b"})
    error = error_of(hub.get(f"/v1/thopters/{one}"))
    assert error["code"] == "conflict" and sorted(error["data"]["matches"]) == [one + "-a", one + "-b"]
    assert hub.get(f"/v1/thopters/{one}-a").json()["view"]["name"] == one + "-a"


BAD_BODIES: list[tuple[Any, int, str]] = [
    (b"", 422, "$"), (b"{", 400, ""), (b"[]", 422, "$"), (b"null", 422, "$"), (b'"x"', 422, "$"),
    (b'{"prompt":1}', 422, "$.prompt"), (b'{"prompt":"x","name":[]}', 422, "$.name"),
    (b'{"prompt":"x"} x', 400, ""), (b"\xff\xfe", 400, ""), (b'{"prompt":"\xff"}', 400, ""),
    (b'{"prompt":"\\ud800"}', 400, ""), (b'{"x":' + b"[" * 100000, 400, ""), (b'{"a":' * 50000, 400, ""),
    (b'{"prompt":' + b"9" * 5000 + b"}", 422, "$.prompt"), (b'{"name":"x"}', 422, "$"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "at"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_bad_body_is_refused_with_the_place(hub: HubProcess, body: bytes, status: int, at: str) -> None:
    answer = hub.request("POST", "/v1/runs", content=body, headers={"Content-Type": "application/json"})
    error = error_of(answer)
    assert answer.status_code == status, error
    assert from_dict(error).exit_code == 2
    if at:
        assert error["data"]["at"] == at


def test_unknown_fields_are_ignored_in_body_and_query(hub: HubProcess) -> None:
    assert hub.post("/v1/runs", {"prompt": "x", "from the future": {"a": [1]}}).status_code == 202
    assert hub.get("/v1/thopters?colour=red").status_code == 200


BAD_QUERIES = [
    "transcript?after=-1", "transcript?after=x", f"transcript?after={10**30}", "transcript?limit=0",
    "transcript?limit=999999", "transcript?last=1.5", "transcript?after=1&after=2", "transcript?after=",
    "transcript?%ff=1&after=%ff", "fetch", "fetch?path=", "fetch?path=%00", "fetch?path=" + "a" * 5000,
    "transcript?" + "&".join(f"a{n}=1" for n in range(60)),
]  # fmt: skip


@pytest.mark.parametrize("query", BAD_QUERIES, ids=range(len(BAD_QUERIES)))
def test_a_bad_query_is_refused(hub: HubProcess, name: str, query: str) -> None:
    answer = hub.get(f"/v1/thopters/{name}/{query}")
    assert answer.status_code in (400, 422), answer.text
    assert from_dict(error_of(answer)).exit_code == 2


def test_errors_of_the_fleet_keep_their_class_on_the_wire(hub: HubProcess, name: str) -> None:
    cases = (
        (hub.get("/v1/thopters/nobody"), 404, "not_found", 3),
        (hub.post("/v1/thopters", {"name": name}), 409, "conflict", 5),
        (hub.post("/v1/thopters", {"name": "Not A Name"}), 422, "bad_name", 2),
        (hub.post(f"/v1/thopters/{name}/tell", {"text": "x", "receipt_timeout_ms": 0}), 504, "timed_out", 7),
    )
    for answer, status, code, exit_code in cases:
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (status, code)
        assert from_dict(error).exit_code == exit_code


def test_what_nobody_foresaw_is_a_500_with_an_id_and_no_traceback(hub: HubProcess) -> None:
    answer = hub.post("/v1/runs", {"prompt": "explode"})
    error = error_of(answer)
    assert answer.status_code == 500
    assert (
        "Traceback" not in answer.text and "sk-ant" not in answer.text and "RuntimeError" not in answer.text
    )
    incident = error["data"]["incident"]
    records = [r for r in hub.log() if r.get("data", {}).get("incident") == incident]
    assert len(records) == 1 and "RuntimeError" in records[0]["error"]
    assert "sk-ant" not in (hub.state / "hub.log").read_text(), "no secret in the log either"


def test_hostile_text_of_a_box_is_valid_json(hub: HubProcess, name: str) -> None:
    answer = hub.get(f"/v1/thopters/{name}/transcript?limit=1")
    assert "\x1b" not in answer.text and "\ud800" not in answer.text
    assert answer.json()["entries"][0]["summary"] == "0 ? <b>\x1b[31m"


def test_a_prompt_of_a_megabyte_is_taken_and_a_larger_body_is_not(hub: HubProcess) -> None:
    hard = '\x01"\\é' * 262_144  # 1 MB and more, six times that in JSON
    assert hub.post("/v1/runs", {"prompt": hard[:1_000_000]}).status_code == 202
    before = rss_kib(hub.pid())
    for content in (b" " * (9 << 20), iter([b" " * (1 << 20)] * 9)):
        headers = {"Content-Type": "application/json"}
        answer = hub.request("POST", "/v1/thopters/one/tell", content=content, headers=headers)
        assert answer.status_code == 413 and from_dict(error_of(answer)).exit_code == 2
    assert (
        hub.request(
            "POST",
            "/v1/thopters/one/interrupt",
            content=b" " * ((1 << 20) + 1),
            headers={"Content-Type": "application/json"},
        ).status_code
        == 413
    ), "other bodies are smaller"
    assert rss_kib(hub.pid()) - before < 60_000


def test_a_refused_body_without_end_is_cut_off(hub: HubProcess) -> None:
    head = b"POST /v1/thopters HTTP/1.1\r\nHost: thopter\r\nContent-Type: application/json\r\n"
    sent = 0
    with Raw(hub.socket) as raw:
        raw.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(2000):
                raw.send(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
                sent += 1
    assert sent < 128  # uploads may come with a creation: 56 MiB, and what the sockets hold


# ------------------------------------------------------------------------------ idempotency keys


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def test_the_same_key_does_it_once_and_answers_the_same(hub: HubProcess) -> None:
    name, headers = "k" + uuid.uuid4().hex[:8], key()
    body = {"prompt": "x", "name": name}
    first = hub.post("/v1/runs", body, **headers)
    second = hub.post("/v1/runs", body, **headers)
    assert first.status_code == second.status_code == 202
    assert first.content == second.content
    assert error_of(hub.post("/v1/runs", body))["code"] == "conflict", "without the key it is done again"
    assert len(created(hub, name)) == 1


def test_the_same_key_for_another_request_is_a_conflict(hub: HubProcess, name: str) -> None:
    headers = key()
    assert hub.post(f"/v1/thopters/{name}/tell", {"text": "a"}, **headers).status_code == 200
    for path, body in (
        ("tell", {"text": "b"}),
        ("interrupt", {}),
        ("tell", {"text": "a", "interrupt": True}),
    ):
        answer = hub.post(f"/v1/thopters/{name}/{path}", body, **headers)
        assert answer.status_code == 409 and error_of(answer)["code"] == "conflict"


def test_a_refusal_is_kept_under_its_key(hub: HubProcess) -> None:
    name, headers = "r" + uuid.uuid4().hex[:8], key()
    first = hub.request("DELETE", f"/v1/thopters/{name}", headers=headers)
    assert first.status_code == 404
    hub.post("/v1/thopters", {"name": name})
    assert hub.request("DELETE", f"/v1/thopters/{name}", headers=headers).content == first.content
    assert hub.get(f"/v1/thopters/{name}").status_code == 200


def test_a_failure_nobody_foresaw_is_kept_too_and_not_done_again(hub: HubProcess) -> None:
    headers = key()
    first = hub.post("/v1/runs", {"prompt": "explode"}, **headers)
    second = hub.post("/v1/runs", {"prompt": "explode"}, **headers)
    assert first.status_code == second.status_code == 500
    assert error_of(first)["data"] == error_of(second)["data"], "the same incident"


def test_the_same_key_many_times_at_once_does_it_once(hub: HubProcess) -> None:
    name, headers = "c" + uuid.uuid4().hex[:8], key()
    body = {"prompt": "slow", "name": name}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: hub.post("/v1/runs", body, **headers), range(20)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.content for a in answers}) == 1
    assert len(created(hub, name)) == 1


def test_a_key_survives_a_hub_killed_by_force(own: HubProcess) -> None:
    own.start()
    headers = key()
    first = own.post("/v1/runs", {"prompt": "x", "name": "once"}, **headers)
    own.process.kill()
    own.process.communicate()
    own.start()
    assert own.post("/v1/runs", {"prompt": "x", "name": "once"}, **headers).content == first.content
    assert len(created(own, "once")) == 1


def test_a_call_cut_by_a_killed_hub_is_done_again_under_the_same_token(own: HubProcess) -> None:
    own.start()
    headers = key()
    lost: list[BaseException] = []
    body = {"prompt": "stuck", "name": "twice"}

    def call() -> None:
        try:
            own.post("/v1/runs", body, **headers)
        except httpx2.TransportError as e:
            lost.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    with own.client() as client, client.stream("GET", "/v1/events?after=0&kinds=note") as answer:
        next(line for line in answer.iter_lines() if '"stuck":"twice"' in line)
    own.process.kill()
    own.process.communicate()
    thread.join(60)
    assert lost, "the hub died before it answered"
    own.start()
    assert own.post("/v1/runs", body, **headers).status_code == 202
    found = created(own, "twice")
    assert len(found) == 1 and found[0]["again"] is True and found[0]["token"]


@pytest.mark.parametrize("bad", ["", "a b", "a" * 201, "ü", "a\tb"])
def test_a_key_that_is_none_is_refused(hub: HubProcess, bad: str) -> None:
    answer = hub.request("POST", "/v1/runs", json={"prompt": "x"}, headers={"Idempotency-Key": bad.encode()})
    assert answer.status_code in (400, 422)


# ----------------------------------------------------------------------------------------- files


def test_a_file_goes_in_and_comes_out_as_it_was(hub: HubProcess, name: str) -> None:
    content = bytes(range(256)) * 40_000  # 10 MB, over every limit of a JSON body
    kind = {"Content-Type": "application/octet-stream"}
    put = hub.request("POST", f"/v1/thopters/{name}/put?path=/a%20b", content=content, headers=kind)
    assert put.json() == {"size": len(content)}
    fetched = hub.get(f"/v1/thopters/{name}/fetch?path=/a%20b")
    assert fetched.content == content
    assert fetched.headers["content-type"] == "application/octet-stream"
    assert fetched.headers["content-disposition"] == "attachment"
    empty = hub.request("POST", f"/v1/thopters/{name}/put?path=/e", content=b"", headers=kind)
    assert empty.json() == {"size": 0} and hub.get(f"/v1/thopters/{name}/fetch?path=/e").content == b""
    bundle = hub.get(f"/v1/thopters/{name}/bundle")
    assert bundle.content == b"".join(bytes([n]) * 1000 for n in range(20))


def test_an_upload_that_breaks_off_leaves_the_old_file(hub: HubProcess, name: str) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    where = f"/v1/thopters/{name}/put?path=/kept-{name}"
    assert hub.request("POST", where, content=b"old", headers=kind).status_code == 200
    head = f"POST {where} HTTP/1.1\r\nHost: thopter\r\nContent-Type: application/octet-stream\r\n"
    for framing in ("Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
        with Raw(hub.socket) as raw:
            raw.send((head + framing).encode())
    assert hub.get(f"/v1/thopters/{name}/fetch?path=/kept-{name}").content == b"old"


def test_an_error_before_the_first_byte_is_an_answer_and_one_in_the_middle_cuts(
    hub: HubProcess, name: str
) -> None:
    missing = hub.get(f"/v1/thopters/{name}/fetch?path=/missing")
    assert missing.status_code == 404 and error_of(missing)["code"] == "not_found"
    kind = {"Content-Type": "application/octet-stream"}
    hub.request("POST", f"/v1/thopters/{name}/put?path=/broken", content=b"x" * (2 << 20), headers=kind)
    with pytest.raises(httpx2.RemoteProtocolError):
        hub.get(f"/v1/thopters/{name}/fetch?path=/broken")
    assert hub.is_ready()


def test_a_large_file_is_streamed_and_not_held(hub: HubProcess, name: str) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    before = rss_kib(hub.pid())
    pieces = (b"z" * (1 << 20) for _ in range(200))
    put = hub.request("POST", f"/v1/thopters/{name}/put?path=/large", content=pieces, headers=kind)
    assert put.json() == {"size": 200 << 20}
    size = 0
    with hub.client() as client, client.stream("GET", f"/v1/thopters/{name}/fetch?path=/large") as answer:
        for piece in answer.iter_raw():
            size += len(piece)
    assert size == 200 << 20
    assert rss_kib(hub.pid()) - before < 40_000
    (Path(hub.state) / "files" / "_large").unlink()


# ------------------------------------------------------------------------------------ properties


@pytest.mark.battery("H20")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=300), path=st.sampled_from(["/v1/runs", "/v1/thopters", "/v1/thopters/none/tell"])
)
def test_no_body_whatever_makes_the_hub_fail(hub: HubProcess, body: bytes, path: str) -> None:
    answer = hub.request("POST", path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text


@pytest.mark.battery("H20")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_no_bytes_whatever_make_the_hub_fail(hub: HubProcess, data: bytes) -> None:
    with Raw(hub.socket) as raw:
        raw.send(b"GET " + data)
        raw.sock.shutdown(1)
        answer = raw.rest()
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
    assert hub.get("/v1/hub").status_code == 200
