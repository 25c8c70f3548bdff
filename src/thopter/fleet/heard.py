"""Which messages the agent's conversation holds, by its prompts alone. Pure.

An agent says that it has a message (a hook, its own queue) before its conversation does; only what is
in the conversation comes back with it after a death. A prompt answers for one message only, however
often the same words were said; several that were queued may come as one prompt, a line or more each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from thopter.fleet.tell import bare
from thopter.fleet.turns import same_words
from thopter.store.talk import Letter

_PROMPT_SLACK_MS = 5_000  # between the clocks of hub and box


class Said(Struct, frozen=True, kw_only=True):
    """A prompt of the conversation: its place in it, when, and its words."""

    ordinal: int
    at_ms: int
    text: str


def in_turn(letters: Iterable[Letter]) -> list[Letter]:
    """The order in which messages are, or were, said: a word to go on, what was said before, the rest."""
    return sorted(letters, key=lambda x: (x.kind != "go_on", not x.sent_ms, x.sent_ms, x.ordinal))


def heard_in(
    letters: Iterable[Letter], prompts: Sequence[Said], words: Callable[[Letter], Sequence[str]]
) -> set[str]:
    """The ids of the ``letters`` that are among ``prompts``. Give those already heard too, and all
    prompts since the first of them was sent: they claim what was theirs."""
    left = [(p, _lines(p.text)) for p in prompts]
    found: set[str] = set()
    sent = (x for x in letters if x.sent_ms and x.state not in ("queued", "dropped"))
    for letter in in_turn(sent):
        wanted = words(letter)
        for index, (prompt, lines) in enumerate(left):
            if not lines or prompt.ordinal <= letter.entries:
                continue
            if letter.kind == "prompt" and prompt.at_ms < letter.sent_ms - _PROMPT_SLACK_MS:
                continue  # a copied conversation holds the words of others
            rest = _without(lines, wanted)
            if rest is not None:
                left[index] = (prompt, rest)
                found.add(letter.id)
                break
    return found


def _lines(text: str) -> list[str]:
    return [line for line in map(bare, text.splitlines()) if line]


def _without(lines: list[str], wanted: Sequence[str]) -> list[str] | None:
    """What of a prompt's lines is left for other messages when one is taken out; None: it is not there."""
    for words in wanted:
        mine = _lines(words)
        if not mine:
            continue
        if same_words(words, "".join(lines)):
            return []
        for at in range(len(lines) - len(mine) + 1):
            if lines[at : at + len(mine)] == mine:
                return lines[:at] + lines[at + len(mine) :]
    return None
