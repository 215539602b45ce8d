"""Streams where files belong, sockets, and limits of the process: each is said in words that help."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from cli_kit import User


@pytest.fixture
def user(tmp_path: Path) -> User:
    made = User(tmp_path)
    made.quick("init", "--encryption", "none")
    return made


def test_a_stream_in_the_place_of_a_dump_is_named_and_not_waited_for(user: User) -> None:
    """The kind: something that is no file holds a command up, or ends it with the system's own words."""
    os.mkfifo(user.home / "fifo")
    for command in ("verify", "inspect"):
        assert "fifo: is a stream" in user.quick(command, "fifo", code=2).error


def test_sockets_are_counted_among_what_is_left_out(user: User) -> None:
    (user.home / "src").mkdir()
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(user.home):
        made.bind("src/ear")
    for _ in range(2):
        assert b"  1 socket is left out" in user.quick("backup", "src").out
    assert user.value("backup", "src")["sockets"] == 1


def test_a_dump_over_the_limit_of_the_process_says_so(user: User) -> None:
    (user.home / "src").mkdir()
    (user.home / "src" / "noise").write_bytes(os.urandom(300_000))
    user.quick("backup", "src")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    assert "(ulimit -f)" in user.quick("dump", "src", "-o", "x.dump", code=10, before=limit).error
    assert not (user.home / "x.dump").exists()
