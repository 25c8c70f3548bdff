"""The page in a real browser: logging in, the fleet, answering, starting, the keyboard, lost networks."""

from __future__ import annotations

import re
import uuid

import pytest
from e2e_lab import Lab
from page_lab import PATIENCE_MS, accessible, ask, fits, link, say, slug, visit
from playwright.sync_api import Browser, expect

pytestmark = [
    pytest.mark.claude,
    pytest.mark.root,
    pytest.mark.xdist_group("page"),
    pytest.mark.timeout(600),
]
VIEWS = ("/", "/approvals", "/new", "/t/lark", "/snapshots", "/policies", "/secrets", "/audit", "/machines",
         "/settings", "/nowhere-at-all")  # fmt: skip


def fresh(word: str) -> str:
    """A name that no try before had."""
    return f"{word}-{uuid.uuid4().hex[:6]}"


def test_a_link_logs_in_once_and_leaves_no_code_in_the_address(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        url = link(hub)
        one.page.goto(url)
        expect(one.row("lark")).to_contain_text("your turn", timeout=PATIENCE_MS)
        assert "#" not in one.page.url
        one.page.reload()
        expect(one.row("lark")).to_be_visible(timeout=PATIENCE_MS)
        with visit(browser, hub) as other:
            other.page.goto(url)
            expect(other.page.get_by_role("heading", name="This link is used up")).to_be_visible(
                timeout=PATIENCE_MS
            )
            accessible(other.page, "login")


def test_the_fleet_follows_a_thopter_live_from_its_start_to_its_end(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        one.log_in()
        looks: list[str] = []
        one.page.on("request", lambda r: looks.append(r.url) if r.url.endswith("/v1/thopters") else None)
        name = fresh("live")
        hub.run("run", "-d", "--name", name, "do the long work")
        expect(one.row(name)).to_contain_text("working", timeout=PATIENCE_MS)
        expect(
            one.page.get_by_role("region", name=re.compile("^Working")).locator("[data-row]")
        ).to_have_count(1)
        expect(one.page.get_by_role("region", name=re.compile("^Done"))).to_contain_text("lark")
        expect(one.row(name)).to_contain_text("One step more.", timeout=PATIENCE_MS)
        before = one.row("lark").bounding_box()
        one.page.wait_for_timeout(1500)  # words stream meanwhile
        assert one.row("lark").bounding_box() == before, "streaming moves nothing"
        hub.run("destroy", "--yes", name)
        expect(one.row(name)).to_have_count(0, timeout=PATIENCE_MS)
        assert looks, "it looked when something had happened"
        one.page.wait_for_timeout(500)
        quiet = len(looks)
        one.page.wait_for_timeout(3000)
        assert len(looks) <= quiet + 1, "and it does not poll"


def test_a_permission_is_approved_with_the_exact_command_in_sight(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        one.log_in()
        word = ask(one)
        shown = one.page.get_by_role("article", name=re.compile("^asker asks"))
        expect(shown.locator("pre").first).to_have_text(f"echo {word} >> /etc/asked && echo '<b>done</b>'")
        expect(one.page).to_have_title(re.compile(r"^\(\d+\) thopter"))
        shown.get_by_role("button", name="Approve").click()
        expect(shown).to_have_count(0, timeout=PATIENCE_MS)
        expect(one.row("asker")).to_contain_text(f"That was about {word}.", timeout=PATIENCE_MS)
        assert word in hub.run("exec", "asker", "--", "cat", "/etc/asked").stdout


def test_a_permission_is_denied_with_words_on_a_phone(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub, phone=True, dark=True) as one:
        one.log_in("operator")
        ask(one)
        one.page.get_by_role("link", name=re.compile("^Approvals")).locator("visible=true").click()
        shown = one.page.get_by_role("article", name=re.compile("^asker asks"))
        shown.get_by_role("button", name="Deny…").click()
        shown.get_by_role("textbox").fill("not in /etc, please")
        accessible(one.page, "an ask on a phone")
        fits(one.page, "an ask on a phone")
        shown.get_by_role("button", name="Deny", exact=True).click()
        expect(shown).to_have_count(0, timeout=PATIENCE_MS)
        told = [(a["state"], a["message"]) for a in hub.json("approvals", "asker", "-a")]
        assert ("denied", "not in /etc, please") in told


def test_a_run_is_started_from_the_phone_and_its_steps_are_shown(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub, phone=True) as one:
        one.log_in("operator")
        name = fresh("phone")
        one.page.get_by_role("link", name="New", exact=True).locator("visible=true").click()
        one.page.get_by_label("What should it do?").fill("say <b>hello</b> from the train")
        one.page.reload()
        expect(one.page.get_by_label("What should it do?")).to_have_value("say <b>hello</b> from the train")
        one.page.get_by_text("More: name").click()
        one.page.get_by_label("Name", exact=True).fill(name)
        one.page.get_by_role("button", name="Start").click()
        started = one.page.get_by_role("article", name=f"Start of {name}")
        expect(started).to_contain_text("is at work", timeout=PATIENCE_MS)
        assert started.locator("li").count() > 3
        started.get_by_role("link", name=name).click()
        expect(one.page.get_by_role("heading", name=name)).to_be_visible(timeout=PATIENCE_MS)
        one.page.get_by_role("link", name="Fleet", exact=True).locator("visible=true").click()
        expect(one.row(name)).to_contain_text("All done here.", timeout=PATIENCE_MS)
        expect(one.row(name)).to_contain_text("say <b>hello</b> from the train")


def test_the_keyboard_does_it_all(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        page = one.log_in()
        keys = page.keyboard
        keys.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_contain_text("go to the approvals")
        accessible(page, "the keys")
        keys.press("Escape")
        for sequence, heading in (("ga", "Approvals"), ("gn", "New thopter"), ("gf", "Fleet")):
            page.locator("#main").focus()
            keys.type(sequence)
            expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        keys.press("/")
        keys.type("lark")
        expect(one.row("lark")).to_be_visible()
        keys.press("Escape")
        keys.press("j")
        expect(page.locator("[data-row] a:focus")).to_have_count(1)
        keys.press("x")
        expect(page.get_by_role("toolbar")).to_contain_text("1 selected")
        keys.press("Control+k")
        expect(page.get_by_role("combobox", name="Go to or do anything")).to_be_focused()
        keys.type("lark")
        accessible(page, "the palette")
        keys.press("Enter")
        expect(page).to_have_url(re.compile("/t/lark$"))


def test_several_are_put_to_sleep_and_one_is_woken(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        page = one.log_in("operator")
        page.get_by_label("Select asker").check()
        page.get_by_role("toolbar").get_by_role("button", name="Sleep").click()
        asleep = page.get_by_role("region", name=re.compile("^Asleep"))
        expect(asleep).to_contain_text("asker", timeout=PATIENCE_MS)
        expect(page.get_by_role("toolbar")).to_have_count(0)
        page.get_by_role("button", name="Actions for asker").click()
        accessible(page, "an open menu")
        page.keyboard.press("ArrowDown")
        page.get_by_role("menuitem", name="Wake").click()
        expect(asleep).to_have_count(0, timeout=PATIENCE_MS)


def test_what_happened_while_the_network_was_away_is_there_when_it_is_back(
    hub: Lab, browser: Browser
) -> None:
    with visit(browser, hub) as one:
        one.log_in()
        one.context.set_offline(True)
        word = say(hub)
        hub.until("it has said it", lambda: word in hub.view("lark").get("last_message", ""))
        expect(one.page.get_by_text("Hub away, trying again").first).to_be_visible(timeout=PATIENCE_MS)
        expect(one.row("lark")).not_to_contain_text(word)
        one.context.set_offline(False)
        expect(one.row("lark")).to_contain_text(word, timeout=PATIENCE_MS)


def test_a_hub_that_restarts_is_found_again_by_an_open_page(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        one.log_in()
        hub.run("hub", "restart")
        hub.run("tell", "--no-tail", "lark", "something hostile")
        expect(one.row("lark")).to_contain_text("onerror", timeout=PATIENCE_MS)
        assert "owned" not in one.page.title(), "and its words are text"


def test_a_host_that_its_policy_asks_about_is_let_out_from_the_page(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        one.log_in("operator")
        host = f"{uuid.uuid4().hex[:8]}.example"
        hub.run("exec", "lark", "--", "sh", "-c", f"curl -sS -m 60 https://{host} >/dev/null 2>&1 &")
        shown = one.page.get_by_role("article", name=f"lark wants to reach {host}")
        expect(shown).to_contain_text(f"{host}:443", timeout=PATIENCE_MS)
        shown.get_by_role("button", name="For this run").click()
        expect(shown).to_have_count(0, timeout=PATIENCE_MS)
        assert host in [g["host"] for g in hub.json("egress", "lark")["grants"]]


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_every_view_is_for_everybody_and_fits(hub: Lab, browser: Browser, phone: bool) -> None:
    with visit(browser, hub, phone=phone, dark=phone) as one:
        one.log_in()
        for path in VIEWS:
            one.go(path)
            expect(one.page.locator("main h1")).to_have_count(1, timeout=PATIENCE_MS)
            one.page.wait_for_timeout(150)  # what is asked for has come, or its absence is looked at
            accessible(one.page, slug(path))
            fits(one.page, slug(path))


def test_logged_out_everywhere_means_here_too(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one, visit(browser, hub) as other:
        one.log_in()
        other.log_in()
        other.go("/settings")
        other.page.get_by_role("button", name="Log out everywhere").click()
        expect(other.page.get_by_role("heading", name="Logged out everywhere")).to_be_visible(
            timeout=PATIENCE_MS
        )
        expect(one.page.get_by_role("heading", name="You are logged out")).to_be_visible(timeout=PATIENCE_MS)
