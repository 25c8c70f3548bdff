"""Making the root of a Debian with mmdebstrap.

apt, dpkg and every package's scripts run as ids that are nobody's (see ``lowly.py``); what they made
comes out as a tar, and is unpacked by the extractor that reads images, as hostile as those.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from thopter.kit.threads import finish
from thopter.model.errors import BadInput, ProviderError, TimedOut, Unsupported
from thopter.providers.local import curated, lowly, oci
from thopter.providers.local.maker import Maker
from thopter.providers.local.npm import clean_env
from thopter.providers.local.trees import remove_tree
from thopter.providers.local.unpacking import Bounds

USUAL = ("ca-certificates", "curl", "git", "less", "procps", "tmux")  # what agents and boxes need
_SUITE = re.compile(r"[a-z][a-z0-9-]{1,40}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,99}(:[a-z0-9]{2,20})?")
_WITHOUT_UPDATES = ("sid", "unstable", "experimental", "rc-buggy")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_NETWORK = re.compile(r"Acquire::(\w+::Proxy|https?::|Check-Valid-Until|Check-Date|Retries|ForceIPv)[^ ]* \"")
_RELEASE = re.compile(r'^(ID|VERSION_CODENAME)="?([^"\n]*)"?$', re.MULTILINE)
_STEP = re.compile(r"I: ((running apt|downloading|extracting|installing|cleaning|creating).*)")
_UNKNOWN = re.compile(r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate")
_USERINFO = re.compile(r"//[^/@\s]+@")
_LIMIT_S = 3600.0
_NEEDED_BYTES = 3 << 30
_LAST_LINES = 4
_TOOLS = os.defpath + ":/usr/sbin:/sbin"


def check(suite: str, packages: Sequence[str]) -> None:
    """BadInput for a suite or a package that can't be meant."""
    if not _SUITE.fullmatch(suite):
        raise BadInput(f"{suite[:60]!r} is no suite of Debian", hint="such as debian:trixie or debian:stable")
    for name in packages:
        if not _PACKAGE.fullmatch(name):
            raise BadInput(f"{name[:60]!r} is no name of a package", hint="such as 'build-essential'")


async def root(maker: Maker, suite: str, packages: Sequence[str], built: Path) -> AsyncGenerator[str, None]:
    """Make ``built/root``: that suite with the usual packages and these; yields progress. Needs the
    network. When it is not taken to its end, all that it started is gone afterwards."""
    check(suite, packages)
    tool = _tool(maker)
    if shutil.disk_usage(built).free < _NEEDED_BYTES:
        raise ProviderError("too little space for a Debian", hint=f"free {_NEEDED_BYTES >> 30} GiB of disk")
    base = maker.ranges.take()
    place = built / "making"
    try:
        sources = await finish(_sources, maker, suite)
        await finish(_prepare, place, base, sources)
        wanted = sorted({*USUAL, *packages})
        yield f"debian {suite} with " + " ".join(wanted)
        mirrors = [_at("sources.list")] if sources else []
        argv = [tool, *_options(wanted), suite, _at("root.tar"), *mirrors]
        lines = _run(lowly.command(base, place, argv), suite)
        async with contextlib.aclosing(lines):
            async for line in lines:
                yield line
        yield "checking and unpacking it"
        await finish(_unpack, maker, place / "root.tar", built / "root")
    finally:
        await finish(remove_tree, place)
        maker.ranges.give_back(base)


def _tool(maker: Maker) -> str:
    if not maker.root:
        raise Unsupported(
            "a Debian is built by a hub that runs as root",
            hint="build it there and 'thopter snapshot export' it, or give the folder or tar of an OCI image",
        )
    found = shutil.which("mmdebstrap", path=os.environ.get("PATH", "") + ":" + _TOOLS)
    if found is None:
        raise Unsupported("mmdebstrap is missing", hint="apt install mmdebstrap debian-archive-keyring")
    return found


def _at(name: str) -> str:
    return f"{lowly.PLACE}/{name}"


def _options(packages: Sequence[str]) -> list[str]:
    # What apt was told for this one build (proxies may hold passwords) is not left in the root.
    # Nor are the machine's name and resolver, which mmdebstrap copies.
    clean = (
        'rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap; '
        f'if [ -s {_at("sources.clean")} ]; then cp {_at("sources.clean")} "$1"/etc/apt/sources.list; fi; '
        'rm -f "$1"/etc/resolv.conf "$1"/etc/hostname'
    )
    return [
        "--mode=root", "--variant=minbase", "--format=tar", "--skip=chroot/mount/sys",
        "--dpkgopt=force-unsafe-io", f"--aptopt={_at('apt.conf')}", "--include=" + ",".join(packages),
        f"--customize-hook={clean}",
    ]  # fmt: skip


def _prepare(place: Path, base: int, sources: str) -> None:
    place.mkdir(mode=0o700)
    texts = {
        "sources.list": sources, "sources.clean": _USERINFO.sub("//", sources), "apt.conf": _apt_conf(),
    }  # fmt: skip
    for name, text in texts.items():
        (place / name).write_text(text)
        os.chown(place / name, base, base)
    os.chown(place, base, base)


