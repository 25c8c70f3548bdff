"""The gateways: what they add to a model call, and clones through them beside git's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.rows import Row, p50, p99
from thopter.gateway.client import GatewayClient, git_client, model_client
from thopter.gateway.mirror import Mirrors
from thopter.kit.paths import Paths

_CALLS = 300
_BULK = 64 << 20
_ENV = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
_WHO = ("-c", "user.name=b", "-c", "user.email=b@b")


def measure() -> list[Row]:
    """All rows of this case."""
    with tempfile.TemporaryDirectory(prefix="thopter-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    paths = Paths(folder / "state", folder / "run", folder / "config")
    model, git = model_client(paths), git_client(paths)
    try:
        return await _model(model) + await _git(git, folder, paths)
    finally:
        await asyncio.gather(model.stop(), git.stop())


def _listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    return sock


@contextlib.contextmanager
def _upstream() -> Iterator[int]:
    """Run the endpoint in a process of its own, as a real one is; gives its port."""
    code = "import asyncio; from bench.cases.gateways import endpoint; asyncio.run(endpoint())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def endpoint() -> None:
    """Answer a small call with one event and a big one with many bytes; prints the port."""
    event = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    small = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    small += b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
    block = bytes(1 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                body = await reader.readexactly(length)
                if body != b"bulk":
                    writer.write(small)
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % _BULK)
                for _ in range(_BULK // len(block)):
                    writer.write(block)
                    await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def _request(body: bytes) -> bytes:
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer box\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


async def _first_byte_ms(port: int, body: bytes) -> float:
    """Connect, ask, and wait for the first byte of the first event."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request(body))
    await reader.readuntil(b"\r\n\r\n")
    await reader.read(1)
    took = (time.perf_counter() - began) * 1000
    writer.close()
    return took


