"""The three standard streams, when one of them is closed, full, or has nobody at its other end."""

import codecs
import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import BinaryIO, TextIO

from dalsegno.terms.errors import BadInput

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """Spell what an encoding has not: bytes of names as they are, other characters by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    spelt = b"".join(
        bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("ascii", "backslashreplace") for c in part
    )
    return spelt, error.end


codecs.register_error("dalsegno-spell", _spell)


def spell_all_names() -> None:
    """Let every name be printed, whatever its bytes and whatever the output's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="dalsegno-spell")


def fill_closed_streams() -> None:
    """Give closed standard descriptors to the null device.

    Else the next files to be opened get their numbers, and what is meant for people is written into them.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # programs that we start must not meet closed ones either
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open as long as the program runs


def bytes_output() -> BinaryIO:
    """Return standard output for a file's or a dump's bytes; BadInput where it was closed, so that none are lost."""
    if sys.__stdout__ is None:
        raise BadInput("standard output is closed: name a file with -o, or redirect it")
    return sys.stdout.buffer


def bytes_input() -> BinaryIO:
    """Return standard input for a dump's bytes; BadInput where it was closed: nothing came, which is no damage."""
    if sys.__stdin__ is None:
        raise BadInput("standard input is closed: name a file, or redirect it")
    return sys.stdin.buffer


@contextmanager
def writing_output() -> Iterator[None]:
    """Name standard output in the errors of writing to it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def write_result(text: str) -> None:
    """Write out a result: who follows a mount or a server through a pipe or a journal hears of it when it begins.

    Where nobody reads, what was done is done all the same.
    """
    try:
        with writing_output():
            sys.stdout.write(text)
            sys.stdout.flush()
    except BrokenPipeError:
        if not has_no_reader(sys.stdout):
            raise
        finish(sys.stdout)


def say_aside(text: str) -> None:
    """Write to standard error; what cannot be said there never ends the work that it is about."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        pass


def has_no_reader(stream: TextIO) -> bool:
    """Return whether a stream is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError):
        return False


def finish(stream: TextIO) -> OSError | None:
    """Write out what a stream still holds; where that fails drop it, and return why.

    The interpreter would try again at its end, fail again, complain in its own words and end with its own exit code.
    """
    try:
        stream.flush()
    except OSError as error:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            pass
        return error
    except ValueError:  # closed by somebody else
        pass
    return None


def is_full(error: OSError) -> bool:
    """Return whether an error means that there is no room."""
    return error.errno in _FULL
