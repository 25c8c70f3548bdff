"""Text made safe for Claude Code's prompt, changed as little as can be: it must stay plain words.

What is changed and why, with the measurements: docs/decisions/0005-driving-claude-code.md.
"""

from __future__ import annotations

import re
import unicodedata

from thopter.model.errors import BadInput

_BREAKS = re.compile(r"\r\n?|[\u2028\u2029\x0b\x0c\x85]")
# C0 and C1 controls but newline; among them ESC, which could end a paste and press keys.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
# Characters that nobody sees. 2.1.329 takes them out and then waits for a second Enter.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001107f\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_NON_JOINER, _JOINER, _EMOJI_STYLE = "\u200c", "\u200d", "\ufe0f"
# Scripts in which a (non-)joiner is spelling, by the beginning of a letter's Unicode name.
_JOINING = re.compile(
    "ARABIC|SYRIAC|MONGOLIAN|DEVANAGARI|BENGALI|GURMUKHI|GUJARATI|ORIYA|TAMIL|TELUGU|KANNADA|MALAYALAM"
    "|SINHALA|MYANMAR|KHMER|TIBETAN"
)
_EMOJI = re.compile(
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf\u23e9-\u23f3"
    "\u23f8-\u23fa\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2604\u260e\u2611\u2614\u2615"
    "\u2618\u261d\u2620\u2622\u2623\u2626\u262a\u262e\u262f\u2638-\u263a\u2640\u2642\u2648-\u2653"
    "\u265f\u2660\u2663\u2665\u2666\u2668\u267b\u267e\u267f\u2692-\u2697\u2699\u269b\u269c\u26a0"
    "\u26a1\u26a7\u26aa\u26ab\u26b0\u26b1\u26bd\u26be\u26c4\u26c5\u26c8\u26ce\u26cf\u26d1\u26d3"
    "\u26d4\u26e9\u26ea\u26f0-\u26f5\u26f7-\u26fa\u26fd\u2702\u2705\u2708-\u270d\u270f\u2712\u2714"
    "\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763\u2764"
    "\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d"
    "\u3297\u3299\U0001f000-\U0001faff]"
)

_COMMAND = re.compile(r"\s*/[A-Za-z0-9_][A-Za-z0-9:_-]*(?:\s|\Z)")
# A blank that is neither white space (2.1.329 trims that before it looks for a command) nor one of
# the hidden characters.
_BLANK = "\u2800"
_MODES = "!?"
# A backslash would turn Enter into a newline, a word like these may hold a completion list open.
_TAIL = re.compile(r"(?:\\|(?:^|\s)[@/#:][^\s]*)\Z")
_QUITS = frozenset({"exit", "quit", ":q", ":q!", ":wq", ":wq!"})


def _is_spelling(before: str, mark: str, after: str) -> bool:
    """Whether a hidden character is part of how an emoji or a word is written."""
    base = before.rstrip(_EMOJI_STYLE)[-1:]
    if mark == _EMOJI_STYLE:
        keycap = before[-1:] in tuple("0123456789#*") and after == "\u20e3"
        return keycap or bool(_EMOJI.fullmatch(before[-1:]))
    if mark == _JOINER and _EMOJI.fullmatch(base) and _EMOJI.match(after):
        return True
    if mark in (_JOINER, _NON_JOINER) and base:
        while unicodedata.category(base) == "Mn" and len(before) > 1:
            before = before[:-1]
            base = before[-1:]
        return unicodedata.category(base).startswith("L") and bool(_JOINING.match(unicodedata.name(base, "")))
    return False


def _without_hidden(text: str) -> str:
    kept: list[str] = []
    at = 0
    for hit in _HIDDEN.finditer(text):
        kept.append(text[at : hit.start()])
        at = hit.end()
        before = text[max(0, hit.start() - 16) : hit.start()]
        if _is_spelling(before, hit[0], text[at : at + 1]):
            kept.append(hit[0])
    return "".join([*kept, text[at:]])


def plain(text: str) -> str:
    """Return ``text`` without what no terminal can carry: control and hidden characters, lone
    surrogates; tabs become four spaces. BadInput for NUL and for text of which nothing is left."""
    if "\x00" in text:
        raise BadInput("the message holds a NUL character", hint="remove it: a terminal cannot carry it")
    text = _CONTROL.sub("", _BREAKS.sub("\n", text).replace("\t", "    "))
    text = _without_hidden(text.encode("utf-8", "replace").decode("utf-8"))
    text = text.strip("\n").rstrip()
    if not text.strip():
        raise BadInput("there is nothing to say", hint="give a message with at least one visible character")
    return text


def is_quit(text: str) -> bool:
    """Whether Claude Code would take ``text`` for the wish to leave it, whatever is around it."""
    return text.strip() in _QUITS


def own_words(text: str) -> str:
    """Return ``text`` as it can be entered: :func:`plain`, with a blank before a first word and a
    space after a last one that would otherwise be a command, a mode or a completion."""
    text = plain(text)
    if _COMMAND.match(text):
        text = _BLANK + text.lstrip()
    elif text[0] in _MODES:
        text = " " + text
    return text + " " if _TAIL.search(text) else text
