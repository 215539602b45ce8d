"""Work that goes on after the command has answered, and the wish to end it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from dalsegno.terms.errors import DalError
from dalsegno.world.files import make_directory

ANSWER_BYTES_MAX: Final = 64 * 1024
_READY: Final = b"ready"

Ready = Callable[[], None]
"""Called once, when the work has begun to do what it is for."""


def run_in_background(
    work: Callable[[Ready], None], *, describe: Callable[[BaseException], bytes], log_path: Path
) -> tuple[int, bytes]:
    """Run `work(ready)` in a process of its own; return its number, and `describe(error)` of what it raised or b"".

    Returns when it is ready, or has failed.

    To be called before any thread is started: a thread's locks would stay locked in the child for ever. The child keeps
    the terminal until it is ready, so that it can ask for a passphrase; from then on it is on its own, and its errors
    go to the end of `log_path`.
    """
    assert threading.active_count() == 1, "a fork beside threads may wait for their locks for ever"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            _run_child(work, writing, describe, log_path)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read(ANSWER_BYTES_MAX)
    if answer == _READY:
        return child, b""
    _, status = os.waitpid(child, 0)
    if not answer:
        raise DalError(f"the process in the background ended before it was ready (status {status}): see {log_path}")
    return child, answer


def _run_child(
    work: Callable[[Ready], None], writing: int, describe: Callable[[BaseException], bytes], log_path: Path
) -> None:
    told = False

    def tell(answer: bytes) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writing, answer)
            os.close(writing)

    def ready() -> None:
        os.setsid()
        make_directory(log_path.parent)
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        for number, descriptor in ((0, null), (1, null), (2, log)):
            os.dup2(descriptor, number)
        os.close(null)
        os.close(log)
        tell(_READY)

    try:
        work(ready)
    except BaseException as error:
        tell(describe(error)[:ANSWER_BYTES_MAX])
        raise


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop` when this process is asked to end (SIGTERM, SIGINT, SIGHUP)."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)
