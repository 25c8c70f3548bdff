"""The hub's own log: one line a record, bounded, private, without secrets, honest when it can't write."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thopter.hub import logs

SECRETS = [
    "sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789-AA", "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11AAAAAAA0abcdefghijklmnop", "thp_abcdefghijklmnopqrstuvwxyz0123456789abcdefg",
    "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
]  # fmt: skip
CARRIED = [
    "Authorization: Bearer s3cr3t-value-1234",
    '{"api_key": "s3cr3t-value-1234"}',
    "x-api-key=s3cr3t-value-1234",
    "https://user:s3cr3t-value-1234@example.com/x",
    "password = 's3cr3t-value-1234'",
    "TOKEN=s3cr3t-value-1234",
]


@pytest.fixture
def log(root: Path) -> Iterator[tuple[logging.Logger, Path]]:
    path = root / "hub.log"
    handler = logs.RotatingLog(path, file_bytes=20_000, files=3)
    handler.setFormatter(logs.JsonLines())
    logger = logging.Logger("thopter.test")
    logger.addHandler(handler)
    yield logger, path
    handler.close()


@pytest.mark.battery("H17")
@pytest.mark.parametrize("secret", SECRETS + CARRIED)
def test_no_secret_is_written_wherever_it_stands(log: tuple[logging.Logger, Path], secret: str) -> None:
    logger, path = log
    try:
        raise ValueError(f"in an exception: {secret}")
    except ValueError as e:
        logger.error(
            "in the text: %s", secret, exc_info=e, extra={"data": {"in data": secret, "path": [secret]}}
        )
    text = path.read_text()
    inner = "s3cr3t-value-1234" if secret in CARRIED else secret.split("\n")[len(secret.split("\n")) // 2]
    assert inner not in text and "[hidden]" in text
    assert "in the text" in text and "ValueError" in text, "the rest stays readable"


@pytest.mark.battery("H17")
def test_a_known_secret_is_hidden_whatever_its_shape() -> None:
    redactor = logs.Redactor()
    redactor.hide("correct horse battery")
    redactor.hide("a")
    assert redactor("say correct horse battery staple a") == "say [hidden] staple a"
    ordinary = "POST /v1/thopters/fix-login/tell 200 in 12.5 ms at 10:00:00"
    assert redactor(ordinary) == ordinary


@pytest.mark.battery("X2", "X6")
def test_hostile_text_makes_one_record_and_forges_none(log: tuple[logging.Logger, Path]) -> None:
    logger, path = log
    hostile = 'x"}\n{"at":"2000","level":"error","text":"forged"}\r\n\x1b[2J\u2028\x00 ' + "y" * 10_000_000
    logger.warning("box said %s", hostile)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1 and len(lines[0]) < 20_000
    record = json.loads(lines[0])
    assert record["level"] == "warning" and record["at"] != "2000"
    assert b"\x1b" not in lines[0] and b"\x00" not in lines[0]
    assert "characters cut" in record["text"]


def test_the_log_is_rotated_and_bounded_and_private(log: tuple[logging.Logger, Path]) -> None:
    logger, path = log
    for n in range(2000):
        logger.info("record %d", n)
    files = sorted(path.parent.iterdir())
    assert [f.name for f in files] == ["hub.log", "hub.log.1", "hub.log.2"]
    for file in files:
        assert file.stat().st_size <= 20_000 and file.stat().st_mode & 0o777 == 0o600
    numbers = [
        int(json.loads(line)["text"].split()[1])
        for file in reversed(files)
        for line in file.read_text().splitlines()
    ]
    assert numbers == list(range(numbers[0], 2000)), "the newest, in order, none lost between files"


def test_records_that_find_no_room_are_counted_and_the_count_is_written(root: Path) -> None:
    """A child process with a file size limit stands for the full disk."""
    code = f"""
import logging, resource, signal
from pathlib import Path
from thopter.hub import logs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
handler = logs.RotatingLog(Path({str(root / "hub.log")!r}))
handler.setFormatter(logs.JsonLines())
logger = logging.Logger("thopter.test")
logger.addHandler(handler)
logger.info("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
for _ in range(7):
    logger.info("lost")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
logger.info("after")
"""
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}, check=True)
    texts = [json.loads(line)["text"] for line in (root / "hub.log").read_text().splitlines()]
    assert texts[0] == "before" and texts[-1] == "after"
    told = [text for text in texts if "could not be written" in text]
    assert [int(text.split()[0]) + texts.count("lost") for text in told] == [7]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
