"""A command in a child process, so that it can end although a thread of it cannot.

A process ends when its last thread does. One that waits for a file system whose server is gone may do so for ever, and
whoever waits for the process (a shell, cron, systemd) would wait with it. So the parent only waits: for the child's
end, or for its word that it is done and leaves a thread behind.
"""

import ctypes
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from dalsegno.world.clock import SECOND_NS, ticks_ns

END_SECONDS: Final = 2.0
"""How long a child that left a thread behind may take to end after all: most such waits end by SIGKILL."""
LOOK_SECONDS: Final = 0.5
TWICE_SECONDS: Final = 2.0
"""The same signal that comes again so soon (from the terminal, and from the parent) was meant once."""
_ASKED_TO_END: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1


def watched(work: Callable[[], int], leaves_behind: Callable[[], bool]) -> int:
    """Run `work` in a child process, and return the exit code that it returns; where it cannot be one, run it here.

    Ended by a signal, this process is, too. The child is asked to end when this process is, and dies with it. When
    `leaves_behind`, asked in the child after `work`, says so, the child's end is waited for END_SECONDS at most.
    """
    if threading.active_count() > 1:
        return work()
    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started this may not have wanted to know of its children
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_ASKED_TO_END, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_child(work, leaves_behind, parent=parent, before=before, writing=writing)
    os.close(writing)
    try:
        return _wait(child, reading)
    finally:
        os.close(reading)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_child(
    work: Callable[[], int],
    leaves_behind: Callable[[], bool],
    *,
    parent: int,
    before: set[int | signal.Signals],
    writing: int,
) -> None:
    code = 1
    try:
        with_parent = getattr(ctypes.CDLL(None), "prctl", None)
        if with_parent is not None:
            with_parent(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(code)
        for asked in _ASKED_TO_END:
            if signal.getsignal(asked) is not signal.SIG_IGN:
                signal.signal(asked, _Once())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = work()
        if leaves_behind():
            # Who reads our output (cron, a pipe) waits until nobody can write to it any more.
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.write(writing, bytes([code]))
    finally:
        os._exit(code)


class _Once:
    """Raises KeyboardInterrupt, once for what comes twice."""

    def __init__(self) -> None:
        self._last_ns: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        at_ns = ticks_ns()
        if self._last_ns is None or at_ns - self._last_ns > TWICE_SECONDS * SECOND_NS:
            self._last_ns = at_ns
            raise KeyboardInterrupt


def _wait(child: int, reading: int) -> int:
    said: int | None = None
    until_ns = 0
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while True:
        got = signal.sigtimedwait({*_ASKED_TO_END, signal.SIGCHLD}, LOOK_SECONDS)
        if got is not None and got.si_signo != signal.SIGCHLD:
            os.kill(child, got.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _end_by(-code)
        if said is None and poll.poll(0):
            word = os.read(reading, 1)
            if word:
                said, until_ns = word[0], ticks_ns() + int(END_SECONDS * SECOND_NS)
        if said is not None and ticks_ns() > until_ns:
            return said


def _end_by(number: int) -> int:
    """End this process by a signal, as its child was."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # of a signal that does not end a process
