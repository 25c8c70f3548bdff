"""Hostile clients of the git gateway: raw requests and raw push bodies; only the box's own ref ever moves."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import zlib
from pathlib import Path

import pytest
from gateway_support import Home, ask, commit, git, in_loop, read_reply, request
from git_rig import GitRig, git_rig, leftovers

from battery_plugin import Count

RECEIVE = "application/x-git-receive-pack-request"
UPLOAD = "application/x-git-upload-pack-request"
OWN, OTHER, MAIN = "refs/heads/thopter/flag", "refs/heads/thopter/other", "refs/heads/main"
CAPS = b"report-status side-band-64k agent=x"
FLUSH = b"0000"
HUGE = b"PACK\x00\x00\x00\x02\x00\x00\x00\x01\xb0\x80\x80\x80\xa0\x25"  # the head of a blob of 10 GiB


def pkt(text: bytes | str) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return b"%04x%b" % (len(raw) + 4, raw)


def pack() -> bytes:
    """A pack of no objects: what is pushed is in the mirror already."""
    raw = b"PACK" + (2).to_bytes(4, "big") + (0).to_bytes(4, "big")
    return raw + hashlib.sha1(raw).digest()


def command(old: str, new: str, ref: str, caps: bytes = CAPS) -> bytes:
    return pkt(f"{old} {new} {ref}".encode() + (b"\0" + caps if caps else b""))


class Ids:
    """Commits the bodies are made of; ``zero`` stands for "no ref"."""

    zero = "0" * 40

    def __init__(self, rig: GitRig, new: str) -> None:
        self.base = rig.base
        self.new = new


def cert(ids: Ids, ref: str, split: bool = False) -> bytes:
    """A push certificate as a client would send it, though none was advertised."""
    lines = ["certificate version 0.1\n", "pusher x\n", "nonce \n", "\n", f"{ids.base} {ids.new} {ref}\n"]
    lines += ["-----BEGIN PGP SIGNATURE-----\n", "x\n", "-----END PGP SIGNATURE-----\n"]
    out = pkt(b"push-cert\0" + CAPS)
    for line in lines:
        if split and ref in line:
            at = line.index(ref) + 8
            out += pkt(line[:at]) + pkt(line[at:])
        else:
            out += pkt(line)
    return out + pkt("push-cert-end\n")


def bodies(i: Ids) -> dict[str, bytes]:
    """Name → body; none of them may move any ref but the box's own."""
    own = command(i.zero, i.new, OWN)
    main = command(i.base, i.new, MAIN)
    return {
        "main": main + FLUSH + pack(),
        "own and main": own + command(i.base, i.new, MAIN, b"") + FLUSH + pack(),
        "main and own": main + command(i.zero, i.new, OWN, b"") + FLUSH + pack(),
        "name hidden behind NUL": command(i.base, i.new, MAIN, b" " + OWN.encode()) + FLUSH + pack(),
        "NUL in the name": pkt(f"{i.base} {i.new} {MAIN}\0{OWN}\0".encode() + CAPS) + FLUSH + pack(),
        "own and a certificate": own + cert(i, MAIN) + FLUSH + pack(),
        "own and a split certificate": own + cert(i, MAIN, split=True) + FLUSH + pack(),
        "a certificate alone": cert(i, MAIN) + FLUSH + pack(),
        "a certificate for its own": cert(i, OWN) + FLUSH + pack(),
        "delete main": command(i.base, i.zero, MAIN) + FLUSH,
        "delete another's": command(i.base, i.zero, OTHER) + FLUSH,
        "force another's": command(i.base, i.new, OTHER) + FLUSH + pack(),
        "shell in the name": command(i.zero, i.new, OWN + "$(touch${IFS}x)") + FLUSH + pack(),
        "ended by 0001": main + b"0001" + pack(),
        "ended by 0002": main + b"0002" + pack(),
        "delimiter, then commands": own + b"0001" + command(i.base, i.new, MAIN, b"") + FLUSH + pack(),
        "upper case length": main[:4].upper() + main[4:] + FLUSH + pack(),
        "upper case ids": command(i.base.upper(), i.new.upper(), MAIN) + FLUSH + pack(),
        "trailing line feed": pkt(f"{i.base} {i.new} {MAIN}\n".encode() + b"\0" + CAPS) + FLUSH + pack(),
        "caps on the second line": command(i.zero, i.new, OWN, b"") + main + FLUSH + pack(),
        "dots": command(i.zero, i.new, "refs/heads/thopter/../main") + FLUSH + pack(),
        "HEAD": command(i.base, i.new, "HEAD") + FLUSH + pack(),
        "0x length": b"0x6b" + main[4:] + FLUSH + pack(),
        "signed length": b"+06b" + main[4:] + FLUSH + pack(),
        "huge length": b"ffff" + main[4:] + FLUSH + pack(),
        "length 3": b"0003" + main + FLUSH + pack(),
        "no flush": main + pack(),
        "two flushes": FLUSH + main + FLUSH + pack(),
        "shallow, then main": pkt(f"shallow {i.base}") + main + FLUSH + pack(),
        "shallow lie and own": pkt(f"shallow {i.new}") + own + FLUSH + pack(),
        "push options": command(i.base, i.new, MAIN, CAPS + b" push-options") + FLUSH + pkt("x") + FLUSH,
        "object format": command(i.base, i.new, MAIN, CAPS + b" object-format=sha256") + FLUSH + pack(),
        "a ref of upstream": command(i.base, i.new, "refs/upstream/heads/main") + FLUSH + pack(),
        "a config-like name": command(i.zero, i.new, "refs/heads/thopter/flag@{1}") + FLUSH + pack(),
        "a lock": command(i.zero, i.new, OWN + ".lock") + FLUSH + pack(),
        "a file of git": command(i.zero, i.new, "config") + FLUSH + pack(),
        "an object that is not there": command(i.zero, "1" * 40, OWN) + FLUSH + pack(),
        "a broken pack": own + FLUSH + pack()[:-1] + b"x",
        "a pack that ends early": own + FLUSH + b"PACK\x00\x00\x00\x02\x00\x00\x00\x05",
        "a blob of ten gigabytes": own + FLUSH + HUGE + b"x" * 99,
        "nothing": b"",
        "only zeros": b"0" * 4000,
        "noise": bytes(range(256)) * 8,
    }  # fmt: skip


