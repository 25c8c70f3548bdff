"""The page of a conversation, by the real claude-code-log: whole, safe, and made without a look elsewhere."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thopter.fleet.session_log import _convert
from thopter.model.errors import ThopterError

SAMPLES = Path(__file__).parent.parent / "agents/samples"
pytestmark = pytest.mark.timeout(200)


def entry(n: int, kind: str, content: Any, **more: Any) -> dict[str, Any]:
    parent = f"u{n - 1}" if n else None
    return {
        "type": kind, "uuid": f"u{n}", "parentUuid": parent, "sessionId": "s1", "cwd": "/work",
        "version": "2",
        "timestamp": f"2026-01-01T00:00:{n:02}Z", "isSidechain": False, "userType": "external",
        "message": {"role": kind, "content": content} | ({
            "id": f"m{n}", "type": "message", "model": "x", "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        } if kind == "assistant" else {}),
    } | more  # fmt: skip


def made(folder: Path, lines: list[dict[str, Any]], title: str = "heron", refresh: int = 0) -> str:
    (folder / "run").mkdir()
    (folder / "run/s1.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    asyncio.run(_convert(folder / "run", folder / "page.html", title, refresh))
    return (folder / "page.html").read_text()


@pytest.mark.parametrize("version", ["claude-2.1.329", "claude-2.1.197"])
def test_a_real_conversation_with_its_sub_agent_is_on_the_page(tmp_path: Path, version: str) -> None:
    raw = (SAMPLES / version / "transcript.jsonl").read_bytes()
    sub = (SAMPLES / version / "subagent.jsonl").read_bytes()
    session = json.loads(sub.splitlines()[0])["sessionId"]
    agent = json.loads(sub.splitlines()[0])["agentId"]
    folder = tmp_path / "run/-work-report"
    (folder / session / "subagents").mkdir(parents=True)
    (folder / f"{session}.jsonl").write_bytes(raw)
    (folder / session / f"subagents/agent-{agent}.jsonl").write_bytes(sub)
    asyncio.run(_convert(tmp_path / "run", tmp_path / "page.html", "heron", 5))
    page = (tmp_path / "page.html").read_text()
    assert "<title>heron</title>" in page
    assert '<meta http-equiv="refresh" content="5">' in page
    assert page.count("<script>") >= 2
    assert "unpkg" not in page
    for line in (raw + sub).splitlines():
        record = json.loads(line)
        said = (
            record.get("message", {}).get("content") if record.get("type") in ("user", "assistant") else None
        )
        for block in said if isinstance(said, list) else []:
            if block.get("type") == "text" and block["text"].isascii() and block["text"].isalpha():
                assert block["text"] in page


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = (
        "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)> "
        "![x](https://evil.example/y.png) [z](javascript:alert(1)) </script></style>"
        "<iframe src=//evil.example>"
        "\x1b]8;;https://evil.example\x07 <meta http-equiv=refresh content='0;url=https://evil.example'>"
    )
    tool = {"type": "tool_use", "id": "t1", "name": evil, "input": {"command": evil, "file_path": evil}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": evil}
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": 'image/png" onerror="x', "data": "A'>"},
    }
    page = made(tmp_path, [
        entry(0, "user", evil, gitBranch=evil, slug=evil),
        entry(1, "assistant", [{"type": "text", "text": evil}, tool]),
        entry(2, "user", [result, image]), {"type": "summary", "summary": evil, "leafUuid": "u0"},
        entry(3, "assistant", [{"type": "thinking", "thinking": evil, "signature": "x"}]),
    ], title="he<b>ron")  # fmt: skip
    inside = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.S)
    assert "evil.example" in inside  # as text
    tags = re.findall(r"<([a-z!/][^>]*)>", inside)
    assert not [t for t in tags if t.startswith(("iframe", "link", "base", "object", "form"))]
    assert not [t for t in tags if re.search(r"\son\w+=", re.sub(r'"[^"]*"', '""', t))]
    assert not [t for t in tags if t.startswith("img") and "evil" in t]
    assert not [t for t in tags if "javascript:" in re.sub(r'(?:title|data-[a-z-]+|id|class)="[^"]*"', "", t)]
    assert inside.count('http-equiv="refresh"') == 0
    assert "default-src 'none'" in page
    assert "he&lt;b&gt;ron" in page


def test_a_folder_that_a_transcript_names_is_not_touched(tmp_path: Path) -> None:
    """The library asks git in ``cwd`` for links; git would run what a repository's configuration says."""
    trap = tmp_path / "trap"
    trap.mkdir()
    subprocess.run(["git", "init", "-q", str(trap)], check=True)
    ran = tmp_path / "ran"
    (trap / ".git/config").write_text(f"[core]\n\tfsmonitor = touch {ran}\n\tsshCommand = touch {ran}\n")
    (tmp_path / "secret.txt").write_text("canary-7f3a")
    secret = f"{tmp_path}/secret.txt"
    said = f"commit 7c2e6f6 and 0123456789abcdef0123456789abcdef01234567 in {tmp_path}/secret.txt"
    lines = [
        entry(0, "user", said, cwd=str(trap)),
        entry(1, "assistant", [{"type": "text", "text": said}], cwd=str(trap)),
        entry(2, "user", [{"type": "tool_result", "tool_use_id": "t", "content": said}], cwd=str(trap),
              toolUseResult={"outputFile": secret, "file": {"filePath": secret}}),
    ]  # fmt: skip
    page = made(tmp_path, lines)
    assert "7c2e6f6" in page
    assert not ran.exists()
    assert "canary-7f3a" not in page


def test_garbage_is_left_out_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    good = json.dumps(entry(0, "user", "hello there"))
    (tmp_path / "run/s1.jsonl").write_bytes(
        b'{"torn": \n\xff\xfe\x00\n[1]\nnull\n{"type":"user"}\n'
        + good.encode()
        + b"\n"
        + b"\x00" * 100
        + b"\n{"
    )
    asyncio.run(_convert(tmp_path / "run", tmp_path / "page.html", "heron", 0))
    assert "hello there" in (tmp_path / "page.html").read_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ThopterError, match="could not be made"):
        asyncio.run(_convert(tmp_path / "empty", tmp_path / "none.html", "heron", 0))


def test_the_guard_refuses_programs_connections_and_files(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    (tmp_path / "in").mkdir()
    code = f"""
import os, socket, subprocess, sys
from thopter.fleet.log_page import guard
guard([*sys.path, {str(tmp_path / "in")!r}], [{str(tmp_path / "in")!r}])
open({str(tmp_path / "in" / "mine")!r}, "w").close()
for name, work in {{
    "program": lambda: subprocess.run(["true"]),
    "shell": lambda: os.system("true"),
    "fork": lambda: os.fork(),
    "connect": lambda: socket.create_connection(("127.0.0.1", 1)),
    "read": lambda: open({str(tmp_path / "other")!r}),
    "up": lambda: open({str(tmp_path / "in/../other")!r}),
    "write": lambda: open({str(tmp_path / "new")!r}, "w"),
    "list": lambda: os.listdir({str(tmp_path)!r}),
    "remove": lambda: os.remove({str(tmp_path / "other")!r}),
}}.items():
    try:
        work()
        print("DID", name)
    except PermissionError:
        pass
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("", 0), run.stderr
    assert (tmp_path / "other").exists()
