"""exec: exactly the argv, separate streams, true ends, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from boxd_support import BOUND, BoxdProcess, run, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thopter.boxd import procfs, wire
from thopter.model.errors import BadInput, NotFound, ProviderError

PRINT = ["/usr/bin/printf", "%s\\0"]


def exec_all(boxd: BoxdProcess, *commands: list[str], **options: object) -> list:
    async def go() -> list:
        async with boxd.link() as link:
            return [await link.exec(c, **options) for c in commands]

    return run(go())


def test_streams_are_separate_and_the_exit_code_is_true(boxd: BoxdProcess) -> None:
    (result,) = exec_all(boxd, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (result.stdout, result.stderr, result.exit, result.signal) == (b"out\n", b"err\n", 7, None)


def test_a_signal_is_told_as_a_signal(boxd: BoxdProcess) -> None:
    (result,) = exec_all(boxd, ["sh", "-c", "kill -SEGV $$"])
    assert (result.exit, result.signal) == (None, signal.SIGSEGV)


@given(argv=st.lists(st.binary(max_size=60).filter(lambda b: b"\0" not in b), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_argv_arrives_byte_for_byte(boxd: BoxdProcess, argv: list[bytes]) -> None:
    (result,) = exec_all(boxd, [*PRINT, *map(wire.to_text, argv)])
    assert result.stdout == b"".join(a + b"\0" for a in argv)


def test_env_is_exactly_what_was_asked_or_the_boxs_own(boxd: BoxdProcess) -> None:
    exact, own = {"A": "b c", "Ä": wire.to_text(b"\xff")}, None
    first, second = (exec_all(boxd, ["/usr/bin/env", "-0"], env=e)[0] for e in (exact, own))
    assert sorted(first.stdout.split(b"\0")[:-1]) == sorted([b"A=b c", "Ä".encode() + b"=\xff"])
    mine = dict(line.split(b"=", 1) for line in second.stdout.split(b"\0")[:-1])
    assert mine[b"HOME"] == os.fsencode(boxd.folder / "home")
    assert mine[b"THOPTER_NAME"] == b"test-box"
    assert {b"PATH", b"LANG", b"TERM"} <= set(mine)
    assert b"PYTHONPATH" not in mine


def test_more_variables_go_over_the_boxs_own_and_bad_ones_are_refused(boxd: BoxdProcess) -> None:
    async def go(more: dict[str, str]) -> bytes:
        async with boxd.link() as link, link.open_exec(["/usr/bin/env", "-0"], more_env=more) as stream:
            return b"".join([data async for number, data in stream if number == wire.STDOUT])

    said = run(go({"COLOUR": "red\nand blue", "LANG": "C"})).split(b"\0")
    assert {b"COLOUR=red\nand blue", b"LANG=C", b"THOPTER_NAME=test-box"} <= set(said)
    with pytest.raises(BadInput, match="more_env"):
        run(go({"A=B": "x"}))


def test_stdin_of_any_size_reaches_the_command_and_ends(boxd: BoxdProcess) -> None:
    content = os.urandom(3 << 20)
    (result,) = exec_all(boxd, ["cat"], stdin=content)
    assert result.stdout == content and result.exit == 0
    (none,) = exec_all(boxd, ["cat"])
    assert none.stdout == b""


def test_input_nobody_reads_is_dropped_and_holds_nothing_up(boxd: BoxdProcess) -> None:
    (result,) = exec_all(boxd, ["sh", "-c", "exec <&-; echo done"], stdin=b"x" * (2 << 20))
    assert result.stdout == b"done\n"


def test_children_get_only_three_descriptors_and_a_session_of_their_own(boxd: BoxdProcess) -> None:
    script = "ls /proc/self/fd | tr '\\n' ' '; read -r s </proc/$$/stat; echo \"$s\""
    (result,) = exec_all(boxd, ["sh", "-c", script])
    listed, stat = result.stdout.decode().split(" ", 4)[:4], result.stdout[result.stdout.find(b"3 ") + 2 :]
    assert listed == ["0", "1", "2", "3"]  # 3 is the folder that ls has open itself
    found = procfs.parse_stat(stat)
    assert found is not None and found.session == found.pid


def test_children_start_with_default_signals(boxd: BoxdProcess) -> None:
    (result,) = exec_all(boxd, ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    blocked, ignored = (int(line.split()[1], 16) for line in result.stdout.splitlines())
    assert blocked == 0
    assert ignored & ~0x180000000 == 0  # 32 and 33 belong to the C library


def test_a_missing_program_or_folder_says_which(boxd: BoxdProcess) -> None:
    with pytest.raises(NotFound, match="no program nope-nope") as e:
        exec_all(boxd, ["nope-nope"])
    assert e.value.data["what"] == "argv"
    with pytest.raises(NotFound, match="/no/such/folder") as e:
        exec_all(boxd, ["true"], cwd="/no/such/folder")
    assert e.value.data["what"] == "cwd"


def test_a_file_that_is_no_program_is_refused_with_the_reason(boxd: BoxdProcess) -> None:
    plain = boxd.folder / "plain"
    plain.write_text("hello")
    with pytest.raises(ProviderError, match="Permission denied"):
        exec_all(boxd, [str(plain)])
    plain.chmod(0o755)
    with pytest.raises(BadInput, match="not a program"):
        exec_all(boxd, [str(plain)])
    with pytest.raises(ProviderError, match="Permission denied"):
        exec_all(boxd, ["/tmp"])


@pytest.mark.parametrize("argv", [[], [""], ["a\0b"], ["a", "\ud800"]])
def test_an_impossible_argv_is_bad_input(boxd: BoxdProcess, argv: list[str]) -> None:
    with pytest.raises(BadInput):
        exec_all(boxd, argv)


def test_an_argument_longer_than_the_system_takes_is_bad_input(boxd: BoxdProcess) -> None:
    with pytest.raises(BadInput, match="too long"):
        exec_all(boxd, ["true", "x" * 300_000])


def test_the_timeout_kills_the_whole_session(boxd: BoxdProcess) -> None:
    # The grandchild is in a process group of its own, as under a shell with job control.
    script = "set -m; sleep 1000 & echo $!; trap '' TERM; sleep 1000; sleep 1000"
    (result,) = exec_all(boxd, ["bash", "-c", script], timeout=1.0)
    assert (result.signal, result.timed_out) == (signal.SIGKILL, True)
    gone(int(result.stdout))


def gone(pid: int) -> None:
    end = time.monotonic() + BOUND
    while (found := procfs.stat(pid)) is not None and found.state not in "ZX":
        assert time.monotonic() < end, f"{pid} still runs: {found}"
        time.sleep(0.01)


def test_leaving_the_block_kills_the_command(boxd: BoxdProcess) -> None:
    async def go() -> int:
        async with boxd.link() as link:
            async with link.open_exec(["sleep", "1000"]) as stream:
                pid = stream.pid
                assert procfs.stat(pid) is not None
            await until(lambda: (s := procfs.stat(pid)) is None or s.state in "ZX")
            return (await link.exec(["echo", "alive"])).exit or 0

    assert run(go()) == 0


def test_a_lost_connection_kills_what_it_started(boxd: BoxdProcess) -> None:
    async def go() -> int:
        async with boxd.link() as link, link.open_exec(["sh", "-c", "sleep 1000; :"]) as stream:
            pid = stream.pid
            link.close()
        return pid

    gone(run(go()))


def test_what_a_command_leaves_in_the_background_goes_on_and_delays_nothing(boxd: BoxdProcess) -> None:
    (result,) = exec_all(boxd, ["sh", "-c", "sleep 1000 & echo $!"], timeout=30)
    pid = int(result.stdout)
    assert result.exit == 0 and procfs.stat(pid) is not None
    os.kill(pid, signal.SIGKILL)


def test_all_output_written_before_the_end_arrives(boxd: BoxdProcess) -> None:
    # More than pipes and credit hold, written by a process that ends at once, beside a child
    # that keeps the pipe open and goes on writing.
    script = "yes noise & head -c 900000 /dev/zero; echo $! >&2"
    (result,) = exec_all(boxd, ["sh", "-c", script], timeout=60)
    os.kill(int(result.stderr), signal.SIGKILL) if procfs.stat(int(result.stderr)) else None
    assert result.stdout.count(b"\0") == 900_000


def test_a_terminal_is_the_controlling_one_and_has_the_size(boxd: BoxdProcess) -> None:
    async def go() -> bytes:
        got = b""
        async with boxd.link() as link:
            argv = ["bash", "-c", "tty; stty size; read x; stty size; echo got $x </dev/tty >/dev/tty"]
            async with link.open_exec(argv, pty=(11, 33)) as stream:
                async for number, data in stream:
                    assert number == 1
                    got += data
                    if b"11 33" in got and b"\r\n" in got.split(b"11 33")[1] and b"go" not in got:
                        await stream.resize(12, 44)
                        await stream.write(b"go\n")
                assert await stream.wait() == ("exit", 0)
        return got

    out = run(go())
    assert out.startswith(b"/dev/pts/") and b"12 44" in out and out.endswith(b"got go\r\n")


def test_ctrl_c_and_signals_reach_the_foreground_of_the_terminal(boxd: BoxdProcess) -> None:
    async def go(how: str) -> tuple[str, int]:
        argv = ["bash", "-c", "echo up; sleep 1000"]
        async with boxd.link() as link, link.open_exec(argv, pty=(24, 80)) as stream:
            async for _, data in stream:
                if b"up" in data:
                    await (stream.write(b"\x03") if how == "key" else stream.signal("INT"))
            return await stream.wait()

    assert run(go("key")) == ("signal", signal.SIGINT)
    assert run(go("signal")) == ("signal", signal.SIGINT)


def test_the_end_of_input_reaches_a_terminal(boxd: BoxdProcess) -> None:
    async def go() -> tuple[str, int]:
        async with boxd.link() as link, link.open_exec(["cat"], pty=(24, 80)) as stream:
            await stream.write(b"line\n")
            await stream.eof()
            return await stream.wait()

    assert run(go()) == ("exit", 0)


def test_the_last_words_in_a_terminal_arrive(boxd: BoxdProcess) -> None:
    async def go() -> int:
        async with boxd.link() as link:
            for _ in range(20):
                got = b""
                async with link.open_exec(["sh", "-c", "seq 1 3000"], pty=(24, 80)) as stream:
                    async for _, data in stream:
                        got += data
                assert got.endswith(b"\r\n3000\r\n")
        return 20

    assert run(go()) == 20


def test_hundred_commands_at_once_over_one_connection(boxd: BoxdProcess) -> None:
    async def go() -> list[bytes]:
        async with boxd.link() as link:
            results = await asyncio.gather(*(link.exec(["echo", str(i)]) for i in range(100)))
        return [r.stdout for r in results]

    assert run(go()) == [b"%d\n" % i for i in range(100)]


def test_output_beyond_the_cap_is_discarded_and_said(boxd: BoxdProcess) -> None:
    (result,) = exec_all(boxd, ["head", "-c", "500000", "/dev/zero"], output_cap=1000)
    assert len(result.stdout) == 1000 and result.truncated and result.exit == 0


def test_merged_streams_come_as_one(boxd: BoxdProcess) -> None:
    async def go() -> list[tuple[int, bytes]]:
        argv = ["sh", "-c", "echo a; echo b >&2"]
        async with boxd.link() as link, link.open_exec(argv, merge=True) as stream:
            return [item async for item in stream]

    got = run(go())
    assert {n for n, _ in got} == {1} and b"".join(d for _, d in got) == b"a\nb\n"