async def push(rig: GitRig, body: bytes, *headers: str, box: str = "flag") -> tuple[int, bytes]:
    """Send a raw push; returns status and answer."""
    target = f"/r/{rig.slug}.git/git-receive-pack"
    reply = await ask(rig.ports[box], request("POST", target, body, (f"content-type: {RECEIVE}", *headers)))
    return reply.status, reply.body


async def prepared(rig: GitRig) -> Ids:
    """A second commit that the mirror has on a branch of the source, and another box's branch."""
    git("checkout", "-q", "-b", "dev", cwd=rig.source)
    new = commit(rig.source, "second")
    await rig.mirrors.prepare(str(rig.source))
    git("update-ref", OTHER, rig.base, cwd=rig.mirror)
    return Ids(rig, new)


@pytest.mark.battery("G1", "G2")
@in_loop
async def test_no_push_body_moves_a_ref_of_others(place: Home, battery: Count) -> None:
    async with git_rig(place) as r:
        ids = await prepared(r)
        before = r.refs()
        tried = bodies(ids)
        for name, body in tried.items():
            for headers in ((), ("git-protocol: version=2",), ("git-protocol: version=1",)):
                await push(r, body, *headers)
                after = r.refs()
                after.pop(OWN, None)
                battery.tried(1, after == before, canary=after != before)
                assert after == before, f"{name}: a foreign ref moved"
            if OWN in r.refs():
                git("update-ref", "-d", OWN, cwd=r.mirror)
        assert len(tried) > 40 and leftovers(r.mirror) == []
        status, answer = await push(r, command(ids.zero, ids.new, OWN) + FLUSH + pack())
        assert status == 200 and b"ok " + OWN.encode() in answer  # the control
        battery.tried(0, 0, controls=1)
        assert r.refs() == before | {OWN: ids.new}


