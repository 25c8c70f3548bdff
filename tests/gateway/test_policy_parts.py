"""The parts of a decision: paths compared by segments, addresses by class, wildcards by who owns them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from thopter.gateway.policy.addresses import forbidden
from thopter.gateway.policy.decide import decide
from thopter.gateway.policy.hosts import BadHost, canonical_pattern, is_shared, matches
from thopter.gateway.policy.model import Allow, Policy, Request, Rule
from thopter.gateway.policy.paths import ambiguous, bad_path, check_pattern, path_matches


def ask(policy: Policy, host: str, scheme: Any, **more: Any) -> Any:
    return decide(Request(**{"scheme": scheme, "host": host, "port": 443, "method": "GET"} | more), policy)


def rule(*hosts: str, **more: Any) -> Rule:
    return Rule(name="r", hosts=hosts, **more)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/a", "/a", True), ("/a", "/a/", False), ("/a", "/ab", False), ("/a", "/", False),
        ("/a/", "/a/", True),
        ("/*", "/", True), ("/*", "/a/b", True), ("/a/*", "/a/b", True), ("/a/*", "/a/b/c", True),
        ("/a/*", "/a", False), ("/a/*", "/a/", True), ("/a/*", "/ab/c", False), ("/*/x", "/a/x", True),
        ("/*/x", "//x", False), ("/*/x", "/a/b/x", False), ("/r/*/pulls/*", "/r/1/pulls/2/c", True),
        ("/r/*/pulls/*", "/r/1/issues/2", False), ("/", "/", True), ("/", "/a", False),
        ("/r/*/pulls/*", "/r/1/pulls", False), ("/r/*/pulls/*", "/r//pulls/1", False),
    ],
)  # fmt: skip
def test_paths_are_compared_by_segments(pattern: str, path: str, fits: bool) -> None:
    assert check_pattern(pattern) == ""
    assert path_matches(pattern, path) is fits
    policy = Policy(name="p", rules=(rule("a.test", paths=(pattern,), inspect=True),))
    assert isinstance(ask(policy, "a.test", "https", target=path + "?q=/a"), Allow) is (
        fits and "//" not in path
    )


UP = "the path has a '..' segment"
PLAIN = "the path is not plain text that starts with '/'"
UNCLEAR = "the path has a '.' segment, an encoded or doubled separator, a ';' or a bad '%'"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/a/../b", UP), ("/a/..", UP), ("/a/%2e%2e/b", UP), ("/a/.%2E/b", UP), ("/%2E./a", UP), ("/..", UP),
        ("a", PLAIN), ("*", PLAIN), ("", PLAIN), ("/a b", PLAIN), ("/a#b", PLAIN), ("/\x00", PLAIN),
        ("/a\tb", PLAIN),
    ],
)  # fmt: skip
def test_a_path_that_servers_resolve_later_is_denied_by_every_rule(path: str, why: str) -> None:
    assert bad_path(path) == why
    policy = Policy(name="p", rules=(rule("a.test"),))
    found = ask(policy, "a.test", "https", target=path)
    assert (found.code, found.host, found.reason) == ("bad_path", "a.test", why)


@pytest.mark.parametrize(
    "path",
    [
        "/a%2fb", "/a%5Cb", "/a\\b", "//a", "/a//b", "/a;b", "/a%00", "/a%252f", "/a%g", "/a%", "/./a",
        "/a/.",
        "/%2e/a", "/a/%2E",
    ],
)  # fmt: skip
def test_a_path_of_two_readings_matches_no_pattern_but_passes_where_paths_are_free(path: str) -> None:
    assert bad_path(path) == ""
    assert ambiguous(path) == UNCLEAR
    narrow = Policy(name="p", rules=(rule("a.test", paths=("/*",), inspect=True),))
    found = ask(narrow, "a.test", "https", target=path)
    assert (found.code, found.reason, found.host) == ("bad_path", UNCLEAR, "a.test")
    free = Policy(name="p", rules=(rule("a.test"),))
    assert isinstance(ask(free, "a.test", "https", target=path), Allow)


@pytest.mark.parametrize("path", ["/a/...", "/.well-known/x", "/a..b/c", "/a.b", "/~u/", "/@s/n", "/a%20b"])
def test_ordinary_paths_are_ordinary(path: str) -> None:
    assert bad_path(path) == ambiguous(path) == ""


CHARACTERS = "a path starts with '/' and has only plain characters and '*'"
SEGMENTS = "a path has no '.', '..' or empty segment"
STAR = "'*' stands for a whole segment, or at the end ('/*') for everything below"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a", CHARACTERS), ("", CHARACTERS), ("/a?b", CHARACTERS), ("/%2f", CHARACTERS), ("/a//b", SEGMENTS),
        ("/../x", SEGMENTS), ("/./x", SEGMENTS), ("/a/.", SEGMENTS), ("/a*", STAR), ("/a*/b", STAR),
        ("/*b/c", STAR), ("/**", STAR), ("/a/**", STAR), ("/b*/*", STAR),
    ],
)  # fmt: skip
def test_a_bad_path_pattern_is_told(pattern: str, why: str) -> None:
    assert check_pattern(pattern) == why
    assert check_pattern("/a/*/b/*") == ""


@pytest.mark.battery("E5")
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"), ("127.255.0.1", "loopback"), ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"), ("::", "unspecified"), ("10.0.0.1", "private"), ("172.16.0.1", "private"),
        ("172.31.255.255", "private"), ("192.168.1.1", "private"), ("fc00::1", "private"),
        ("fdff::1", "private"),
        ("fec0::1", "private"), ("100.64.0.1", "shared by a carrier's customers"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"), ("169.254.169.254", "metadata"), ("169.254.170.2", "metadata"),
        ("169.254.170.23", "metadata"), ("100.100.100.200", "metadata"), ("168.63.129.16", "metadata"),
        ("192.0.0.192", "metadata"), ("fd00:ec2::254", "metadata"), ("fd20:ce::254", "metadata"),
        ("fd00:42::42", "metadata"), ("224.0.0.1", "multicast"), ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"), ("192.0.0.1", "reserved"), ("198.18.0.1", "reserved"),
        ("192.88.99.1", "reserved"), ("192.0.2.1", "documentation"), ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"), ("2001:db8::1", "documentation"), ("3fff::1", "documentation"),
        ("2001::1", "reserved"), ("2002:7f00:1::", "a tunnel to an IPv4 address (6to4)"),
        ("::7f00:1", "reserved"),
        ("64:ff9b:1::1", "reserved"), ("100::1", "reserved"), ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"), ("::ffff:10.0.0.1", "private"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::7f00:1", "loopback"), ("64:ff9b::a9fe:a9fe", "metadata"), ("64:ff9b::a00:1", "private"),
        ("64:ff9b::808:808", ""), ("8.8.8.8", ""), ("::ffff:8.8.8.8", ""), ("2600::1", ""),
        ("172.32.0.1", ""),
        ("11.0.0.1", ""), ("128.0.0.1", ""), ("100.128.0.1", ""), ("2001:200::1", ""),
        ("223.255.255.255", ""),
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_forbidden_by_their_class(address: str, why: str) -> None:
    assert forbidden(ipaddress.ip_address(address)) == why


def test_a_rule_can_open_a_network_but_never_metadata_multicast_or_nowhere() -> None:
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    for address in ("127.0.0.1", "10.1.2.3", "fc00::1", "::ffff:10.1.2.3", "64:ff9b::a00:1", "100.64.0.1"):
        assert forbidden(ipaddress.ip_address(address), everything) == ""
    for address in (
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fd00:ec2::254",
        "224.0.0.1",
        "0.0.0.0",
        "::",
    ):
        assert forbidden(ipaddress.ip_address(address), everything)
    one = [ipaddress.ip_network("10.1.0.0/16")]
    assert forbidden(ipaddress.ip_address("10.1.255.255"), one) == ""
    assert forbidden(ipaddress.ip_address("10.2.0.1"), one) == "private"
    assert forbidden(ipaddress.ip_address("64:ff9b::a02:1"), one) == "private"


@pytest.mark.battery("E14")
@pytest.mark.parametrize(
    "suffix",
    [
        "com", "co.uk", "com.au", "github.io", "s3.amazonaws.com", "s3.eu-west-1.amazonaws.com",
        "workers.dev",
        "eu-west-1.amazonaws.com", "blob.core.windows.net", "x.core.windows.net",
        "x.r2.cloudflarestorage.com", "nip.io", "co.uk",
        "co.xy", "com.xy", "org.xy", "net.xy", "ac.xy", "gov.xy", "edu.xy", "or.xy", "ne.xy", "go.xy",
        "gob.xy", "nom.xy",
    ],
)  # fmt: skip
def test_a_wildcard_over_everybodys_names_is_refused(suffix: str) -> None:
    assert is_shared(suffix)
    with pytest.raises(BadHost, match="anybody can have a name"):
        canonical_pattern(f"*.{suffix}")
    if "." in suffix:
        assert canonical_pattern(f"mine.{suffix}") == f"mine.{suffix}"


def test_wildcards_stand_for_names_below_and_nothing_else() -> None:
    assert canonical_pattern("*.Example.COM.") == "*.example.com"
    assert canonical_pattern("2001:DB8::1") == canonical_pattern("[2001:db8:0::1]") == "2001:db8::1"
    assert not is_shared("example.com")
    assert not is_shared("team.github.io")
    assert not is_shared("co.example")
    assert matches("*.example.com", "a.b.example.com")
    for host in ("example.com", "aexample.com", "xn--a.example.com", "a.xn--b.example.com"):
        assert matches("*.example.com", host) is False
    assert matches("*.xn--a.com", "b.xn--a.com")
    assert matches("xn--a.com", "xn--a.com")
    assert not matches("*.3.4", "1.2.3.4")
    for bad in ("*.1.2.3", "*", "a.*.com", "*.", "**.example.com", "*.ü.com", "*.[::1]"):
        with pytest.raises(BadHost):
            canonical_pattern(bad)