def _said(*argv: str) -> str:
    """What a tool of apt says; nothing where it is not there or fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout
    return ""


def _apt_conf() -> str:
    """How this machine's apt reaches the network: proxies, certificates, clocks."""
    wanted = re.compile(
        r"Acquire::(\w+::Proxy|https?::|Check-Valid-Until|Check-Date|Retries|ForceIPv)[^ ]* \""
    )
    lines = [line for line in _said("apt-config", "dump").splitlines() if wanted.match(line)]
    return "\n".join(["// as on the machine it was built on", *lines]) + "\n"


def _sources(maker: Maker, suite: str) -> str:
    """Lines of sources.list: a file of the operator's, or the mirrors that this machine uses itself."""
    own = str(maker.settings.get("local.debian_sources"))
    if own:
        try:
            return Path(own).read_text()
        except (OSError, UnicodeDecodeError) as e:
            raise BadInput(f"local.debian_sources can't be read: {e}") from None
    release = dict(
        re.findall(r'^(ID|VERSION_CODENAME)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.M)
    )
    found: dict[str, str] = {}
    if release.get("ID") == "debian":
        form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
        for line in _said("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
            name, _, rest = line.partition(" ")
            component, _, address = rest.partition(" ")
            if component == "main":
                found.setdefault(name, address)
    here = release.get("VERSION_CODENAME", "")
    if here not in found:
        return ""  # mmdebstrap knows Debian's own
    if not os.path.exists(_KEYRING):
        raise Unsupported("Debian's keys are missing", hint="apt install debian-archive-keyring")
    kinds = [""] if suite in _WITHOUT_UPDATES else ["", "-updates", "-security"]
    lines = [
        f"deb [signed-by={_KEYRING}] {found[here + kind]} {suite}{kind} main"
        for kind in kinds
        if here + kind in found
    ]
    return "\n".join(lines) + "\n"


async def _run(argv: list[str], suite: str) -> AsyncGenerator[str, None]:
    """Run it, yielding what it says of its steps; all of it is dead when this ends in any way."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=_env(os.environ), start_new_session=True, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(_LIMIT_S):
            async for line in _lines(process.stdout):
                said = [*said[-60:], line]
                if step := _STEP.match(line):
                    yield step[1]
            code = await process.wait()
    except TimeoutError:
        raise TimedOut(f"the build took more than {_LIMIT_S / 60:.0f} minutes") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):  # it ends when the last of them has let go of it
                while await process.stdout.read(1 << 16):
                    pass
        await process.wait()
    if code:
        raise _failure(suite, said)


async def _lines(stream: asyncio.StreamReader) -> AsyncGenerator[str, None]:
    rest = b""
    while piece := await stream.read(1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        rest = rest[-4096:]
        for line in whole:
            text = line.rpartition(b"\r")[2][:2000].decode("utf-8", "replace").strip()
            if text:
                yield text


def _failure(suite: str, said: list[str]) -> ProviderError | BadInput:
    words = [_USERINFO.sub("//", line) for line in said]
    text = "\n".join(words)
    unknown = re.search(r"Unable to locate package (\S+)", text) or re.search(
        r"Package '?(\S+?)'? has no inst", text
    )
    if unknown:
        return BadInput(
            f"{suite} has no package {unknown[1] or unknown[2]}", hint="'apt search' in a box finds names"
        )
    if "does not have a Release file" in text or re.search(r"Err:.*\s404\s", text):
        return BadInput(f"this machine's mirror has no suite {suite!r}", hint="such as debian:trixie")
    if "No space left" in text:
        return ProviderError(f"no space left while {suite} was built", hint="free some disk space")
    errors = [line for line in words if line.startswith("E: ")] or words
    return ProviderError(
        f"{suite} could not be built: " + " / ".join(errors[-_LAST_LINES:]),
        hint="check that apt reaches its mirror ('apt-get update'), then try again",
    )


def _env(env: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in clean_env(env).items() if not k.lower().startswith("npm_")}
    path = kept.get("PATH", "") + ":" + _TOOLS
    return kept | {"PATH": path, "HOME": lowly.PLACE, "TMPDIR": lowly.PLACE, "LC_ALL": "C.UTF-8",
                   "DEBIAN_FRONTEND": "noninteractive"}  # fmt: skip


def _unpack(maker: Maker, tar: Path, root_folder: Path) -> None:
    bounds = Bounds(maker.settings.get("local.import_entries"), maker.settings.get("local.import_bytes"))
    try:
        fd = os.open(tar, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise ProviderError(f"the builder made nothing: {e.strerror}") from None
    with os.fdopen(fd, "rb") as f:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ProviderError("the builder made something else than a tar")
        root_folder.mkdir(mode=0o755)
        oci.apply_tar(root_folder, f, bounds)
    curated.complete(root_folder)
