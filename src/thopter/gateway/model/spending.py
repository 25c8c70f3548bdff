"""What every account has spent, durably: a journal that is written before a call goes out and when it ends.

Lines go to the kernel at once: killing the gateway (or the hub) forgets nothing. No fsync: the machine's own
death may take the last moments, as with the books. A call that was under way when the gateway died is charged
with what its answer had told by then (noted at its beginning and once a second), and put into the books.
A full disk: no call under a budget is made until the journal can be written again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from thopter.gateway.model.budget import Amount, Over, Tally, Wait, decide
from thopter.gateway.model.policy import Refusal
from thopter.gateway.model.usage import Tokens
from thopter.model.budget import Terms

log = logging.getLogger("thopter.gateway")

FULL = 8 << 20  # bytes of a journal; then it is written anew, as sums
ACCOUNTS = 50_000  # the ones that were charged longest ago are forgotten beyond
_PATIENCE_S = 300.0
_DAYS_KEPT = 3


class Open(Struct, kw_only=True):
    """A call under way, as the journal has it. ``told``: the tokens its answer has told so far."""

    n: int
    accounts: tuple[str, ...]
    worst: Amount
    at_ms: int
    who: dict[str, str]
    amount: Amount = Amount()
    told: Tokens = msgspec.field(default_factory=Tokens)
    cut: bool = True


class Hold(Struct):
    """A call that may be made; ``settle`` it, however it ends."""

    call: Open
    noted: float = 0.0


class Spending:
    """One per gateway; see the module. ``orphans`` are the calls that an earlier process left; they stay
    calls in the journal until they are ``buried``."""

    def __init__(self, path: Path | None) -> None:
        """Read the journal (None: in memory only). Raises OSError when it can't be read or written."""
        self.terms: dict[str, Terms] = {}
        self.tallies: dict[str, Tally] = {}
        self.problem = ""
        self.orphans: list[Open] = []
        self._path = path
        self._held: dict[str, dict[int, Amount]] = {}
        self._open: dict[int, Open] = {}
        self._next = 1
        self._fd = -1
        self._size = 0
        self._change = asyncio.Event()
        if path is not None:
            self._recover(path)

    # ------------------------------------------------------------------------------ calls

    async def admit(self, box: str, worst: Amount, at_ms: int, who: dict[str, str]) -> Hold | Over:
        """Wait until the call may be made (reserved then), or say why it may not. Whoever waits does so
        for other calls of the same account to end."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    terms = self.terms.get(box, Terms())
                    now = _now_ms()
                    held = {a: tuple(h.values()) for a, h in self._held.items()}
                    word = decide(terms, worst, now, self.tallies, held)
                    if word is None:
                        return self._begin(terms, worst, max(at_ms, now), who)
                    if not isinstance(word, Wait):
                        return word
                    change = self._change
                    await change.wait()
        except TimeoutError:
            text = "what is left of the budget is held by calls under way; try again when they have ended"
            return Over(None, 0, Refusal(529, "overloaded_error", text))

    def _begin(self, terms: Terms, worst: Amount, at_ms: int, who: dict[str, str]) -> Hold | Over:
        call = Open(n=self._next, accounts=terms.charged(at_ms), worst=worst, at_ms=at_ms, who=who)
        self._next += 1
        self._open[call.n] = call
        self._write(_opening(call))
        if self.problem and terms.limits:
            del self._open[call.n]
            text = (
                f"the account of model calls can't be written ({self.problem}), so none is made on a budget"
            )
            return Over(None, 0, Refusal(503, "api_error", text))
        for account in call.accounts:
            self._held.setdefault(account, {})[call.n] = worst
        return Hold(call)

    def note(
        self, hold: Hold, told: Tokens, amount: Callable[[], Amount], model: str, *, whole: bool
    ) -> None:
        """Remember what the answer has told so far: the first time, once a second, and when it is whole."""
        now, call = time.monotonic(), hold.call
        if now - hold.noted >= 1.0 or (whole and call.cut):
            hold.noted = now
            call.told, call.amount, call.cut = told, amount(), not whole
            call.who["model"] = model
            self._write(_noted(call))

    def settle(self, hold: Hold, amount: Amount, *, cut: bool, tool: bool) -> None:
        """The call has ended and spent ``amount``; ``tool``: the agent goes to use one now."""
        call = hold.call
        if self._open.pop(call.n, None) is None:
            return
        now = _now_ms()
        self._charge(call, amount, cut, now, tool)
        self._write({"c": call.n, "d": amount, "x": cut, "e": now, "u": tool})
        for account in call.accounts:
            held = self._held.get(account, {})
            held.pop(call.n, None)
            if not held:
                self._held.pop(account, None)
        self._changed()

    def _charge(self, call: Open, amount: Amount, cut: bool, ended_ms: int, tool: bool) -> None:
        for account in call.accounts:
            tally = self.tallies.pop(account, None) or Tally()
            self.tallies[account] = tally  # the newest stand last
            tally.charge(amount, cut)
            if amount.tokens or amount.turns:
                tally.work(call.at_ms, max(ended_ms, call.at_ms), tool)

    # ------------------------------------------------------------------------------ terms

    def bind(self, box: str, terms: Terms) -> None:
        """From now on, also for calls that wait."""
        self.terms[box] = terms
        self._changed()

    def free(self, box: str) -> None:
        """Nobody calls for this box any more."""
        self.terms.pop(box, None)

    def spent(self, accounts: list[str]) -> dict[str, Any]:
        """What accounts have spent, and how many calls are under way; zeros for those never charged."""
        found = {}
        for account in accounts:
            tally = self.tallies.get(account, Tally())
            under_way = len(self._held.get(account, {}))
            found[account] = {
                "usd": tally.pico, "tokens": tally.tokens, "turns": tally.turns, "hours": tally.ms,
                "cut": tally.cut, "under_way": under_way,
            }  # fmt: skip
        return found

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # ------------------------------------------------------------------------------ the journal

    def _write(self, line: Mapping[str, Any]) -> None:
        """Append a line. When that fails, the whole journal is written anew at the next occasion: what is in
        memory counts, and half a line is never followed by its repetition."""
        if self._path is None:
            return
        try:
            if self._fd < 0 or self._size > FULL:
                self._rewrite()  # the line's change is made already
                return
            data = msgspec.json.encode(line) + b"\n"
            wrote = os.write(self._fd, data)
            if wrote < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += wrote
        except OSError as e:
            self._failed(e)

    def _failed(self, e: OSError) -> None:
        if not self.problem:
            log.error("what model calls spend can't be written down: %s", e)
        self.problem = e.strerror or str(e)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rewrite(self) -> None:
        """Write sums and what is under way into a new file, in the place of the old one. Raises OSError."""
        assert self._path is not None
        self._prune()
        lines: list[Any] = [{"s": account, "v": tally} for account, tally in self.tallies.items()]
        for c in self._open.values():
            lines.append(_opening(c))
            if c.told:
                lines.append(_noted(c))
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            data = b"".join(msgspec.json.encode(line) + b"\n" for line in [{"next": self._next}, *lines])
            at = 0
            while at < len(data):
                at += os.write(fd, data[at:])
            os.fsync(fd)
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self.problem = fd, 0, ""

    def _prune(self) -> None:
        oldest = time.strftime("%Y-%m-%d", time.gmtime(time.time() - _DAYS_KEPT * 86_400))
        for account in [a for a in self.tallies if "@" in a and a.rpartition("@")[2] < oldest]:
            del self.tallies[account]
        for account in list(self.tallies)[: max(len(self.tallies) - ACCOUNTS, 0)]:
            del self.tallies[account]

    def _recover(self, path: Path) -> None:
        try:
            raw = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            raw = []
        bad = 0
        for line in raw[:-1]:
            try:
                self._replay(msgspec.json.decode(line))
            except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, AttributeError):
                bad += bool(line)
        if bad:
            log.error("%d lines of what model calls spent make no sense", bad)
        for call in self._open.values():
            self._charge(call, call.amount, call.cut, call.at_ms, False)
            self.orphans.append(call)
        self._open.clear()
        if not self.orphans:
            self.buried()

    def buried(self) -> None:
        """The orphans are in the books: from now on they are sums like all others."""
        try:
            self._rewrite()
        except OSError as e:
            self._failed(e)

    def _replay(self, line: dict[str, Any]) -> None:
        if "next" in line:
            self._next = int(line["next"])
        elif "s" in line:
            self.tallies[line["s"]] = msgspec.convert(line["v"], Tally)
        elif "o" in line:
            n, worst = int(line["o"]), msgspec.convert(line["w"], Amount)
            self._open[n] = Open(
                n=n, accounts=tuple(line["a"]), worst=worst, at_ms=int(line["t"]), who=dict(line["who"])
            )
            self._next = max(self._next, n + 1)
        elif "p" in line:
            call = self._open[int(line["p"])]
            call.told = msgspec.convert(line["k"], Tokens)
            call.amount = msgspec.convert(line["d"], Amount)
            call.who["model"], call.cut = str(line["m"]), bool(line["x"])
        elif "c" in line:
            call = self._open.pop(int(line["c"]))
            amount = msgspec.convert(line["d"], Amount)
            self._charge(call, amount, bool(line["x"]), int(line["e"]), bool(line["u"]))


def _opening(call: Open) -> dict[str, Any]:
    return {"o": call.n, "a": call.accounts, "w": call.worst, "t": call.at_ms, "who": call.who}


def _noted(call: Open) -> dict[str, Any]:
    return {"p": call.n, "k": call.told, "d": call.amount, "m": call.who.get("model", ""), "x": call.cut}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