async def _megabytes_per_second(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    began = time.perf_counter()
    writer.write(_request(b"bulk"))
    await reader.readuntil(b"\r\n\r\n")
    left = _BULK
    while left:
        left -= len(await reader.read(1 << 20))
    took = time.perf_counter() - began
    writer.close()
    return _BULK / 1e6 / took


async def _model(client: GatewayClient) -> list[Row]:
    await client.ensure()
    body = b'{"model":"m","max_tokens":99,"messages":[' + b'{"role":"user"},' * 2000 + b"{}]}"
    limit = {"account": "box:bench", "what": "tokens", "most": 1 << 50}
    terms = {"accounts": ["run:bench", "box:bench"], "limits": [limit], "name": "bench"}
    with _upstream() as port, _listener() as door:
        auth = {"kind": "bearer", "secret": "sk-bench"}
        await client.attach("bench", door, upstream=f"http://127.0.0.1:{port}", auth=auth)
        ours = int(door.getsockname()[1])
        direct, through = [], []
        for _ in range(_CALLS):  # in turns, so that a busy moment hits both
            direct.append(await _first_byte_ms(port, body))
            through.append(await _first_byte_ms(ours, body))
        await client.attach("bench", door, upstream=f"http://127.0.0.1:{port}", auth=auth, terms=terms)
        bound, beside = [], []
        for _ in range(_CALLS):
            beside.append(await _first_byte_ms(port, body))
            bound.append(await _first_byte_ms(ours, body))
        await client.attach("bench", door, upstream=f"http://127.0.0.1:{port}", auth=auth)
        bulk = p50([await _megabytes_per_second(ours) for _ in range(3)])
        bulk_direct = p50([await _megabytes_per_second(port) for _ in range(3)])
    added = [a - b for a, b in zip(through, direct, strict=True)]
    more = [a - b for a, b in zip(bound, beside, strict=True)]
    return [
        Row(name="model call: added to the first byte", value=p50(added), p99=p99(added), unit="ms",
            n=_CALLS, budget="≤ 5 ms", anchor="the same call made directly", anchor_value=p50(direct)),
        Row(name="the same on a budget (the body is read whole first)", value=p50(more), p99=p99(more),
            unit="ms", n=_CALLS, budget="≤ 5 ms", anchor="the same call directly", anchor_value=p50(beside)),
        Row(name="model answer, one big body", value=bulk, unit="MB/s", n=3, anchor="directly",
            anchor_value=bulk_direct),
    ]  # fmt: skip


def _make_repository(folder: Path) -> None:
    """About 90 MB packed: 60 binaries, 3,000 text files, 300 commits that edit them."""
    rng = random.Random(7)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz_", k=rng.randint(2, 9))) for _ in range(4000)]

    def text(lines: int) -> bytes:
        return b"\n".join(b" ".join(rng.choices(words, k=9)) for _ in range(lines)) + b"\n"

    files = {b"src/d%d/f%d.py" % (k % 60, k): text(rng.randint(10, 240)) for k in range(3000)}
    first = files | {b"assets/b%d.bin" % k: rng.randbytes(1_300_000) for k in range(60)}
    script: list[bytes] = []
    for number in range(300):
        changed = first if number == 0 else {p: files[p] + text(40) for p in rng.sample(list(files), 3)}
        files |= changed if number else {}
        script.append(
            b"commit refs/heads/main\ncommitter a <a@a> %d +0000\ndata 1\nx\n" % (1_700_000_000 + number)
        )
        script += [b"M 644 inline %b\ndata %d\n%b\n" % (p, len(c), c) for p, c in changed.items()]
    _run("init", "-q", "-b", "main", str(folder))
    subprocess.run(["git", "-C", str(folder), "fast-import", "--quiet"], input=b"".join(script), check=True)
    _run("-C", str(folder), "gc", "-q")


def _run(*argv: str) -> float:
    """Run git; returns the seconds it took."""
    began = time.perf_counter()
    subprocess.run(["git", *argv], env=_ENV, check=True, capture_output=True, timeout=600)
    return time.perf_counter() - began


async def _git(client: GatewayClient, folder: Path, paths: Paths) -> list[Row]:
    source = folder / "source"
    await asyncio.to_thread(_make_repository, source)
    mirrors = Mirrors(paths.state / "mirrors", {})
    began = time.perf_counter()
    ref, _ = await mirrors.prepare(f"file://{source}")
    first = time.perf_counter() - began
    again = []
    for _ in range(10):
        began = time.perf_counter()
        await mirrors.prepare(str(source))
        again.append((time.perf_counter() - began) * 1000)
    plain = await asyncio.to_thread(
        _run, "clone", "-q", "--mirror", "--no-local", str(source), str(folder / "plain")
    )
    await client.ensure()
    with _listener() as door:
        await client.attach("bench", door, repo=ref.slug, branch="thopter/bench", base=ref.base)
        url = f"http://127.0.0.1:{door.getsockname()[1]}/r/{ref.slug}.git"
        direct, through = [], []
        for number in range(3):
            place = str(folder / f"d{number}")
            direct.append(
                await asyncio.to_thread(_run, "clone", "-q", "-n", f"file://{mirrors.path(ref.slug)}", place)
            )
            through.append(
                await asyncio.to_thread(_run, "clone", "-q", "-n", url, str(folder / f"t{number}"))
            )
        pushes = await asyncio.to_thread(_push, folder / "t0", url, "refs/heads/thopter/bench")
        bare = await asyncio.to_thread(_push, folder / "d0", str(folder / "plain"), "refs/heads/bench")
    return [
        Row(name="mirror of 90 MB, the first time", value=first, unit="s", n=1,
            anchor="git clone --mirror --no-local", anchor_value=plain),
        Row(name="mirror of 90 MB, every other time", value=p50(again), p99=p99(again), unit="ms", n=10),
        Row(name="clone of 90 MB by the git gateway", value=p50(through), unit="s", n=3,
            anchor="git clone file://mirror", anchor_value=p50(direct)),
        Row(name="push of one small commit by the git gateway", value=p50(pushes), unit="ms", n=10,
            anchor="git push to a local path, no policy", anchor_value=p50(bare)),
    ]  # fmt: skip


def _push(work: Path, to: str, ref: str) -> list[float]:
    """Milliseconds of each of ten pushes of one new commit."""
    took = []
    _run("-C", str(work), "reset", "-q", "HEAD")
    for number in range(10):
        _run("-C", str(work), *_WHO, "commit", "-q", "--allow-empty", "-m", f"n{number}")
        took.append(_run("-C", str(work), "push", "-q", to, f"HEAD:{ref}") * 1000)
    return took
