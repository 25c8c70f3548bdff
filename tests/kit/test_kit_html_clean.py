"""A page made of hostile text: what a browser would fetch or run is not in it, and no text is lost."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.kit.html_clean import blocks, clean_page

OWN = "console.log('ours')"
STYLE = "p { color: red }"
TRUSTED = blocks(f"<style>{STYLE}</style><script>{OWN}</script><script src=x>//cdn.example</script>")


def cleaned(body: str, head: str = "") -> str:
    return clean_page(f"<html><head>{head}</head><body>{body}</body></html>", TRUSTED, "t")


class Seen(HTMLParser):
    """What a browser would find."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.battery("X4")
@pytest.mark.parametrize(
    "body",
    [
        "<script>alert(1)</script>",
        "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
        f"<script>{OWN} </script>",
        "<img src=x onerror=alert(1)>",
        "<img src='https://evil.example/pixel.png'>",
        "<svg onload=alert(1)><a xlink:href='javascript:alert(1)'></a></svg>",
        "<a href='javascript:alert(1)'>x</a>",
        "<a href=' java\nscript:alert(1)'>x</a>",
        "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
        "<iframe src='https://evil.example'></iframe>",
        "<link rel=stylesheet href=https://evil.example/x.css><link rel=dns-prefetch href=//evil.example>",
        "<meta http-equiv=refresh content='0;url=https://evil.example'>",
        "<base href=https://evil.example>",
        "<form action=https://evil.example><input type=submit formaction=https://evil.example></form>",
        "<div style='background: url(https://evil.example/x)'>x</div>",
        "<style>@import 'https://evil.example/x.css'</style>",
        "<object data=https://evil.example></object><embed src=https://evil.example>",
        "<video src=https://evil.example poster=https://evil.example></video>",
        "<input type=image src=https://evil.example>",
        "<p onclick='alert(1)' formaction='javascript:x' srcset='https://evil.example 1x'>x</p>",
        "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
        "<textarea></textarea><script>alert(1)</script>",
        "<!-- --!><script>alert(1)</script> -->",
        "<table background=https://evil.example><td background=https://evil.example>",
    ],
)
def test_nothing_is_run_or_fetched(body: str) -> None:
    page = cleaned(body + "<p>the end</p>")
    seen = Seen(page)
    assert "the end" in seen.text
    assert "evil.example" not in re.sub(r">[^<]*<", "><", page)
    assert not [
        t for t, _ in seen.tags if t in ("script", "iframe", "object", "embed", "form", "base", "link")
    ]
    for tag, attrs in seen.tags:
        assert not [a for a in attrs if a.startswith("on") or a in ("srcset", "formaction", "background")]
        assert tag != "meta" or attrs.get("http-equiv") in (None, "Content-Security-Policy")


def test_what_is_known_stays_and_the_policy_names_its_hash() -> None:
    page = cleaned(f"<p class='a' data-x='1'>hi</p><script id=x>{OWN}</script>", f"<style>{STYLE}</style>")
    assert f"<script>{OWN}</script>" in page
    assert f"<style>{STYLE}</style>" in page
    assert '<p class="a" data-x="1">hi</p>' in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert policy[1].count("'sha256-") == 1
    assert "//cdn.example" not in TRUSTED


def test_links_images_and_refresh() -> None:
    page = clean_page(
        "<body><a href='https://x.example/a?b=1&amp;c=2'>x</a><img src='data:image/png;base64,AAAA'>"
        "<a href='#part'>y</a><div style='color: red'></div>",
        TRUSTED, "a <b> title", 5,
    )  # fmt: skip
    assert '<a href="https://x.example/a?b=1&amp;c=2" rel="noopener noreferrer">x</a>' in page
    assert '<img src="data:image/png;base64,AAAA">' in page
    assert '<a href="#part" rel="noopener noreferrer">' in page
    assert '<div style="color: red"></div>' in page
    assert "<title>a &lt;b&gt; title</title>" in page
    assert '<meta http-equiv="refresh" content="5">' in page


def test_what_is_left_open_is_closed_and_control_characters_go() -> None:
    page = cleaned("<div><ul><li>one\x1b[31m\u202e two</div> after")
    assert "<div><ul><li>one two</li></ul></div> after" in page


SOUP = ["<", ">", "script", "/", "img", " ", "onerror=", "x", "'", '"', "!--", "--", "a", "href=", "style"]
SOUP += ["javascript:", "=", "&lt;", "\x00", "svg"]


@pytest.mark.battery("X4")
@given(st.lists(st.sampled_from(SOUP), max_size=40))
def test_any_soup_comes_out_harmless(parts: list[str]) -> None:
    seen = Seen(cleaned("".join(parts)))
    assert not [t for t, _ in seen.tags if t in ("script", "svg", "iframe")]
    for _tag, attrs in seen.tags:
        assert not [a for a in attrs if a.startswith("on")]
        assert "javascript" not in (attrs.get("href") or "")