def _targets(slug: str, other: str) -> list[str]:
    root = f"/r/{slug}.git"
    good = f"{root}/info/refs?service=git-upload-pack"
    below = [
        "",
        "/",
        "/HEAD",
        "/config",
        "/objects/info/packs",
        "/info/refs",
        "/info/refs/",
        "/hooks/pre-receive",
    ]
    below += [
        "/objects/../config",
        "/git-upload-archive",
        "/../../hub.db",
        "/info/lfs/objects/batch",
        "/locks",
    ]
    queries = [
        "git-upload-archive",
        "git%2dupload-pack",
        "upload-pack",
        "git-upload-pack&x=y",
        "git-upload-pack#",
    ]
    queries += ["git-upload-pack&service=git-receive-pack", "git-upload-pack%20", ""]
    spelt = [
        ("/r/", "//r/"),
        ("/info", "//info"),
        ("/r/", "/r/./"),
        ("/r/", "/r/x/../"),
        ("/r/", "/r/%2e%2e/r/"),
    ]
    spelt += [("/r/", "/R/"), (".git", ".git%00"), (".git", ""), ("?", ";"), ("?", "?x=y&"), ("/r/", "/")]
    spelt += [(slug, other), (slug, "..%2f" + slug), (slug, slug.upper())]
    return [
        "/",
        *[root + path for path in below],
        *[f"{root}/info/refs?service={query}" for query in queries],
        *[good.replace(old, new) for old, new in spelt],
    ]


@pytest.mark.battery("G3")
@in_loop
async def test_any_path_outside_the_four_is_refused_before_its_body_is_read(place: Home) -> None:
    async with git_rig(place) as r:
        second = place.root / "second"
        from gateway_support import make_repo

        make_repo(second)
        ref, _ = await r.mirrors.prepare(str(second))
        for target in _targets(r.slug, ref.slug):
            for method in ("GET", "POST", "PUT", "HEAD"):
                head = f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".encode()
                reply = await ask(r.ports["flag"], head, head_only=method == "HEAD")  # its body never comes
                assert reply.status == (501 if "/info/lfs/" in target else 403), (method, target)
                assert reply.headers["connection"] == "close"
        good = f"/r/{r.slug}.git/info/refs?service=git-upload-pack"
        assert (await ask(r.ports["flag"], request("GET", good))).status == 200  # the control
        assert (await ask(r.ports["flag"], request("HEAD", good), head_only=True)).status == 405


