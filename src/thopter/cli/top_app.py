"""The screen of ``thopter top``: a table, a detail pane, a line to type in. Needs textual."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static

from thopter.cli import top_view
from thopter.cli.approve import drawn
from thopter.cli.status_view import cost, state_of, used
from thopter.cli.text import now_ms, span
from thopter.cli.top_feed import feed
from thopter.cli.transcript import Style, draw
from thopter.kit.sanitize import one_line
from thopter.mesh.approvals import ApprovalsClient
from thopter.mesh.client import HubClient
from thopter.mesh.saved import Saved
from thopter.model.api import TellRequest, ThopterDetail, ThopterView
from thopter.model.api.approvals import AnswerRequest, Approval
from thopter.model.errors import ThopterError
from thopter.model.nouns import Entry

_LAST = 14


class TopApp(App[None]):
    """One hub's thopters. ``attach`` takes over the terminal and returns what went wrong."""

    TITLE = "thopter"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; padding: 0 1; background: $boost; text-style: bold; }
    #trouble { height: 1; padding: 0 1; background: $error; color: $text; display: none; }
    #trouble.on { display: block; }
    DataTable { height: 1fr; scrollbar-size-vertical: 1; }
    #detail { height: 45%; border-top: solid $accent; padding: 0 1; display: none; }
    #detail.on { display: block; }
    #line { display: none; height: 3; }
    #line.on { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("t", "tell", "Tell"),
        Binding("a", "attach", "Attach"),
        Binding("y", "approve", "Approve"),
        Binding("n", "deny", "Deny"),
        Binding("i", "interrupt", "Interrupt"),
        Binding("s", "sleep", "Suspend"),
        Binding("d", "destroy", "Destroy"),
        Binding("o", "sort", "Order"),
        Binding("escape", "leave", "Back", show=False),
    ]

    def __init__(self, socket: Path, *, wanted: str = "", attach: Callable[[str], str] | None = None) -> None:
        super().__init__()
        self._socket = socket
        self._wanted = wanted
        self._take_over = attach
        self._sort = top_view.SORTS[0]
        self._views: list[ThopterView] = []
        self._headings: list[str] = []
        self._asking = ""  # what the line is for: tell NAME, filter, destroy NAME
        self._asked = ""
        self._approval: Approval | None = None  # what is being answered, as it was shown

    def compose(self) -> ComposeResult:
        """See textual."""
        yield Static(id="summary", markup=False)
        yield Static(id="trouble", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=False)
        with VerticalScroll(id="detail"):
            yield Static(id="about", markup=False)
        yield Input(id="line")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#summary", Static).update("looking …")
        self._table.focus()
        self._watch()
        self.set_interval(5.0, self._draw)  # ages grow

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    @work(thread=True, group="feed")
    def _watch(self) -> None:
        def there(call: Callable[..., Any]) -> Callable[..., None]:
            def do(*args: Any) -> None:
                if self.is_running:
                    self.call_from_thread(call, *args)

            return do

        feed(self._socket, there(self.show), there(self.trouble), lambda: not self.is_running)

    # ------------------------------------------------------------------------------ showing

    def show(self, views: list[ThopterView]) -> None:
        """These are the thopters now."""
        self._views = views
        self.query_one("#trouble").remove_class("on")
        self._draw()
        self._refresh_detail()

    def trouble(self, text: str) -> None:
        """The hub is away; what was last known stays on the screen."""
        bar = self.query_one("#trouble", Static)
        bar.update(f"{one_line(text, 200)}; still trying")
        bar.add_class("on")

    def on_resize(self) -> None:
        """Other columns have room now."""
        self._draw()

    def _draw(self) -> None:
        found = top_view.ordered(self._views, self._sort, self._wanted)
        said = top_view.summary(self._views, len(found), self._wanted, self._sort)
        self.query_one("#summary", Static).update(said)
        columns = top_view.columns_for(self.size.width)
        table, chosen, row = self._table, self.chosen, self._table.cursor_row
        headings = [h for h, _ in columns]
        with self.batch_update():
            table.clear(columns=True)
            for heading, size in columns:
                table.add_column(heading, width=size)
            self._headings = headings
            for view in found:
                look = top_view.style_of(view)
                texts = top_view.cells(view, headings, now_ms())
                line = [
                    Text(t, style=look if h in ("NAME", "STATE") else "", no_wrap=True, overflow="ellipsis")
                    for h, t in zip(headings, texts, strict=True)
                ]
                table.add_row(*line, key=view.name)
            names = [v.name for v in found]
            if names:  # the cursor stays with its thopter, or where it was
                at = names.index(chosen) if chosen in names else min(max(row, 0), len(names) - 1)
                table.move_cursor(row=at, animate=False)

    @property
    def chosen(self) -> str:
        """The name under the cursor, or empty."""
        table = self._table
        if not table.row_count or not table.is_valid_row_index(table.cursor_row):
            return ""
        return str(table.coordinate_to_cell_key((table.cursor_row, 0)).row_key.value or "")  # type: ignore[arg-type]

    def on_data_table_row_highlighted(self) -> None:
        """Another one is chosen."""
        self._refresh_detail()

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click."""
        self.action_detail()

    def _refresh_detail(self) -> None:
        shown = self.query_one("#detail").has_class("on")
        if shown and self.chosen and self._approval is None:
            self._look(self.chosen)

    @work(thread=True, exclusive=True, group="detail")
    def _look(self, name: str) -> None:
        try:
            with HubClient(self._socket, timeout=10.0) as client:
                found = client.thopter(name)
                entries = client.transcript(name, last=_LAST).entries
            text = "\n".join(about(found, entries, now_ms()))
        except ThopterError as e:
            text = one_line(e.message, 400)
        if self.is_running:
            self.call_from_thread(self._show_about, text)

    def _show_about(self, text: str) -> None:
        if self._approval is None:  # what is being answered stays on the screen
            self.query_one("#about", Static).update(text)

    # ------------------------------------------------------------------------------ doing

    def action_detail(self) -> None:
        """Show or hide the pane."""
        self.query_one("#detail").toggle_class("on")
        self._refresh_detail()

    def action_sort(self) -> None:
        """The next order."""
        self._sort = top_view.SORTS[(top_view.SORTS.index(self._sort) + 1) % len(top_view.SORTS)]
        self._draw()

    def action_leave(self) -> None:
        """Leave the line, else the pane, else the filter."""
        if self._asking:
            self._close_line()
        elif self.query_one("#detail").has_class("on"):
            self.action_detail()
        elif self._wanted:
            self._wanted = ""
            self._draw()

    def action_filter(self) -> None:
        """Ask for words."""
        self._ask("filter", "", "only those with …", self._wanted)

    def action_tell(self) -> None:
        """Ask what to say."""
        if self.chosen:
            self._ask("tell", self.chosen, f"tell {self.chosen} …")

    def action_destroy(self) -> None:
        """Ask whether it is meant."""
        if self.chosen:
            self._ask("destroy", self.chosen, f"destroy {self.chosen} for good? type yes")

    def action_interrupt(self) -> None:
        """Stop its turn."""
        name = self.chosen
        self._do(f"{name} is interrupted", lambda c: c.interrupt(name))

    def action_sleep(self) -> None:
        """Put it to sleep, or let it go on."""
        name = self.chosen
        view = next((v for v in self._views if v.name == name), None)
        if view is not None and view.box_state == "frozen":
            self._do(f"{name} goes on", lambda c: c.thaw(name))
        elif view is not None and view.box_state in ("suspended", "stopped"):
            self._do(f"{name} is being resumed", lambda c: Saved(c).resume(name))
        elif name:
            self._do(f"{name} sleeps", lambda c: Saved(c).suspend(name, False))

    def action_approve(self) -> None:
        """Show exactly what it asks, and ask whether it may."""
        self._look_what(self.chosen, "approve")

    def action_deny(self) -> None:
        """Show what it asks, and ask what to tell it."""
        self._look_what(self.chosen, "deny")

    @work(thread=True, exclusive=True, group="asked")
    def _look_what(self, name: str, what: str) -> None:
        try:
            with HubClient(self._socket, timeout=10.0) as client:
                found = [a for a in ApprovalsClient(client).asked(name) if a.state == "open"] if name else []
        except ThopterError as e:
            self.call_from_thread(self.notify, one_line(e.message, 300), severity="error", markup=False)
            return
        if self.is_running:
            self.call_from_thread(self._show_asked, name, what, found[:1])

    def _show_asked(self, name: str, what: str, found: list[Approval]) -> None:
        if not found:
            self.notify(f"{name} asks for nothing now" if name else "nobody is chosen", markup=False)
            return
        self._approval = found[0]  # what the answer is bound to: exactly what is on the screen
        self.query_one("#detail").add_class("on")
        self.query_one("#about", Static).update("\n".join(drawn(found[0], now_ms())))
        if what == "deny":
            self._ask(what, name, f"deny it; what {name} is told (may be empty)")
        elif found[0].kind == "question":
            self._ask(what, name, f"your answer to {name}")
        else:
            self._ask(what, name, "approve exactly this? type yes (or run: for the rest of its run)")

    def action_attach(self) -> None:
        """Give the terminal to its agent, and take it back."""
        name = self.chosen
        if not name or self._take_over is None:
            return
        with self.suspend():
            said = self._take_over(name)
        if said:
            self.notify(one_line(said, 200), severity="error", markup=False)
        self.refresh(layout=True)

    def _ask(self, what: str, name: str, placeholder: str, value: str = "") -> None:
        self._asking, self._asked = what, name
        line = self.query_one("#line", Input)
        line.placeholder, line.value = placeholder, value
        line.add_class("on")
        line.focus()

    def _close_line(self) -> None:
        self._asking, self._approval = "", None
        self.query_one("#line").remove_class("on")
        self._table.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """A filter works as it is typed."""
        if self._asking == "filter":
            self._wanted = event.value
            self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The line is complete."""
        what, name, text = self._asking, self._asked, event.value.strip()
        approval = self._approval
        self._close_line()
        self._refresh_detail()
        if what == "tell" and text:
            self._do(f"{name} has it", lambda c: c.tell(name, TellRequest(text=text)))
        elif what in ("approve", "deny") and approval is not None:
            self._answer(name, what, text, approval)
        elif what == "destroy" and text == "yes":
            self._do(f"{name} is being destroyed", lambda c: c.destroy(name))
        elif what == "destroy":
            self.notify(f"{name} stays", markup=False)

    def _answer(self, name: str, what: str, text: str, approval: Approval) -> None:
        question = approval.kind == "question"
        if what == "deny":
            request = AnswerRequest(digest=approval.digest, allow=False, message=text)
        elif question and text:
            request = AnswerRequest(digest=approval.digest, allow=True, answers=[text])
        elif not question and text.lower() in ("yes", "y", "run"):
            request = AnswerRequest(digest=approval.digest, allow=True, for_run=text.lower() == "run")
        else:
            self.notify(f"{name} still waits", markup=False)
            return
        self._do(f"{name} has your answer", lambda c: ApprovalsClient(c).answer(approval, request))

    @work(thread=True, group="do")
    def _do(self, done: str, call: Callable[[HubClient], object]) -> None:
        try:
            with HubClient(self._socket) as client:
                call(client)
            said, severity = done, "information"
        except ThopterError as e:
            said, severity = one_line(f"{e.message} {e.hint and f'({e.hint})'}", 300), "error"
        if self.is_running:
            self.call_from_thread(self.notify, said, severity=severity, markup=False)


def about(found: ThopterDetail, entries: list[Entry], now: int) -> list[str]:
    """The lines of the detail pane: state and why, then the last of the conversation."""
    view = found.view
    lines = [f"{one_line(view.name)}  {state_of(view)}  {one_line(view.task, 200)}"]
    lines += [f"! {one_line(t, 300)}" for t in (view.problem, view.contradiction) if t]
    for e in found.because[:3]:
        detail = f": {one_line(e.detail, 160)}" if e.detail else ""
        lines.append(f"because {e.fact} ({e.source}, {span((now - e.at_ms) / 1000)} ago){detail}")
    if view.branch:
        lines.append(f"{one_line(view.branch, 80)} of {one_line(view.repo, 120)}")
    if view.note:
        lines.append(f"note: {one_line(view.note, 300)}")
    if view.usage is not None:
        lines.append(f"{used(view)}; {cost(view)}")
    for asked in found.approvals:
        lines.append(f"asks you ({asked.state}): {one_line(asked.summary, 200)}   y approves, n denies")
    if view.queued:
        lines.append(f"{view.queued} of your messages wait")
    lines.append("")
    style = Style(short=True)
    return lines + [line for entry in entries for line in draw(entry, style)]
