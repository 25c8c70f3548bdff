"""What a policy decides: canonical hosts, the most specific rule, and the reason of every refusal."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.hosts import (
    BadHost,
    canonical_host,
    canonical_pattern,
    is_address,
    specificity,
)
from thopter.gateway.policy.model import Allow, Ask, Deny, Policy, Request, Rule

# The vectors on which a well-known allow-list proxy was measured, and where we are stricter than it.
ALLOWED = ("api.example.com", "API.Example.COM", "api.example.com.", "x.github.com", "x_y.github.com")
DENIED = (
    "api.example.com..", "evil.com\0.github.com", "evil.com%00.github.com", "evil.com#.github.com",
    "evil.com/.github.com", "evil.com?.github.com", "evil.com@x.github.com", "github.com", "xgithub.com",
    "github.com.evil.com", "a.github.com.evil.com", "::ffff:1.2.3.4%x.github.com", "127.1", "2130706433",
    "0x7f.1", "0177.0.0.1", "[::1]", "::ffff:127.0.0.1", "[::ffff:7f00:1]", "2852039166", "0xA9FEA9FE",
    "[fd00:ec2::254]", "ⓖithub.com", "git\u200bhub.com", "аpi.example.com", "api。example。com",
    "api.example.com:443", " api.example.com", "api.example.com ", "api.example.com\r\n", "",
    "-x.github.com", "x-.github.com", "a" * 64 + ".github.com", "xn--80ak6aa92e.github.com",
    "..github.com", ".github.com", "*.github.com", "a" * 250 + ".github.com", "1.github.com.1",
)  # fmt: skip

VECTORS = Policy(
    name="p", rules=(Rule(name="r", hosts=("api.example.com", "*.github.com"), ports=(443,), plain=True),)
)


def ask(policy: Policy, host: str, scheme: Any = "connect", port: int = 443, **more: Any) -> Any:
    method = "CONNECT" if scheme == "connect" else "GET"
    return decide(Request(**{"scheme": scheme, "host": host, "port": port, "method": method} | more), policy)


def rule(*hosts: str, **more: Any) -> Rule:
    return Rule(name=more.pop("name", "r"), hosts=hosts, **more)


@pytest.mark.battery("E1")
@pytest.mark.parametrize("host", ALLOWED)
@pytest.mark.parametrize("scheme", ["connect", "http", "https"])
def test_every_spelling_of_an_allowed_host_is_allowed_as_one_name(host: str, scheme: str) -> None:
    found = ask(VECTORS, host, scheme)
    assert isinstance(found, Allow)
    assert found.host == host.lower().rstrip(".")
    assert found.port == 443


@pytest.mark.battery("E1")
@pytest.mark.parametrize("host", DENIED)
@pytest.mark.parametrize("scheme", ["connect", "http", "https"])
def test_every_trick_with_a_host_is_denied_in_every_way_of_asking(host: str, scheme: str) -> None:
    assert isinstance(ask(VECTORS, host, scheme), Deny)


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("127.1", "127.0.0.1"), ("2130706433", "127.0.0.1"), ("0x7f.1", "127.0.0.1"),
        ("0x7F000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"), ("017700000001", "127.0.0.1"), ("1.2.3.4.", "1.2.3.4"), ("0", "0.0.0.0"),
        ("1.2.772", "1.2.3.4"), ("1.131844", "1.2.3.4"), ("4294967295", "255.255.255.255"),
        ("0x.0.0.1", "0.0.0.1"),
        ("255.255.255.255", "255.255.255.255"), ("1.2.65535", "1.2.255.255"), ("1.16777215", "1.255.255.255"),
        ("[::1]", "::1"), ("[0:0::1]", "::1"), ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::FFFF:7f00:1]", "127.0.0.1"),
        ("[2001:DB8::1]", "2001:db8::1"), ("A_b.Example", "a_b.example"), ("a", "a"), ("_sip.x", "_sip.x"),
        ("a." * 126 + "b", "a." * 126 + "b"), ("a" * 63 + ".b", "a" * 63 + ".b"), ("a-b.c", "a-b.c"),
        ("7f.example", "7f.example"), ("xn--80ak6aa92e.com", "xn--80ak6aa92e.com"),
        ("08.example", "08.example"),
        ("010.0.0.1", "8.0.0.1"),
    ],
)  # fmt: skip
def test_hosts_have_one_spelling(raw: str, canonical: str) -> None:
    assert canonical_host(raw) == canonical
    assert canonical_host(raw.upper().replace("0X", "0x")) == canonical


LETTERS = "a host has only letters, digits, '-', '_' and '.'"
PARTS = "a part of the name is empty, too long, or begins or ends with '-'"
V4 = "that is no IPv4 address, and no name ends in a number"
LARGE = "a part of the IPv4 address is too large"
NUMBER = "a part of the IPv4 address is no number"
V6 = "that is no IPv6 address"
ASCII = "a host is written in ASCII here (an international name as xn--…)"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("256.1.1.1", LARGE), ("1.2.3.4.5", V4), ("1.2.3.256", LARGE), ("1.2.65536", LARGE),
        ("1.16777216", LARGE),
        ("4294967296", LARGE), ("1.2.3.4.0", V4), ("08", NUMBER), ("09.1.1.1", NUMBER), ("example.123", V4),
        ("example.0x1", V4), ("1..2", V4), ("0xg.1", V4), ("[::1", LETTERS), ("::1]", LETTERS),
        ("[::1%eth0]", V6), ("[1.2.3.4]", V6), ("[]", V6), ("[:]", V6), ("[::g]", V6), ("[::1]:443", LETTERS),
        ("a b", LETTERS), ("a\tb", LETTERS), (".", PARTS), ("..", PARTS), ("-a", PARTS), ("a-", PARTS),
        ("a.-b.c", PARTS), ("a..b", PARTS), ("ü.de", ASCII), ("a" * 64, PARTS), ("a." * 127 + "b", LETTERS),
        ("a." * 126 + "bb", PARTS), ("%61.com", LETTERS), ("a/b", LETTERS), ("x" * 300, LETTERS),
        ("", LETTERS),
    ],
)  # fmt: skip
def test_what_is_no_plain_host_is_told_so(raw: str, why: str) -> None:
    with pytest.raises(BadHost) as e:
        canonical_host(raw)
    assert str(e.value) == why


def test_addresses_are_told_from_names() -> None:
    assert is_address("::1")
    assert is_address("1.2.3.4")
    assert not is_address("a.b")
    assert not is_address("1a")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("*.1.2.3", "a wildcard can't stand before an address"),
        ("*.com", "under com anybody can have a name; list the hosts one by one"), ("*", LETTERS),
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_told_so(raw: str, why: str) -> None:
    with pytest.raises(BadHost) as e:
        canonical_pattern(raw)
    assert str(e.value) == why


@pytest.mark.fuzz
@settings(max_examples=600, deadline=None)
@given(st.text(max_size=80))
def test_canonical_hosts_stay_as_they_are_and_contain_nothing_that_splits(raw: str) -> None:
    try:
        host = canonical_host(raw)
    except BadHost:
        return
    assert canonical_host(f"[{host}]" if ":" in host else host) == host
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-:")
    if is_address(host):
        assert str(ipaddress.ip_address(host)) == host


@pytest.mark.fuzz
@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from("dxo"), min_size=4, max_size=4), st.integers(1, 4))
def test_every_old_spelling_of_an_ipv4_address_is_that_address(
    value: int, bases: list[str], count: int
) -> None:
    octets = value.to_bytes(4, "big")
    numbers = [*octets[: count - 1], int.from_bytes(octets[count - 1 :], "big")]
    write = {"d": str, "x": hex, "o": lambda n: f"0{n:o}" if n else "0"}
    text = ".".join(write[b](n) for b, n in zip(bases, numbers, strict=False))
    assert canonical_host(text) == str(ipaddress.IPv4Address(value))


@pytest.mark.fuzz
@settings(max_examples=400, deadline=None)
@given(
    host=st.one_of(st.text(max_size=40), st.sampled_from((*ALLOWED, *DENIED))),
    scheme=st.sampled_from(("connect", "http", "https")),
    port=st.integers(-5, 70000),
    target=st.text(max_size=60),
    method=st.sampled_from(("GET", "POST", "CONNECT")),
)
def test_the_decision_never_fails_and_allows_only_the_named(
    host: str, scheme: Any, port: int, target: str, method: str
) -> None:
    found = decide(Request(scheme=scheme, host=host, port=port, method=method, target=target), VECTORS)
    if isinstance(found, Allow):
        assert found.host == "api.example.com" or found.host.endswith(".github.com")
        assert found.port == port == 443
    else:
        assert isinstance(found, Deny)
        assert found.reason


def test_what_is_no_host_is_told_cut_to_a_hundred_characters() -> None:
    found = ask(VECTORS, "%" * 300)
    assert (found.code, found.host) == ("bad_host", "%" * 100)


@pytest.mark.battery("E2")
def test_an_empty_policy_allows_nothing() -> None:
    found = ask(Policy(name="p"), "example.com")
    assert found == Deny(
        code="host_unknown", reason="policy p does not allow example.com", host="example.com"
    )


def test_a_policy_may_ask_about_what_it_does_not_know_and_only_that() -> None:
    policy = Policy(name="p", unknown="ask", deny=("evil.test",), rules=(rule("a.test", methods=("GET",)),))
    assert ask(policy, "new.test", port=8443) == Ask(
        host="new.test", port=8443, reason="policy p asks about new.test"
    )
    assert ask(policy, "evil.test").code == "host_denied"
    assert ask(policy, "a.test", "https", method="POST").code == "method"
    assert ask(policy, "a..test").code == "bad_host"


def test_a_denied_host_is_denied_whatever_the_rules_say() -> None:
    policy = Policy(name="p", rules=(rule("*.a.test", "b.test"),), deny=("*.x.a.test", "b.test"))
    assert isinstance(ask(policy, "y.a.test"), Allow)
    assert ask(policy, "z.x.a.test") == Deny(
        code="host_denied", reason="policy p denies *.x.a.test", host="z.x.a.test"
    )
    assert ask(policy, "b.test").code == "host_denied"
    assert isinstance(ask(policy, "x.a.test"), Allow)


@pytest.mark.parametrize("port", [0, -1, 65536, 80, 444])
def test_only_the_ports_of_the_rule_are_open(port: int) -> None:
    found = ask(VECTORS, "api.example.com", port=port)
    assert found.code == ("port" if 0 < port < 65536 else "bad_port")
    said = (
        f"policy p does not allow port {port} of api.example.com"
        if found.code == "port"
        else "there is no such port"
    )
    assert found.reason == said
    assert found.host == "api.example.com"
    assert isinstance(
        ask(Policy(name="p", rules=(rule("a.test", ports=(1, 65535)),)), "a.test", port=65535), Allow
    )
    assert isinstance(
        ask(Policy(name="p", rules=(rule("a.test", ports=(1, 65535)),)), "a.test", port=1), Allow
    )


def test_the_most_specific_host_decides() -> None:
    wide = rule("*.test", name="wide")
    narrow = rule("*.a.test", name="narrow", methods=("GET",), inspect=True)
    exact = rule("x.a.test", name="exact", paths=("/ok/*",), inspect=True)
    for rules in ((wide, narrow, exact), (exact, narrow, wide)):
        policy = Policy(name="p", rules=rules)
        assert ask(policy, "b.test").rule.name == "wide"
        assert ask(policy, "b.test").inspect is False
        assert ask(policy, "b.a.test").rule.name == "narrow"
        assert ask(policy, "b.a.test").inspect is True
        assert ask(policy, "x.a.test", "https", target="/ok/1").rule.name == "exact"
        assert ask(policy, "x.a.test", "https", target="/no").reason == "that path of x.a.test is not allowed"
        assert ask(policy, "b.a.test", "https", method="POST").code == "method"
    both = rule("x.a.test", "*.test", name="both")
    assert ask(Policy(name="p", rules=(narrow, both)), "x.a.test").rule.name == "both"
    assert specificity("a") == 1000
    assert specificity("a") > specificity("*." + "a" * 250) > specificity("*.aa") > specificity("*.a") > 0


def test_rules_for_one_host_add_up() -> None:
    read = rule("a.test", name="read", methods=("GET",), inspect=True)
    write = rule("a.test", name="write", methods=("POST",), paths=("/up",), inspect=True)
    policy = Policy(name="p", rules=(read, write))
    assert ask(policy, "a.test", "https", target="/x").rule.name == "read"
    assert ask(policy, "a.test", "https", method="POST", target="/up").rule.name == "write"
    assert ask(policy, "a.test", "https", method="POST", target="/x").code == "method"
    assert ask(policy, "a.test", "https", method="PUT", target="/up").code == "method"
    assert ask(policy, "a.test", "https", method="POST", target="/x").reason.endswith("a.test: GET")


def test_a_tunnel_is_as_strict_as_the_strictest_rule_for_its_host() -> None:
    loose = rule("a.test", name="loose", tls=False)
    ech = rule("a.test", name="ech", ech=True)
    plain = rule("a.test", name="plain")
    look = rule("a.test", name="look", inspect=True)
    for order in ((loose, ech, plain, look), (look, plain, ech, loose)):
        found = ask(Policy(name="p", rules=order), "a.test")
        assert (found.rule.name, found.inspect) == ("look", True)
    found = ask(Policy(name="p", rules=(loose, ech, plain)), "a.test")
    assert (found.rule.name, found.inspect) == ("plain", False)
    assert ask(Policy(name="p", rules=(loose, ech)), "a.test").rule.name == "ech"


def test_plain_http_needs_a_word_of_its_own() -> None:
    policy = Policy(name="p", rules=(rule("a.test", ports=(80, 443)),))
    assert ask(policy, "a.test", "http", port=80) == Deny(
        code="plain_http", reason="a.test may be reached by https only", host="a.test"
    )
    assert isinstance(ask(policy, "a.test", "https"), Allow)


@pytest.mark.battery("E12")
def test_a_registry_is_read_only() -> None:
    policy = Policy(name="p", rules=(rule("r.test", methods=("GET", "HEAD"), inspect=True, query_max=10),))
    good = {"target": "/pkg?" + "q" * 10}
    assert isinstance(ask(policy, "r.test", "https", **good), Allow)
    assert isinstance(ask(policy, "r.test", "https", **good, method="HEAD"), Allow)
    assert ask(policy, "r.test", "https", target="/pkg?" + "q" * 11) == Deny(
        code="query", reason="the query is over 10 bytes", host="r.test"
    )
    assert ask(policy, "r.test", "https", has_body=True) == Deny(
        code="body", reason="a request to r.test may have no body", host="r.test"
    )
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(policy, "r.test", "https", method=method) == Deny(
            code="method", reason=f"{method} is not allowed on r.test: GET, HEAD", host="r.test"
        )
    write = Policy(name="p", rules=(rule("r.test", methods=("GET", "POST"), inspect=True),))
    assert isinstance(ask(write, "r.test", "https", method="POST", has_body=True), Allow)
    free = Policy(name="p", rules=(rule("r.test"),))
    assert isinstance(ask(free, "r.test", "https", has_body=True), Allow)
