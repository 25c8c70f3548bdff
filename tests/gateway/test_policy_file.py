"""Reading policy.toml: every fault with its line, nothing half understood, and docs that tell every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.gateway.policy.explain import try_url
from thopter.gateway.policy.keys import SECTIONS
from thopter.gateway.policy.lines import line_of
from thopter.gateway.policy.model import Allow
from thopter.gateway.policy.read import Book, PolicyError, read_book
from thopter.gateway.policy.registries import REGISTRIES
from thopter.gateway.policy.shipped import SHIPPED

GOOD = """
default = "team"

[repos]
"https://git.test/open/*" = "closed"
"https://git.test/open/but-one" = "team"

[policies.team]
extends = "default"
doc = "ours"
deny = ["evil.test"]
unknown = "ask"
ask_seconds = 5

[[policies.team.hosts]]
host = ["api.test", "*.corp.test"]
methods = ["GET", "POST"]
paths = ["/v1/*"]
addresses = ["10.1.0.0/16"]

[[policies.team.hosts]]
host = "tracker.test"
credential = "tracker"

[policies.team.credentials.tracker]
secret = "egress.tracker"
hosts = ["tracker.test"]

[policies.team.limits]
connections = 7

[policies.small]
registries = ["npm"]
"""


def book(text: str) -> Book:
    return read_book(text, SHIPPED)


def problems(text: str) -> list[tuple[int, str]]:
    with pytest.raises(PolicyError) as e:
        book(text)
    return [(p.line, p.text) for p in e.value.problems]


def test_a_good_file_is_read_whole() -> None:
    found = book(GOOD)
    team = found.policies["team"]
    assert found.default == "team"
    assert found.for_repo("https://git.test/open/x") == "closed"
    assert found.for_repo("https://git.test/open/but-one") == "team"
    assert found.for_repo("https://else.test/") == ""
    assert set(found.policies) == {"default", "ask", "closed", "outsider", "team", "small"}
    assert [r.name for r in team.rules if not r.name.startswith("registry")] == ["hosts[0]", "hosts[1]"]
    assert team.registries == SHIPPED["default"].registries
    assert (team.unknown, team.ask_seconds, team.limits.connections, team.doc) == ("ask", 5, 7, "ours")
    assert found.policies["small"].registries == ("npm",)
    assert found.policies["default"] == SHIPPED["default"]
    rule = team.rules[-2]
    assert (rule.hosts, rule.ports, rule.inspect) == (("api.test", "*.corp.test"), (443,), True)
    assert isinstance(try_url("https://api.test/v1/x", "POST", team), Allow)
    assert try_url("https://api.test/v2", "GET", team).code == "path"  # type: ignore[union-attr]
    assert try_url("evil.test:443", "GET", team).code == "host_denied"  # type: ignore[union-attr]


@pytest.mark.battery("E12")
def test_what_ships_reads_packages_and_publishes_nothing() -> None:
    for name, registry in REGISTRIES.items():
        for host in registry.hosts:
            read = try_url(f"https://{host}/some/package", "GET", SHIPPED["default"])
            assert isinstance(read, Allow), (name, host)
            assert read.inspect
            for method in ("PUT", "POST", "DELETE"):
                assert try_url(f"https://{host}/some", method, SHIPPED["default"]).code == "method"  # type: ignore[union-attr]
            assert try_url(f"https://{host}/x?{'q' * 1025}", "GET", SHIPPED["default"]).code == "query"  # type: ignore[union-attr]
            assert isinstance(try_url(f"http://{host}/x", "GET", SHIPPED["default"]), Allow) is registry.plain
    assert SHIPPED["closed"].rules == ()
    assert not SHIPPED["closed"].inspects
    assert read_book("", SHIPPED).policies == SHIPPED


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[policies.a]\nhots = 1", 2, "did you mean 'hosts'"),
        ("defualt = 'x'", 1, "did you mean 'default'"),
        ("[policies.a]\n[[policies.a.hosts]]\nhost='a.test'\nmetods=['GET']", 4, "did you mean 'methods'"),
        ("[policies.a]\n[[policies.a.hosts]]\nhost='a.test'\n[[policies.a.hosts]]\nport=1", 5, "key 'port'"),
        ("[policies.a.limits]\nconections=1", 2, "did you mean 'connections'"),
        ("x = ", 1, "not TOML"),
        ("a = 1\nb = [", 2, "not TOML"),
        ("[policies.a]\nunknown='allow'", 2, "not one of deny, ask"),
        ("[policies.a]\nregistries=['npm','cpan']", 2, "'cpan' is not one of"),
        ("[policies.a]\nextends='nope'", 2, "there is no policy 'nope'"),
        ("[policies.a]\nextends='b'\n[policies.b]\nextends='a'", 2, "a circle"),
        ("[policies.a]\nextends='a'", 2, "a circle"),
        ("default='nope'", 1, "there is no policy 'nope'"),
        ("[repos]\n'x'='nope'", 2, "there is no policy 'nope'"),
        ("[repos]\n'x*y'='closed'", 2, "'*' can only be the last"),
        ("[policies.'A b']", 1, "a policy's name"),
        ("[policies.a]\ndeny=['*.com']", 2, "anybody can have a name"),
        ("[policies.a]\ndeny=['münchen.test']", 2, "xn--mnchen-3ya.test"),
        ("[[policies.a.hosts]]\nhost='*.github.io'", 2, "anybody can have a name"),
        ("[[policies.a.hosts]]\nhost='*.s3.amazonaws.com'", 2, "anybody can have a name"),
        ("[[policies.a.hosts]]\nhost='a.test/x'", 2, "a host has only"),
        ("[[policies.a.hosts]]\nports=[443]", 1, "host: which one"),
        ("[[policies.a.hosts]]\nhost='a.test'\nports=[0]", 3, "no port"),
        ("[[policies.a.hosts]]\nhost='a.test'\nmethods=['get']", 3, "words in capitals"),
        ("[[policies.a.hosts]]\nhost='a.test'\nmethods=['CONNECT']", 3, "words in capitals"),
        ("[[policies.a.hosts]]\nhost='a.test'\npaths=['x']", 3, "starts with '/'"),
        ("[[policies.a.hosts]]\nhost='a.test'\npaths=['/a/../b']", 3, "no '.', '..'"),
        ("[[policies.a.hosts]]\nhost='a.test'\ntls=false\npaths=['/']", 3, "contradicts"),
        ("[[policies.a.hosts]]\nhost='a.test'\ntls=false\nplain=true", 3, "contradicts"),
        ("[[policies.a.hosts]]\nhost='a.test'\nmethods=['GET']\ninspect=false", 4, "contradicts"),
        ("[[policies.a.hosts]]\nhost='a.test'\nmethods=['GET']\nech=true", 4, "contradicts"),
        ("[[policies.a.hosts]]\nhost='a.test'\ncredential='c'", 3, "there is no credential 'c'"),
        ("[[policies.a.hosts]]\nhost='a.test'\naddresses=['10.0.0.1/8']", 3, "no network"),
        ("[[policies.a.hosts]]\nhost='a.test'\naddresses=['0.0.0.0/0']", 3, "too wide"),
        ("[policies.a]\ndeny=['a.test']\n[[policies.a.hosts]]\nhost='a.test'", 4, "allowed here and denied"),
        (
            "[[policies.a.hosts]]\nhost='a.test'\nmethods=['GET']\n[[policies.a.hosts]]\nhost='a.test'", 5,
            "open here and looked into by hosts[0]",
        ),
        ("[policies.a.credentials.c]\nhosts=['a.test']", 1, "secret: the name"),
        ("[policies.a.credentials.c]\nsecret='s'", 1, "hosts: say where"),
        ("[policies.a.credentials.c]\nsecret='s'\nhosts=['*.a.test']", 3, "exact hosts"),
        ("[policies.a.credentials.c]\nsecret='s'\nhosts=['a.test']\nheader='host'", 4, "can't carry"),
        ("[policies.a.credentials.c]\nsecret='s'\nhosts=['a.test']\nformat='x'", 4, "exactly one {}"),
        ("[policies.a.limits]\nconnections=0", 2, "at least one"),
        ("[policies.a.limits]\nconnections=true", 2, "must be a number"),
        ("[policies.a]\nask_seconds=9999", 2, "from 0 to 600"),
        ("[policies.a]\nhosts=['a.test']", 2, "array of tables"),
        ("policies = 3", 1, "must be a table"),
    ],
)  # fmt: skip
def test_every_fault_is_told_with_its_line(text: str, line: int, says: str) -> None:
    found = problems(text)
    assert any(n == line and says in said for n, said in found), found


def test_a_credential_is_used_only_where_it_may_be_and_never_in_the_clear() -> None:
    text = "[policies.a.credentials.c]\nsecret='s'\nhosts=['a.test']\n[[policies.a.hosts]]\ncredential='c'\n"
    assert "may not be used on b.test" in problems(text + "host='b.test'")[0][1]
    assert "may not be used on *.a.test" in problems(text + "host='*.a.test'")[0][1]
    assert "never sent by http" in problems(text + "host='a.test'\nplain=true")[0][1]
    assert "contradict an added one" in problems(text + "host='a.test'\nclient_credentials=true")[0][1]
    found = book(text + "host='a.test'").policies["a"]
    assert found.rules[0].credential == "c"
    assert found.rules[0].inspect


def test_registries_may_be_mirrored_in_a_network_that_is_named() -> None:
    text = "[policies.a]\nregistries=['npm']\nregistry_addresses=['10.1.0.0/16']\n"
    text += (
        "[policies.b]\nextends='a'\nregistries=['pypi']\n[[policies.b.hosts]]\nhost='a.test'\ninspect=true"
    )
    found = book(text).policies
    assert [r.addresses for r in found["a"].rules] == [("10.1.0.0/16",)]
    assert [r.addresses for r in found["b"].rules] == [("10.1.0.0/16",), ("10.1.0.0/16",), ()]
    assert "no network" in problems("[policies.a]\nregistry_addresses=['x']")[0][1]


def test_what_is_unwise_or_without_effect_is_a_warning() -> None:
    text = "[policies.a]\nisolation='vm'\n[[policies.a.hosts]]\nhost='a.test'\n[policies.a.budgets]\nusd=3\n"
    text += "[[policies.a.hosts]]\nhost='127.0.0.1'\naddresses=['127.0.0.0/8']\ntls=false\n"
    found = {w.line: w.text for w in book(text).warnings}
    assert 2 not in found, "isolation is held"
    assert "opaque tunnel" in found[4]
    assert 6 not in found, "the model gateway enforces budgets"
    assert "hub's own machine" in found[9]
    assert "can't be looked at" in found[10]
    assert book("[[policies.a.hosts]]\nhost='a.test'\ninspect=true").warnings == ()


def test_a_policy_of_a_shipped_name_replaces_it_or_adds_to_it() -> None:
    alone = book("[policies.default]\nregistries=['npm']").policies["default"]
    assert alone.registries == ("npm",)
    more = book("[policies.default]\nextends='default'\n[[policies.default.hosts]]\nhost='a.test'").policies
    assert more["default"].registries == SHIPPED["default"].registries
    assert more["default"].rules[-1].hosts == ("a.test",)


@pytest.mark.fuzz
@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=200),
    st.sampled_from(["", GOOD, "[policies.a]\n", "[[policies.a.hosts]]\nhost='a.test'\n"]),
)
def test_no_text_breaks_the_reader(tail: str, head: str) -> None:
    try:
        found = book(head + tail)
    except PolicyError as e:
        lines = (head + tail).count("\n") + 2
        assert all(1 <= p.line <= lines and p.text for p in e.problems)
        return
    assert found.policies


def test_lines_are_found_in_tables_arrays_and_dotted_keys() -> None:
    text = "a.b = 1\n[x]\n'q r' = 2 # c\n[[x.y]]\nz = 1\n[[x.y]]\nz = 2\n[x.y.w]\nv = 1\n"
    assert line_of(text, ("a", "b")) == 1
    assert line_of(text, ("x", "q r")) == 3
    assert line_of(text, ("x", "y", 0, "z")) == 5
    assert line_of(text, ("x", "y", 1, "z")) == 7
    assert line_of(text, ("x", "y", 1, "w", "v")) == 9
    assert line_of(text, ("x", "y", 1, "nowhere", "v")) == 6
    assert line_of(text, ("nowhere",)) == 1


def test_the_reference_tells_every_key_with_its_choices_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/policy.md").read_text("utf-8")
    for title, keys in SECTIONS.items():
        part = page.partition(f"### Keys of {title}\n")[2].partition("\n#")[0]
        rows = dict(re.findall(r"^\| `([a-z_]+)` \| \w+ \| (.+) \|$", part, re.M))
        assert list(rows) == list(keys)
        for name, key in keys.items():
            assert key.doc in rows[name]
            assert ("not enforced yet" in rows[name]) is not key.enforced
            assert all(f"`{c}`" in rows[name] for c in key.choices)
    registries = page.partition("## Registries\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", registries, re.M) == list(REGISTRIES)
    for name in SHIPPED:
        assert f"| `{name}` |" in page
