"""The view of one thopter: what it says and does, its screen, its changes and comments on them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from e2e_lab import Lab
from page_lab import HOSTILE, PATIENCE_MS, Visit, accessible, fits, visit
from playwright.sync_api import Browser, expect
from xss_zoo import NAMES, zoo

pytestmark = [
    pytest.mark.claude,
    pytest.mark.root,
    pytest.mark.xdist_group("page"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def seen(hub: Lab, browser: Browser) -> Iterator[Visit]:
    """Somebody who may do everything, at a desk."""
    with visit(browser, hub) as one:
        one.log_in()
        yield one


def _change(hub: Lab) -> None:
    """Files that an agent may leave: changed, hostile by name, binary, and a long one."""
    hub.run("exec", "lark", "--", "sh", "-c", "echo 'two <b>words</b>' >> README.md")
    hub.run(
        "exec",
        "lark",
        "--",
        "sh",
        "-c",
        "printf 'x' > \"$(printf 'odd\\n<img src=x>')\"; head -c 99 /dev/zero > bin.dat",
    )
    hub.run("exec", "lark", "--", "sh", "-c", "seq 1 5000 > long.txt")


def test_a_conversation_is_shown_as_it_happens_and_is_only_text(seen: Visit, hub: Lab) -> None:
    page = seen.page
    seen.go("/t/lark")
    log = page.get_by_role("log", name="Conversation")
    expect(log.get_by_text("All done here.").first).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_label("Say something to lark").fill("hostile words please")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(log.get_by_text(HOSTILE.partition("<script>")[0][:20], exact=False).first).to_be_visible(
        timeout=PATIENCE_MS
    )
    assert page.title() != "owned" and log.locator("img").count() == 0
    page.get_by_label("Find in what is shown").fill("onerror")
    expect(page.get_by_role("status").filter(has_text=re.compile("of .* shown"))).to_be_visible()
    page.get_by_label("Find in what is shown").fill("")
    accessible(page, "the conversation")


def test_changes_are_shown_and_comments_on_them_reach_the_agent(seen: Visit, hub: Lab) -> None:
    _change(hub)
    page = seen.page
    seen.go("/t/lark/changes")
    readme = page.locator("details.file", has_text="README.md").first
    expect(readme).to_be_visible(timeout=PATIENCE_MS)
    if readme.get_attribute("open") is None:
        readme.locator("summary").click()
    expect(readme.get_by_text("two <b>words</b>").first).to_be_visible()
    expect(page.get_by_text("odd⏎<img src=x>").first).to_be_visible()
    expect(page.locator("details.file", has_text="bin.dat").get_by_text("binary", exact=True)).to_be_visible()
    readme.get_by_role("button", name="Comment on line 2").first.click()
    readme.get_by_label("Comment", exact=True).fill("Say <three> words here.")
    readme.get_by_role("button", name="Keep comment").click()
    accessible(page, "the changes")
    page.get_by_role("button", name="Send to lark").click()
    hub.until("the agent was told", lambda: "README.md:2" in hub.run("tail", "lark", "-n", "20").stdout)
    said = hub.run("tail", "lark", "-n", "20").stdout
    assert "> two <b>words</b>" in said and "Say <three> words here." in said
    hub.rest("lark")


def test_the_screen_can_be_looked_at_and_taken_over(seen: Visit, hub: Lab) -> None:
    page = seen.page
    seen.go("/t/lark/screen")
    screen = page.locator(".xterm-rows")
    expect(page.get_by_text("You are looking")).to_be_visible(timeout=PATIENCE_MS)
    expect(screen).to_contain_text("bypass permissions", timeout=PATIENCE_MS)
    page.keyboard.type("unheard")
    page.get_by_role("button", name="Take over").click()
    expect(page.get_by_text("You are typing into it")).to_be_visible(timeout=PATIENCE_MS)
    page.locator(".xterm-helper-textarea").press_sequentially("typed on the page")
    expect(screen).to_contain_text("typed on the page", timeout=PATIENCE_MS)
    assert "unheard" not in hub.run("screen", "lark").stdout
    page.keyboard.press("Enter")
    hub.until("it was told", lambda: "typed on the page" in hub.run("tail", "lark", "-n", "9").stdout)
    accessible(page, "the screen")
    page.get_by_role("button", name="Only look").click()
    hub.rest("lark")


@pytest.mark.parametrize("tab", ["", "/changes", "/facts", "/net", "/saved", "/log"])
def test_every_tab_fits_a_phone(hub: Lab, browser: Browser, tab: str) -> None:
    with visit(browser, hub, phone=True, dark=True) as one:
        one.log_in()
        one.go(f"/t/lark{tab}")
        expect(one.page.get_by_role("navigation", name="Of lark")).to_be_visible(timeout=PATIENCE_MS)
        one.page.wait_for_timeout(300)
        fits(one.page, tab)
        accessible(one.page, tab)


@pytest.mark.battery("X4")
def test_nothing_of_a_zoo_of_hostile_words_runs_or_asks_a_stranger(hub: Lab, browser: Browser) -> None:
    animals = zoo()
    assert len(animals) >= 200
    script = "import sys; [open(n, 'w').write(n) for n in sys.argv[1:]]"
    with visit(browser, hub) as one:
        page = one.log_in()
        hub.run("exec", "lark", "--", "python3", "-c", script, *NAMES)
        hub.run("note", "lark", animals[0])
        hub.run("tell", "--no-tail", "lark", "show the zoo " + " ".join(animals[:20]).replace("\0", ""))
        hub.rest("lark")
        one.go("/t/lark")
        log = page.get_by_role("log", name="Conversation")
        expect(log.get_by_text("toString", exact=True).first).to_be_visible(timeout=PATIENCE_MS)
        for tab in ("", "/changes", "/facts", "/net", "/log", "/saved", "/screen"):
            one.go(f"/t/lark{tab}")
            expect(page.get_by_role("navigation", name="Of lark")).to_be_visible(timeout=PATIENCE_MS)
            page.wait_for_timeout(400)
            page.evaluate("document.querySelectorAll('#main details').forEach(d => { d.open = true })")
            page.wait_for_timeout(300)
            for link in page.locator("#main a[href]").all():
                href = str(link.get_attribute("href"))
                assert re.match(r"/(?!/)|https?://canary\.invalid/", href), href
            assert (
                page.locator("#main")
                .locator("script, iframe, object, embed, img, base, form[action]")
                .count()
                == 0
            )
        one.go("/")
        expect(one.row("lark")).to_be_visible(timeout=PATIENCE_MS)
        assert page.evaluate("'owned' in window") is False and page.title() != "owned"
