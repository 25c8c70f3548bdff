"""The page's files: what is served before anybody has logged in, with which headers, and what never is."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hub_support import HubProcess, Raw, hub_process, short_folder

from thopter.hub.page import MISSING, VIEWS

INDEX = b"<!doctype html><title>thopter</title><script type=module src=/assets/index-abcd1234.js></script>"
SCRIPT = b"console.log(1)\n" * 200


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A built page."""
    with short_folder() as root:
        page = root / "web"
        (page / "assets").mkdir(parents=True)
        (page / "index.html").write_bytes(INDEX)
        (page / "sw.js").write_bytes(b"self")
        (page / "manifest.webmanifest").write_bytes(b"{}")
        (page / "assets/index-abcd1234.js").write_bytes(SCRIPT)
        (page / "assets/index-abcd1234.js.gz").write_bytes(gzip.compress(SCRIPT))
        (page / "assets/index-abcd1234.js.br").write_bytes(b"as brotli packs it")
        (page / ".hidden.js").write_bytes(b"hidden")
        (page / "odd.exe").write_bytes(b"odd")
        (root / "secret.js").write_bytes(b"secret")
        (page / "link.js").symlink_to(root / "secret.js")
        (page / "out").symlink_to(root)
        yield page


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[HubProcess]:
    """A hub with that page."""
    with (
        short_folder() as root,
        hub_process(root, "--listen", "127.0.0.1:0", THOPTER_PAGE_DIR=str(folder)) as found,
    ):
        yield found


def get(hub: HubProcess, path: str, **headers: str) -> httpx2.Response:
    with httpx2.Client(base_url=hub.tcp, headers={"Accept-Encoding": ""}) as client:
        return client.get(path, headers=headers)


def test_every_view_is_the_page_and_the_api_never_is(served: HubProcess) -> None:
    for path in ("/", "/?x=1", *(f"/{view}" for view in VIEWS), "/t/one", "/t/one/diff", "/t/..%2f..%2fx"):
        answer = get(served, path)
        assert answer.status_code == 200 and answer.content == INDEX, path
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["cache-control"] == "no-cache"
    for path in ("/v1", "/v1/", "/v1/thopters", "/v1/nothing", "/v1x", "/nothing", "/T/one", "//t/one"):
        assert get(served, path).status_code in (401, 429), path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert httpx2.request(method, served.tcp + "/").status_code in (401, 429), method


@pytest.mark.battery("H19")
def test_the_page_runs_its_own_scripts_alone_and_stands_in_no_frame(served: HubProcess) -> None:
    for path in ("/", "/sw.js", "/assets/index-abcd1234.js"):
        headers = get(served, path).headers
        policy = dict(p.strip().partition(" ")[::2] for p in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers and "set-cookie" not in headers


def test_hashed_files_are_kept_for_ever_and_others_asked_about(served: HubProcess) -> None:
    script = get(served, "/assets/index-abcd1234.js")
    assert script.content == SCRIPT and "immutable" in script.headers["cache-control"]
    assert script.headers["vary"] == "accept-encoding"
    worker = get(served, "/sw.js")
    assert worker.headers["cache-control"] == "no-cache"
    tag = worker.headers["etag"]
    assert get(served, "/sw.js", **{"If-None-Match": f'"x", W/{tag}'}).status_code == 304
    assert get(served, "/sw.js", **{"If-None-Match": '"x"'}).status_code == 200
    assert httpx2.head(served.tcp + "/sw.js").headers["content-length"] == "4"


def test_packed_files_go_to_whoever_takes_them(served: HubProcess) -> None:
    path = "/assets/index-abcd1234.js"
    with httpx2.Client(base_url=served.tcp) as client:
        packed = client.get(path, headers={"Accept-Encoding": "gzip, deflate"})
        assert packed.headers["content-encoding"] == "gzip" and packed.content == SCRIPT
        assert int(packed.headers["content-length"]) < len(SCRIPT) // 2
    for takes in ("identity", "br;q=0, gzip;q=0.0", "deflate"):
        assert "content-encoding" not in get(served, path, **{"Accept-Encoding": takes}).headers, takes
    with Raw(("127.0.0.1", served.tcp_port)) as raw:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.tcp_port}\r\nConnection: close\r\n"
        answer = raw.send((head + "Accept-Encoding: gzip, br\r\n\r\n").encode()).rest()
    assert b"content-encoding: br" in answer and answer.endswith(b"as brotli packs it")


@pytest.mark.battery("H1", "H4", "H6")
def test_the_page_is_opened_at_its_own_address_and_by_links_only(served: HubProcess) -> None:
    for host in ("evil.test", "localhost.evil", f"127.0.0.1:{served.tcp_port}.evil.test", "0.0.0.0"):
        assert get(served, "/", Host=host).status_code == 421, host
    assert get(served, "/", Origin="http://evil.test").status_code == 403
    cross = {"Sec-Fetch-Site": "cross-site"}
    followed = {**cross, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert get(served, "/t/one", **followed).status_code == 200
    for mode, dest in (("no-cors", "script"), ("navigate", "iframe"), ("cors", "empty")):
        wrong = {**cross, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        assert get(served, "/sw.js", **wrong).status_code == 403, (mode, dest)
    assert get(served, "/v1/thopters", **followed).status_code == 403, "that is for the page alone"


def test_nothing_outside_the_folder_and_no_link_is_served(served: HubProcess) -> None:
    paths = ("/link.js", "/out/secret.js", "/.hidden.js", "/../secret.js", "/assets/../../secret.js",
             "/%2e%2e/secret.js", "/assets/..%2f..%2fsecret.js", "/odd.exe", "/assets", "/assets/",
             "/assets/index-abcd1234.js.gz", "/index.html/", "/sw.js%00", "//sw.js")  # fmt: skip
    for path in paths:
        with Raw(("127.0.0.1", served.tcp_port)) as raw:
            host = f"127.0.0.1:{served.tcp_port}"
            answer = raw.send(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            ).rest()
        assert answer[9:12] in (b"401", b"429", b"400"), path
        assert b"secret" not in answer.partition(b"\r\n\r\n")[2], path


def test_a_page_that_is_not_there_says_how_to_build_it_and_one_built_later_is_served(root: Path) -> None:
    page = root / "web"
    with hub_process(root, "--listen", "127.0.0.1:0", THOPTER_PAGE_DIR=str(page)) as hub:
        absent = get(hub, "/t/one")
        assert (absent.status_code, absent.content) == (503, MISSING)
        assert absent.headers["cache-control"] == "no-store" and b"./dev web" in MISSING
        page.mkdir()
        (page / "index.html").write_bytes(b"first")
        assert get(hub, "/").content == b"first"
        (page / "new").write_bytes(b"second one")
        os.replace(page / "new", page / "index.html")
        assert get(hub, "/").content == b"second one"
