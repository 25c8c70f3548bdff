"""From a turn to the bytes of the Messages API: one JSON message, or the pieces of an event stream."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from thopter.testing.scripted_model.scenario import ERROR_TYPES, Turn

_WORD = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fill(value: Any, words: Mapping[str, str]) -> Any:
    """Replace ``${name}`` by its value in every string below ``value``; unknown names stay."""
    if isinstance(value, str):
        return _WORD.sub(lambda hit: words.get(hit[1], hit[0]), value)
    if isinstance(value, dict):
        return {k: fill(v, words) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, words) for v in value]
    return value


def _id(prefix: str, *parts: object) -> str:
    """The same request gets the same ids, also when it is tried again."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{prefix}_{digest[:24]}"


def tokens(size: int) -> int:
    """Estimate a number of tokens from a number of bytes or characters."""
    return max(1, size // 4)


def message(turn: Turn, words: Mapping[str, str], *, model: str, digest: str, size: int) -> dict[str, Any]:
    """Build the complete answer. ``digest`` identifies the request, ``size`` is its length."""
    content: list[dict[str, Any]] = []
    if turn.think:
        thought = fill(turn.think, words)
        content.append({"type": "thinking", "thinking": thought, "signature": _id("sig", digest, thought)})
    if turn.say:
        content.append({"type": "text", "text": fill(turn.say, words)})
    for number, tool in enumerate(turn.tools):
        content.append(
            {
                "type": "tool_use",
                "id": tool.id or _id("toolu", digest, number),
                "name": tool.name,
                "input": fill(tool.input, words),
            }
        )
    given = turn.usage
    return {
        "id": _id("msg", digest),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": turn.stop_reason or ("tool_use" if turn.tools else "end_turn"),
        "stop_sequence": None,
        "usage": {
            "input_tokens": _or(given.input_tokens, tokens(size)),
            "cache_creation_input_tokens": given.cache_creation_input_tokens,
            "cache_read_input_tokens": given.cache_read_input_tokens,
            "output_tokens": _or(given.output_tokens, tokens(len(json.dumps(content)))),
        },
    }


def _or(value: int | UnsetType, default: int) -> int:
    return default if value is UNSET else value


def event(kind: str, **fields: Any) -> bytes:
    """One server-sent event."""
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode("utf-8", "surrogatepass")


def _pieces(text: str, chars: int) -> Iterator[str]:
    yield from (text[i : i + chars] for i in range(0, len(text), chars))


def _deltas(block: Mapping[str, Any], chars: int) -> Iterator[dict[str, Any]]:
    kind = block["type"]
    if kind == "thinking":
        for piece in _pieces(block["thinking"], chars):
            yield {"type": "thinking_delta", "thinking": piece}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif kind == "text":
        for piece in _pieces(block["text"], chars):
            yield {"type": "text_delta", "text": piece}
    else:
        for piece in _pieces(json.dumps(block["input"], ensure_ascii=False), chars):
            yield {"type": "input_json_delta", "partial_json": piece}


_EMPTY: dict[str, dict[str, Any]] = {
    "thinking": {"thinking": "", "signature": ""},
    "text": {"text": ""},
    "tool_use": {"input": {}},
}


def stream(answer: Mapping[str, Any], chars: int) -> Iterator[bytes]:
    """The events of ``answer`` in pieces as they shall be sent: the start, each delta, the end."""
    usage = answer["usage"]
    head = {**answer, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    lead = event("message_start", message=head) + event("ping")
    for index, block in enumerate(answer["content"]):
        start = {k: v for k, v in block.items() if k not in _EMPTY[block["type"]]} | _EMPTY[block["type"]]
        lead += event("content_block_start", index=index, content_block=start)
        for delta in _deltas(block, chars):
            yield lead + event("content_block_delta", index=index, delta=delta)
            lead = b""
        lead += event("content_block_stop", index=index)
    stop = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    yield lead + event("message_delta", delta=stop, usage=usage) + event("message_stop")


def error_body(status: int, text: str, digest: str) -> dict[str, Any]:
    """The API's form of an error."""
    kind = ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    shown = text or f"scripted {status}"
    return {
        "type": "error",
        "error": {"type": kind, "message": shown},
        "request_id": _id("req", digest),
    }