def raw_push(slug: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"POST /r/{slug}.git/git-receive-pack HTTP/1.1", "host: x", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.battery("G4")
@in_loop
async def test_wrong_types_encodings_and_framings_are_refused(place: Home) -> None:
    async with git_rig(place) as r:
        kind = f"content-type: {RECEIVE}"
        cases: list[tuple[bytes, set[int]]] = [
            (raw_push(r.slug, "content-length: 4", body=FLUSH), {415}),
            (raw_push(r.slug, f"content-type: {UPLOAD}", "content-length: 4", body=FLUSH), {415}),
            (raw_push(r.slug, kind, kind, "content-length: 4", body=FLUSH), {415}),
            (raw_push(r.slug, kind, "content-encoding: br", "content-length: 4", body=FLUSH), {415}),
            (raw_push(r.slug, kind, "content-encoding: gzip, gzip", "content-length: 4", body=FLUSH), {415}),
            (raw_push(r.slug, kind, "content-length: 4", "transfer-encoding: chunked", body=FLUSH), {400}),
            (raw_push(r.slug, kind, "content-length: 4", "content-length: 5", body=FLUSH), {400}),
            (raw_push(r.slug, kind, "transfer-encoding: gzip, chunked", body=FLUSH), {501}),
            (raw_push(r.slug, kind, "transfer-encoding: chunked", body=b"zz\r\n"), {400}),
            (raw_push(r.slug, kind, "content-encoding: gzip", "content-length: 4", body=FLUSH), {400}),
            (raw_push(r.slug, kind, "content-length: 9999999999"), {413}),
        ]
        for raw, wanted in cases:
            assert (await ask(r.ports["flag"], raw)).status in wanted, raw
        good = gzip.compress(FLUSH)
        length = f"content-length: {len(good)}"
        fine = await ask(r.ports["flag"], raw_push(r.slug, kind, "content-encoding: gzip", length, body=good))
        assert fine.status == 200  # the control


@pytest.mark.battery("G4")
@in_loop
async def test_gzip_bombs_and_doubled_or_cut_streams_end_early(place: Home) -> None:
    async with git_rig(place) as r:
        before = r.refs()
        bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
        packed = bomb.compress(bytes(400 << 20)) + bomb.flush()
        whole = gzip.compress(FLUSH)
        for body in (packed, whole + whole, whole + b"x", whole[:-3]):
            # git may have begun its answer before the lie shows; what counts is that nothing is kept.
            status, _ = await push(r, body, "content-encoding: gzip")
            assert status in (200, 400, 413)
        memory = Path(f"/proc/{r.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in memory.splitlines() if line.startswith("VmHWM"))
        assert peak < 150_000, f"{peak} KiB at the highest"
        assert leftovers(r.mirror) == [] and r.refs() == before


@pytest.mark.battery("G4")
@in_loop
async def test_an_endless_fetch_request_is_cut_off(place: Home) -> None:
    async with git_rig(place) as r:
        reader, writer = await asyncio.open_connection("127.0.0.1", r.ports["flag"])
        head = f"POST /r/{r.slug}.git/git-upload-pack HTTP/1.1\r\nhost: x\r\ncontent-type: {UPLOAD}\r\n"
        writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        line = pkt("want " + "1" * 40 + "\n") * 2000
        answer = asyncio.gather(read_reply(reader))
        async with asyncio.timeout(90):
            sent = 0
            while sent < 10_000:
                sent += 1
                try:
                    writer.write(b"%x\r\n%b\r\n" % (len(line), line))
                    await writer.drain()
                except ConnectionError:
                    break
            found = (await answer)[0]
        assert sent * len(line) < 40 << 20, "it was read on and on"
        assert found.status in (413, 500) or not found.whole
        writer.close()


@pytest.mark.battery("G3")
@in_loop
async def test_only_three_texts_of_the_protocol_header_reach_git(place: Home) -> None:
    async with git_rig(place) as r:
        target = f"/r/{r.slug}.git/info/refs?service=git-upload-pack"
        answers = {}
        for text in (
            "version=2",
            "version=1",
            "version=0",
            "",
            "version=2:x",
            "version=3",
            "version=2\tversion=1",
        ):
            reply = await ask(r.ports["flag"], request("GET", target, headers=(f"git-protocol: {text}",)))
            assert reply.status == 200
            answers[text] = b"version 2" in reply.body[:60]
        assert [text for text, is_v2 in answers.items() if is_v2] == ["version=2"]
        twice = request("GET", target, headers=("git-protocol: version=2", "git-protocol: version=2"))
        assert b"version 2" not in (await ask(r.ports["flag"], twice)).body[:60]


@pytest.mark.battery("G1")
@in_loop
async def test_the_advertisement_offers_no_certificates_options_or_bundles(place: Home) -> None:
    async with git_rig(place) as r:
        ids = await prepared(r)
        root = f"/r/{r.slug}.git/info/refs?service="
        refs = (await ask(r.ports["flag"], request("GET", root + "git-receive-pack"))).body
        assert b"report-status" in refs and MAIN.encode() in refs and ids.new.encode() in refs
        for word in (b"push-cert", b"push-options", OTHER.encode(), b"refs/upstream"):
            assert word not in refs
        v2 = request("GET", root + "git-upload-pack", headers=("git-protocol: version=2",))
        offered = (await ask(r.ports["flag"], v2)).body
        assert b"fetch=" in offered
        for word in (b"bundle-uri", b"packfile-uris", b"promisor"):
            assert word not in offered
