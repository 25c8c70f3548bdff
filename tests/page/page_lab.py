"""What the page's tests stand on: a scenario, a browser that notes what it must not do, and axe."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e_lab import Lab
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect
from xss_zoo import zoo

from thopter.testing.scripted_model import Scenario, Script, Tool, Turn

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "src/thopter/hub/web"
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 60_000
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"

_STEP = Turn(say="One step more.", tools=(Tool(name="Bash", input={"command": "sleep 1"}),))
_COMMAND = "echo ${word} >> /etc/asked && echo '<b>" + "done</b>'"
SCENARIO = Scenario(
    script=(
        Script(
            name="ask",
            match=r"ask (?P<word>\w+)",
            turns=(
                Turn(tools=(Tool(name="Bash", input={"command": _COMMAND, "description": "write it"}),)),
                Turn(say="That was about ${word}."),
            ),
        ),
        Script(name="long", match="long work", turns=(_STEP,) * 400),
        Script(name="hostile", match="hostile", turns=(Turn(say=HOSTILE),)),
        Script(name="zoo", match="show the zoo", turns=(Turn(say="\n\n".join(zoo())),)),
        Script(name="echo", match=r"repeat (?P<word>\w+)", turns=(Turn(say="It is ${word}."),)),
    ),
    default=(Turn(say="All done here."),),
)


class Visit:
    """A person at the page: a context of a browser that notes foreign requests, errors and CSP reports."""

    def __init__(self, made: Lab, context: BrowserContext) -> None:
        self.lab = made
        self.context = context
        self.foreign: list[str] = []
        self.wrong: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        context.on("request", self._asked)
        context.on("weberror", lambda e: self.wrong.append(str(e.error)))
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " e => console.error('CSP', e.violatedDirective))"
        )
        context.on("console", lambda m: self.wrong.append(m.text) if "CSP" in m.text else None)
        self.page: Page = context.new_page()
        self.origin = ""

    def _asked(self, request: Request) -> None:
        if self.origin and not request.url.startswith((self.origin + "/", "data:", "blob:")):
            self.foreign.append(request.url)

    def log_in(self, role: str = "admin") -> Page:
        """Open a fresh login link."""
        url = link(self.lab, role)
        self.origin = url.partition("/login")[0]
        self.page.goto(url)
        expect(self.page.get_by_role("heading", name="Fleet", exact=True)).to_be_visible(timeout=PATIENCE_MS)
        expect(self.page.get_by_text("Live", exact=True).locator("visible=true").first).to_be_visible(
            timeout=PATIENCE_MS
        )
        return self.page

    def go(self, path: str) -> None:
        """To a view, as its link does."""
        self.page.evaluate(
            "p => { history.pushState(null, '', p); dispatchEvent(new PopStateEvent('popstate')) }", path
        )

    def row(self, name: str) -> Any:
        """The row of a thopter in the fleet."""
        return self.page.locator(f"[data-row='{name}']")


def ask(one: Visit) -> str:
    """Have ``asker`` come to an ask of its own; the word in its command."""
    word = uuid.uuid4().hex[:8]
    one.lab.until("asker rests", lambda: one.lab.view("asker").get("reason") == "turn_end")
    one.lab.run("tell", "--no-tail", "asker", f"ask {word}")
    shown = one.page.get_by_role("article", name=re.compile(f"^asker asks: .*{word}"))
    expect(shown).to_be_visible(timeout=PATIENCE_MS)
    return word


def say(made: Lab) -> str:
    """Have ``lark`` say a word that nobody said before."""
    word = uuid.uuid4().hex[:8]
    made.run("tell", "--no-tail", "lark", f"repeat {word}")
    return word


def link(made: Lab, role: str = "admin") -> str:
    """A login link."""
    return str(json.loads(made.run("dashboard", "--role", role, "--json").stdout)["url"])


@contextmanager
def visit(browser: Browser, made: Lab, *, phone: bool = False, dark: bool = False) -> Iterator[Visit]:
    """A visit; at its end nothing foreign was asked for and nothing broke the CSP."""
    context = browser.new_context(
        viewport=PHONE if phone else DESK,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        is_mobile=phone,
        has_touch=phone,
        reduced_motion="reduce",
    )
    try:
        one = Visit(made, context)
        yield one
        assert one.foreign == []
        assert one.wrong == []
    finally:
        context.close()


def accessible(page: Page, where: str) -> None:
    """Fail with what axe finds wrong."""
    session = page.context.new_cdp_session(page)
    source = AXE.read_text("utf-8")
    session.send("Runtime.evaluate", {"expression": source})  # the CSP is for pages, not for debuggers
    said = session.send(
        "Runtime.evaluate",
        {
            "expression": "axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify("
            "r.violations.map(v => [v.id, v.nodes.slice(0, 3).map(n => n.html + ' ' + n.failureSummary)])))",
            "awaitPromise": True,
        },
    )
    session.detach()
    found = json.loads(said["result"]["value"])
    assert found == [], f"{where}: {json.dumps(found, indent=1)[:3000]}"


def fits(page: Page, where: str) -> None:
    """Nothing reaches beyond the right edge."""
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{where} is {wide} px too wide"


def slug(path: str) -> str:
    """A view's name for messages and files."""
    return re.sub(r"\W+", "-", path).strip("-") or "fleet"
