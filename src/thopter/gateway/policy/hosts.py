"""One spelling for every host: what is ambiguous is refused, what is merely unusual is rewritten.

All later decisions (match, resolve, certificate, log) use the canonical spelling, so that no two parts
can understand one name differently.
"""

from __future__ import annotations

import ipaddress
import re

_NAME = re.compile(r"[a-z0-9._-]{1,254}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_HEX6 = re.compile(r"[0-9a-fA-F:.]{2,45}")


class BadHost(ValueError):
    """The text can't name a host; the message says why, without quoting the text."""


def canonical_host(raw: str) -> str:
    """Return ``raw`` in lower case, without its one trailing dot; IPv4 in dotted decimal, IPv6 compressed
    and without brackets, v4-mapped as IPv4. Raises BadHost for everything that is not plainly one host."""
    if not raw.isascii():
        raise BadHost("a host is written in ASCII here (an international name as xn--…)")
    if raw.startswith("[") and raw.endswith("]"):
        return _ipv6(raw[1:-1])
    text = raw.lower()
    if not _NAME.fullmatch(text):
        raise BadHost("a host has only letters, digits, '-', '_' and '.'")
    text = text.removesuffix(".")
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(labels)
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadHost("a part of the name is empty, too long, or begins or ends with '-'")
    return text


def is_address(host: str) -> bool:
    """Whether a canonical host is an IP address (no name ends in a number)."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def _ipv6(text: str) -> str:
    try:
        if not _HEX6.fullmatch(text):  # also no zone: '%' would be carried on into names
            raise ValueError
        found = ipaddress.IPv6Address(text)
    except ValueError:
        raise BadHost("that is no IPv6 address") from None
    return str(found.ipv4_mapped or found)


def _ipv4(parts: list[str]) -> str:
    """Read the old spellings too (127.1, 0x7f.1, 0177.0.0.1, 2130706433), as every libc does."""
    if len(parts) > 4 or not all(_NUMBER.fullmatch(p) for p in parts):
        raise BadHost("that is no IPv4 address, and no name ends in a number")
    try:
        numbers = [_part(p) for p in parts]
    except ValueError:
        raise BadHost("a part of the IPv4 address is no number") from None
    *first, last = numbers
    if any(n > 255 for n in first) or last >= 256 ** (5 - len(numbers)):
        raise BadHost("a part of the IPv4 address is too large")
    value = last
    for place, n in enumerate(first):
        value += n << (8 * (3 - place))
    return str(ipaddress.IPv4Address(value))


def _part(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if text.startswith("0") else int(text)


def canonical_pattern(raw: str) -> str:
    """Return a rule's host in canonical form: an exact host or ``*.suffix``. Raises BadHost."""
    if raw.startswith("*."):
        suffix = canonical_host(raw[2:])
        if is_address(suffix):
            raise BadHost("a wildcard can't stand before an address")
        if is_shared(suffix):
            raise BadHost(f"under {suffix} anybody can have a name; list the hosts one by one")
        return f"*.{suffix}"
    if ":" in raw and not raw.startswith("["):
        return _ipv6(raw)
    return canonical_host(raw)


def matches(pattern: str, host: str) -> bool:
    """Whether a canonical ``host`` is meant by a canonical ``pattern``. A wildcard takes names below its
    suffix (not the suffix itself), never an address, never a punycode label it was not written for."""
    if not pattern.startswith("*."):
        return host == pattern
    suffix = pattern[1:]
    if not host.endswith(suffix) or is_address(host):
        return False
    return not any(label.startswith("xn--") for label in host[: -len(suffix)].split("."))


def specificity(pattern: str) -> int:
    """Higher is more specific: an exact host before any wildcard, a longer suffix before a shorter."""
    return 1000 if not pattern.startswith("*.") else len(pattern)


# Places where strangers can get a name of their own: a wildcard over them is a wildcard over everybody.
_SHARED_TEXT = """
github.io githubusercontent.com gitlab.io bitbucket.io pages.dev workers.dev r2.dev trycloudflare.com
vercel.app now.sh netlify.app netlify.com herokuapp.com fly.dev onrender.com railway.app deno.dev
surge.sh glitch.me repl.co replit.dev replit.app ngrok.io ngrok.app ngrok-free.app ngrok.dev loca.lt
serveo.net lhr.life firebaseapp.com web.app appspot.com run.app cloudfunctions.net googleapis.com
googleusercontent.com azurewebsites.net azureedge.net azurefd.net windows.net blob.core.windows.net
cloudapp.net cloudapp.azure.com azurestaticapps.net amazonaws.com s3.amazonaws.com cloudfront.net
elasticbeanstalk.com amplifyapp.com awsapprunner.com lambda-url.us-east-1.on.aws on.aws
digitaloceanspaces.com ondigitalocean.app linodeobjects.com backblazeb2.com wasabisys.com
supabase.co hf.space blogspot.com wordpress.com tumblr.com myshopify.com notion.site webflow.io
readthedocs.io gitbook.io statuspage.io zendesk.com atlassian.net slack.com dyndns.org duckdns.org
no-ip.org ddns.net hopto.org nip.io sslip.io xip.io localtest.me lvh.me traefik.me pipedream.net
webhook.site requestbin.net oast.fun oast.pro oast.me interact.sh burpcollaborator.net
"""
_SHARED = frozenset(_SHARED_TEXT.split())
_SHARED_BELOW = (".amazonaws.com", ".core.windows.net", ".cloudflarestorage.com")
_SECOND_LEVEL = frozenset({"co", "com", "org", "net", "ac", "gov", "edu", "or", "ne", "go", "gob", "nom"})


def is_shared(suffix: str) -> bool:
    """Whether names below ``suffix`` belong to different people: a top level, the second level of a
    country, or a host of other people's pages and buckets."""
    labels = suffix.split(".")
    if len(labels) < 2 or suffix in _SHARED or suffix.endswith(_SHARED_BELOW):
        return True
    return len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LEVEL
