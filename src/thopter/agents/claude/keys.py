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
# Escape in its unambiguous form (CSI u). The bare byte, read late together with what follows it, is
# taken for Alt and that key, and the interrupt is lost.
_ESCAPE = "\x1b[27u"
_CLEAR = ("C-u", _CUT)  # deletes to the beginning of the line; there, the line break before it


# Empties the input line of up to 40 lines that a person has half typed.
_EMPTY = Keys(keys=_CLEAR * 80, pause_ms=50)


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
        return (_EMPTY, *_typed(words), enter)
    return (_EMPTY, Keys(paste=words, pause_ms=500), Keys(keys=(_CUT,), pause_ms=100), enter)


def interrupt() -> tuple[Keys, ...]:
    """Stop the present turn and leave an empty prompt; at an idle agent it does nothing.

    The space first: with an empty input line two Escapes in a row open the rewind dialog, and one
    before any answer takes the prompt back into the line with no trace in the transcript. Messages
    that were queued are taken up by the agent next, as after any turn.
    """
    return (Keys(text=" ", pause_ms=150), Keys(text=_ESCAPE, pause_ms=600), _EMPTY)
