"""Which password goes with a fetch or a push upstream by https: what the hub hands to the gateway's parts."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator

from thopter.gateway.source import Source
from thopter.model.errors import NotAllowed, ThopterError

#: (policy, source) → a password for the source's host, None for the user's own login. Blocking. Raises
#: NotAllowed (a person has to act; NotThere: it is for other repositories), LoginLater.
LoginFor = Callable[[str, str], str | None]
#: (policy, source, password) → whether there is another one, now that this one was refused. Blocking.
OtherFor = Callable[[str, str, str], bool]

#: What a server says when a login is missing or not enough: no attempt will go better until a person acts.
LOGIN = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|Permission denied|Host key verification"
    r"|error: 40[13]|terminal prompts disabled|Invalid username or (?:password|token)",
    re.IGNORECASE,
)


class NotThere(NotAllowed):
    """The policy's credential is not for this repository."""

    code = "login_not_there"


class LoginRefused(NotAllowed):
    """The far side did not take the policy's credential."""

    code = "login_refused"


class LoginLater(ThopterError):
    """There is no password now, and there may be one in a while."""

    code = "login_later"
    http_status = 502


def no_login(_policy: str, _source: str) -> str | None:
    """The user's own login counts."""
    return None


def no_other(_policy: str, _source: str, _password: str) -> bool:
    """There is no other."""
    return False


@contextlib.contextmanager
def pipe(password: str) -> Iterator[int]:
    """A descriptor from which the password can be read once; afterwards there is nothing."""
    reader, writer = os.pipe()
    try:
        with open(writer, "wb") as file:
            file.write(password.encode() + b"\n")  # at most 64 KiB, which a pipe holds
        yield reader
    finally:
        os.close(reader)


def bare(source: Source) -> str:
    """The address without a user: the password is that of another one."""
    return re.sub(r"^https://[^/@]*@", "https://", source.source)
