"""Keystrokes at Claude Code's prompt: saying something, and stopping what it does."""

from __future__ import annotations

import json

from thopter.agents.claude.clean import is_quit, own_words
from thopter.model.errors import BadInput
from thopter.model.sockets import Keys

TYPED_MAX = 16_000  # characters typed as the person's own words; more is pasted
TYPED_LINES = 250
SAY_MAX = 1_000_000  # bytes as JSON text: it must fit into one frame to the box
_CHUNK = 500  # 2.1.329 takes more than 800 characters at once for a paste
# An escape sequence cuts a burst of input in two, however late it is read; at the end of the line,
# where the cursor is, this key does nothing.
_CUT = "End"
_CLEAR = ("C-u", _CUT)  # deletes to the beginning of the line; there, the line break before it


def _clear(lines: int) -> Keys:
    """Empty the input line of what a person has half typed, or what an interrupt put back."""
    return Keys(keys=_CLEAR * (2 * lines), pause_ms=50)


def _typed(text: str) -> list[Keys]:
    steps: list[Keys] = []
    for number, line in enumerate(text.split("\n")):
        if number:
            steps.append(Keys(keys=("C-j", _CUT)))
        for at in range(0, len(line), _CHUNK):
            steps += [Keys(text=line[at : at + _CHUNK]), Keys(keys=(_CUT,))]
    return steps


def say(text: str) -> tuple[Keys, ...]:
    """Enter ``text`` as the user's own message and submit it.

    Up to :data:`TYPED_MAX` characters arrive as the person's own words on every version; more is
    pasted, which 2.1.329 marks as pasted content. What stood in the input line is deleted. BadInput
    for text that cannot be entered: empty, NUL, over :data:`SAY_MAX`, or a word that means "quit".
    """
    words = own_words(text)
    if is_quit(words):
        raise BadInput(
            f"claude takes {words.strip()!r} for the command to quit",
            hint="say it in a sentence, or use 'thopter destroy' to end the thopter",
        )
    if len(json.dumps(words)) > SAY_MAX:
        raise BadInput(
            f"the message is too long to be entered at a prompt (over {SAY_MAX // 1000} kB)",
            hint="put it into a file of the box ('thopter put') and tell the agent to read that",
        )
    enter = Keys(keys=("Enter",), pause_ms=300)  # 2.1.197 loses what follows faster than that
    if len(words) <= TYPED_MAX and words.count("\n") < TYPED_LINES:
        return (_clear(40), *_typed(words), enter)
    return (_clear(40), Keys(paste=words, pause_ms=500), Keys(keys=(_CUT,), pause_ms=100), enter)


def interrupt() -> tuple[Keys, ...]:
    """Stop the present turn. A prompt that had got no answer yet comes back into the input line and
    is deleted there. Messages queued before are taken up by the agent, as after any turn."""
    return (Keys(keys=("Escape",), pause_ms=600), _clear(350))
