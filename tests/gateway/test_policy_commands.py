"""Which commands may be run by hand: the ways around such lists that are known, and the file that says it."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thopter.gateway.policy.commands import Wish, fits, may_carry, may_run
from thopter.gateway.policy.model import Commands, Policy
from thopter.gateway.policy.read import PolicyError, read_book
from thopter.gateway.policy.shipped import SHIPPED

ALLOW = (
    ("git", "status"),
    ("git", "log", "-n", "*"),
    ("/usr/bin/pytest", "-q", "**"),
    ("ls",),
)
LISTED = Policy(name="team", commands=Commands(mode="listed", allow=ALLOW))


def _says(*argv: str, policy: Policy = LISTED, **more: Any) -> str:
    return may_run(Wish(argv=argv, **more), policy)


@pytest.mark.parametrize(
    "argv",
    [("git", "status"), ("git", "log", "-n", "3"), ("/usr/bin/pytest", "-q"), ("ls",),
     ("/usr/bin/pytest", "-q", "tests/a b.py", "$(x);y\n")],
)  # fmt: skip
def test_what_is_listed_may_be_run(argv: tuple[str, ...]) -> None:
    assert _says(*argv) == ""


_AROUND = {
    "semicolon in a word": ("git", "status;", "id"),
    "one long word": ("git status; id",),
    "one long word, alone": ("git status",),
    "substitution": ("git", "$(id)"),
    "substitution as the program": ("$(git)", "status"),
    "a newline": ("git", "status\nid"),
    "a newline in the program": ("git\n", "status"),
    "a newline before it": ("\ngit", "status"),
    "a carriage return": ("git\r", "status"),
    "a blank after it": ("git ", "status"),
    "env before it": ("env", "git", "status"),
    "env with a variable": ("env", "LD_PRELOAD=/tmp/x.so", "git", "status"),
    "a variable before it": ("LD_PRELOAD=/tmp/x.so", "git", "status"),
    "an absolute path": ("/usr/bin/git", "status"),
    "a relative path": ("./git", "status"),
    "a path that leads back": ("/usr/bin/../bin/pytest", "-q"),
    "a doubled separator": ("/usr//bin/pytest", "-q"),
    "a name where a path is listed": ("pytest", "-q"),
    "a symlink of another name": ("/tmp/git", "status"),
    "a shell": ("sh", "-c", "git status"),
    "a login shell": ("bash", "-l"),
    "a shell's exec": ("bash", "-l", "-c", 'exec "$@"', "bash", "git", "status"),
    "busybox": ("busybox", "git", "status"),
    "the loader": ("/lib64/ld-linux-x86-64.so.2", "/usr/bin/git", "status"),
    "capitals": ("GIT", "status"),
    "cyrillic": ("g\u0456t", "status"),
    "full width": ("\uff47\uff49\uff54", "status"),
    "a combining mark": ("git\u0301", "status"),
    "a zero width space": ("git\u200b", "status"),
    "a soft hyphen": ("gi\u00adt", "status"),
    "the other direction": ("\u202egit", "status"),
    "a dash that looks like one": ("git", "log", "\u2212n", "3"),
    "a lone surrogate": ("git\udc80", "status"),
    "nothing": (),
    "an empty word": ("",),
    "an empty word before it": ("", "git", "status"),
    "an empty word after it": ("git", "status", ""),
    "one word more": ("git", "status", "--porcelain"),
    "one word less": ("git",),
    "an option before the verb": ("git", "-c", "core.pager=id", "status"),
    "an option where a word is free": ("git", "log", "-n", "--output=/etc/passwd"),
    "a short option there": ("git", "log", "-n", "-S"),
    "nothing where a word is needed": ("git", "log", "-n", ""),
    "an option among many": ("/usr/bin/pytest", "-q", "tests", "--rootdir=/tmp"),
    "an option at once": ("/usr/bin/pytest", "-q", "-p", "evil"),
    "the star itself as a program": ("*",),
    "login's dash": ("-git", "status"),
}


@pytest.mark.parametrize("argv", _AROUND.values(), ids=_AROUND)
def test_the_known_ways_around_a_list_lead_nowhere(argv: tuple[str, ...]) -> None:
    assert _says(*argv) == "policy team does not list this command, word for word"


def test_what_changes_the_meaning_of_listed_words_is_not_given() -> None:
    said = _says("git", "status", env=("PATH",))
    assert said == "policy team lets listed commands be run, and without variables of one's own"
    said = _says("git", "log", "-n", "3", terminal=True)
    assert said == "policy team gives commands no terminal (pagers and the like offer a shell there)"
    roomy = Policy(name="team", commands=Commands(mode="listed", allow=ALLOW, terminal=True))
    assert _says("git", "status", terminal=True, policy=roomy) == ""
    for cwd in ("", "/work/x", "/work/x/sub"):
        assert _says("git", "status", cwd=cwd, home="/work/x") == "", cwd
    assert _says("ls", cwd="/work/a") == "", "/work is where work is when nothing else is said"
    for cwd in (
        "/tmp",
        "/",
        "/work",
        "/work/xy",
        "/work/x/../../tmp",
        "/work/x/./",
        "work/x",
        "/work/x/..",
        ".",
    ):
        said = _says("git", "status", cwd=cwd, home="/work/x")
        assert said == "policy team lets commands be run in /work/x only", cwd


def test_none_is_none_any_is_any_and_it_holds_for_admins_unless_it_says_otherwise() -> None:
    none = Policy(name="shut", commands=Commands(mode="none"))
    assert _says("ls", policy=none) == "policy shut lets no commands be run by hand"
    assert _says("ls", policy=none, admin=True) == _says("ls", policy=none)
    for mode in ("none", "listed"):
        loose = Policy(name="loose", commands=Commands(mode=mode, allow=(("ls",),), admins=False))  # type: ignore[arg-type]
        assert _says("rm", "-rf", "/", policy=loose, admin=True, env=("A",), terminal=True, cwd="/") == ""
        assert _says("rm", "-rf", "/", policy=loose) != ""
        assert may_carry(True, loose) == "" and may_carry(False, loose) != ""
    assert _says("anything", policy=Policy(name="free"), env=("A",), terminal=True, cwd="/etc") == ""
    assert may_carry(False, Policy(name="free")) == ""
    said = "policy team lets no files be carried by hand ('files' in its commands)"
    assert may_carry(True, LISTED) == may_carry(False, LISTED) == said
    files = Policy(name="files", commands=Commands(mode="listed", allow=ALLOW, files=True))
    assert may_carry(False, files) == ""


_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
_PATTERN = st.lists(st.one_of(_WORDS, st.sampled_from(["*", "-x", "a"])), min_size=1, max_size=5)


@given(_PATTERN, st.booleans(), st.data())
def test_what_fits_has_every_fixed_word_in_its_place(words: list[str], more: bool, data: Any) -> None:
    pattern = (*words, "**") if more else tuple(words)
    near = [data.draw(st.one_of(st.just(w), _WORDS)) for w in words]
    extra = data.draw(st.lists(_WORDS, max_size=3))
    argv = (*near, *extra)
    if fits(pattern, argv):
        assert len(argv) == len(words) or (more and len(argv) > len(words))
        for place, word in enumerate(argv):
            listed = words[place] if place < len(words) else "*"
            free = listed == "*" and place > 0 and word and not word.startswith("-")
            assert word == listed or free
    exact = tuple(words)
    if words[0] != "*" and "*" not in words[1:]:
        assert fits(exact, exact)
        if unicodedata.normalize("NFKC", words[0]) != words[0]:
            assert not fits((unicodedata.normalize("NFKC", words[0]), *exact[1:]), exact)


def _file(commands: str) -> str:
    return f'[policies.team]\nextends = "default"\n\n[policies.team.commands]\n{commands}\n'


def test_what_does_not_fit_is_false_and_nothing_else() -> None:
    assert fits(("ls",), ("ls", "x")) is False
    assert fits(("ls", "**"), ("ls", "-x")) is False
    assert fits(("ls", "**"), ()) is False
    assert fits(("ls", "**"), ("ls",)) is True


def test_the_file_says_what_is_listed_and_a_policy_on_top_has_a_list_of_its_own() -> None:
    text = _file('mode = "listed"\nallow = [["Xvfb", "status"], ["ls", "**"]]\nterminal = true')
    text += '\n[policies.top]\nextends = "team"\n\n[policies.top.commands]\nallow = [["id"]]\n'
    text += '\n[policies.same]\nextends = "team"\n'
    found = read_book(text, SHIPPED).policies
    assert found["team"].commands.allow == (("Xvfb", "status"), ("ls", "**"))
    assert found["top"].commands == Commands(mode="listed", allow=(("id",),), terminal=True)
    assert found["same"].commands == found["team"].commands


_NAME = "is no plain name of a program; each word is an item of its own"
_WORDLESS = 'a command is a list of words: ["git", "status"]'


@pytest.mark.parametrize(
    ("commands", "line", "says"),
    [
        ('mode = "listed"', 4, "commands: 'listed' without a list; 'none' says that nothing may be run"),
        ('mode = "none"\nallow = [["ls"]]', 6, "a list contradicts mode = 'none'"),
        ('allow = [["ls"]]', 5, "a list contradicts mode = 'any'"),
        ('mode = "listed"\nallow = ["ls"]', 6, 'allow: must be a list of lists: [["git", "status"]]'),
        *[(f'mode = "listed"\nallow = [["x"], ["{w}"]]', 6, f"{w!r} {_NAME}")
          for w in ("", "*", "**", "g\u0456t", *(f"l{c}s" for c in " *'`$;|&<>()="))],
        ('mode = "listed"\nallow = [[\'l"s\'], ["ls"]]', 6, f"'l\"s' {_NAME}"),
        ("mode = 'listed'\nallow = [['l\\s'], ['ls']]", 6, f"'l\\\\s' {_NAME}"),
        ('mode = "listed"\nallow = [["' + "\u0456" * 80 + '"]]', 6, f"'{chr(0x456) * 60}' {_NAME}"),
        ('mode = "listed"\nallow = [["a\\tb"]]', 6, f"'a\\tb' {_NAME}"),
        ('mode = "listed"\nallow = [[]]', 6, _WORDLESS),
        ('mode = "listed"\nallow = [["ls", 1]]', 6, _WORDLESS),
        ('mode = "listed"\nallow = [["ls", "**", "a"]]', 6, "'**' can only be the last word"),
        ('deny = [["rm"]]', 5, "unknown key 'deny'; known: mode, allow, admins, files, terminal"),
        ('mode = "some"', 5, "mode: 'some' is not one of any, listed, none"),
        ('mode = "any"\nadmins = "no"', 6, "admins: must be true or false"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_named_with_its_line(commands: str, line: int, says: str) -> None:
    with pytest.raises(PolicyError) as e:
        read_book(_file(commands), SHIPPED)
    assert (line, says) in [(p.line, p.text) for p in e.value.problems]


def test_a_listed_program_that_runs_others_is_pointed_out() -> None:
    text = _file('mode = "listed"\nallow = [["/usr/bin/python3", "*"], ["bash"], ["sh", "-c", "**"], '
                 '["ls", "**"], ["git", "status"], ["less", "x"]]')  # fmt: skip
    said = [(w.line, w.text) for w in read_book(text, SHIPPED).warnings]
    tail = "and words of one's own one can run anything"
    assert said == [(6, f"with {name} {tail}") for name in ("python3", "bash", "sh")]
