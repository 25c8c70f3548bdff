"""The page as an app: its service worker, without a network, notes with buttons, a newer build."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from e2e_lab import Lab
from msgspec import convert
from page_lab import PATIENCE_MS, Visit, ask, visit
from playwright.sync_api import Browser, Worker, expect

from thopter.fleet.push_devices import payload
from thopter.model.api.approvals import Approval
from thopter.model.notes import Letter, Note, NoteKind
from thopter.store.push_devices import DeviceRow

pytestmark = [
    pytest.mark.claude,
    pytest.mark.root,
    pytest.mark.xdist_group("page"),
    pytest.mark.timeout(600),
]


def worker_of(one: Visit) -> Worker:
    """The page's service worker, in charge."""
    one.page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    found = one.context.service_workers
    return found[0] if found else one.context.wait_for_event("serviceworker")


def push(one: Visit, note: dict[str, Any]) -> None:
    """A push message as the browser's push service delivers it."""
    session = one.context.new_cdp_session(one.page)
    registrations: list[str] = []
    session.on(
        "ServiceWorker.workerRegistrationUpdated",
        lambda e: registrations.extend(r["registrationId"] for r in e["registrations"]),
    )
    session.send("ServiceWorker.enable")
    one.page.wait_for_function("() => true")
    for _ in range(100):
        if registrations:
            break
        one.page.wait_for_timeout(50)
    session.send(
        "ServiceWorker.deliverPushMessage",
        {"origin": one.origin, "registrationId": registrations[0], "data": json.dumps(note)},
    )
    session.detach()


NOTES = """async () => (await self.registration.getNotifications())
  .map(n => [n.title, n.body, n.actions.map(a => a.action)])"""
CLICK = """async (action) => {
  const [notification] = await self.registration.getNotifications();
  self.dispatchEvent(new NotificationEvent('notificationclick', { notification, action }));
}"""


def shown(one: Visit, worker: Worker) -> list[list[object]]:
    """The notes that are shown, once there is one."""
    for _ in range(200):
        found = worker.evaluate(NOTES)
        if found:
            return list(found)
        one.page.wait_for_timeout(50)
    raise AssertionError("no note is shown")


def as_the_hub_writes_it(asked: Approval) -> dict[str, Any]:
    """The message that a device gets about something that waits to be allowed."""
    row = DeviceRow(
        id="dev_1", session="ses_1", endpoint="https://x/", p256dh="", auth="", kinds=(), quiet=None,
        device="d", role="operator", created_ms=1,
    )  # fmt: skip
    letter = Letter(title=f"{asked.name} asks")
    note = Note(
        id="note_1", key="k", kind=NoteKind.WAITING_PERMISSION, letter=letter, created_ms=1,
        box=asked.box, run=asked.run, name=asked.name,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(payload(row, note, letter, [asked]))
    return found


def test_a_permission_is_approved_from_the_note_itself(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        one.context.grant_permissions(["notifications"])
        one.log_in("operator")
        worker = worker_of(one)
        word = ask(one)
        asked = convert(hub.json("approvals", "asker")[0], Approval)
        push(one, as_the_hub_writes_it(asked))
        (told,) = shown(one, worker)
        assert told[0] == "asker asks" and str(asked.input["command"]) in str(told[1])
        assert told[2] == ["approve", "deny"]
        worker.evaluate(CLICK, "approve")
        expect(one.row("asker")).to_contain_text(f"That was about {word}.", timeout=PATIENCE_MS)


def test_a_note_can_lead_nowhere_but_into_the_page_and_an_old_answer_says_so(
    hub: Lab, browser: Browser
) -> None:
    with visit(browser, hub) as one:
        one.context.grant_permissions(["notifications"])
        one.log_in("operator")
        worker = worker_of(one)
        push(one, {"id": "n2", "title": "old", "path": "https://elsewhere.example/",
                   "approval": {"id": "apr_00000000000000000000000000", "digest": "00"}})  # fmt: skip
        assert shown(one, worker)[0][0] == "old"
        worker.evaluate(CLICK, "deny")
        for _ in range(200):
            titles = [n[0] for n in worker.evaluate(NOTES)]
            if "Not denied" in titles:
                break
            one.page.wait_for_timeout(50)
        assert "Not denied" in titles


def test_without_a_network_the_app_still_opens_and_says_what_is_wrong(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub, phone=True) as one:
        one.log_in()
        worker_of(one)
        one.page.wait_for_function("navigator.serviceWorker.controller !== null", timeout=PATIENCE_MS)
        one.context.set_offline(True)
        one.page.reload()
        expect(one.page.get_by_role("heading", name="The hub can't be reached")).to_be_visible(
            timeout=PATIENCE_MS
        )
        assert one.page.evaluate("caches.keys().then(k => k.length)") == 1
        cached = one.page.evaluate(
            "caches.keys().then(k => caches.open(k[0])).then(c => c.keys()).then(r => r.map(x => x.url))"
        )
        assert not [url for url in cached if "/v1/" in url], "what the hub answers is never cached"
        one.context.set_offline(False)
        expect(one.row("lark")).to_be_visible(timeout=PATIENCE_MS)


def test_the_app_can_be_installed(hub: Lab, browser: Browser) -> None:
    with visit(browser, hub) as one:
        one.log_in()
        session = one.context.new_cdp_session(one.page)
        manifest = session.send("Page.getAppManifest")
        assert manifest["errors"] == []
        icons = json.loads(manifest["data"])["icons"]
        for icon in icons:
            answer = one.page.request.get(one.origin + icon["src"])
            assert answer.ok and answer.headers["content-type"].startswith("image/"), icon
        assert any("maskable" in icon.get("purpose", "") for icon in icons)
        problems = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert [p["errorId"] for p in problems if p["errorId"] != "in-incognito"] == []


def test_a_newer_page_is_offered_and_never_forced(hub: Lab, browser: Browser) -> None:
    folder = hub.folder / "page"
    with visit(browser, hub) as one:
        one.log_in()
        worker_of(one)
        one.page.wait_for_function("navigator.serviceWorker.controller !== null", timeout=PATIENCE_MS)
        newer = f"shell-{uuid.uuid4().hex[:16]}"
        text = (folder / "sw.js").read_text("utf-8")
        for packed in folder.glob("sw.js.*"):
            packed.unlink()
        (folder / "sw.js").write_text(re.sub(r"shell-[0-9a-f]{16}", newer, text), "utf-8")
        index = folder / "index.html"
        index.write_bytes(index.read_bytes() + b"\n")  # the hub looks anew when this one is another
        one.page.evaluate("navigator.serviceWorker.getRegistration().then(r => r.update()).then(() => null)")
        offer = one.page.get_by_role("button", name="Newer page: reload").locator("visible=true")
        expect(offer).to_be_visible(timeout=PATIENCE_MS)
        offer.click()
        one.page.wait_for_function("n => caches.keys().then(k => k.length === 1 && k[0] === n)", arg=newer)
        expect(one.row("lark")).to_be_visible(timeout=PATIENCE_MS)
