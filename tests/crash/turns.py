"""Two recorded processes that take turns: one stands at a call while the other goes on, and what both do goes into one log.

A lock that the other one holds does not hang: who waits for it gives the turn back, until the other has let go or has ended.
"""

import fcntl
import os
import pickle
import signal
import socket
import struct
from typing import Any

from recorder import Recorder

HANG_SECONDS = 120


class Turns:
    """This process's side; the other has one, too."""

    def __init__(self, recorder: Recorder, wire: socket.socket, *, stops_at: int) -> None:
        """`stops_at`: before which of its recorded calls this process lets the other one go on, counted from 1; 0: none."""
        self._recorder = recorder
        self._wire = wire
        self._stops_at = stops_at
        self._sent = 0
        self.other_ended: Any = None
        """What the other gave when it ended."""
        self.waits = 0
        """How often this process waited for a lock of the other."""
        recorder.before_call = self._step
        self._flock = fcntl.flock
        fcntl.flock = self._take_lock
        signal.alarm(HANG_SECONDS)

    def _step(self) -> None:
        if self._recorder.calls == self._stops_at and self.other_ended is None:
            self.give()

    def _take_lock(self, descriptor: Any, operation: int) -> None:
        if operation & (fcntl.LOCK_NB | fcntl.LOCK_UN):
            return self._flock(descriptor, operation)
        while True:
            try:
                return self._flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                if self.other_ended is not None:  # another thread of this process has it
                    return self._flock(descriptor, operation)
                self.waits += 1
                with self._recorder._lock:
                    assert not self.give(waits=True), "each waits for a lock of the other"

    def give(self, *, waits: bool = False, ended: Any = None) -> bool:
        """Let the other go on until it gives the turn back; return whether that waits for a lock.

        With `ended`, which is what it did, this process does nothing more and does not ask for the turn again.
        """
        recorder = self._recorder
        news = recorder.log[self._sent :], recorder.files, recorder._counter, recorder._databases, waits, ended
        data = pickle.dumps(news)
        self._wire.sendall(struct.pack("=Q", len(data)) + data)
        self._sent = len(recorder.log)
        return ended is None and self.wait()

    def wait(self) -> bool:
        """Wait for the turn; return whether the other waits for a lock."""
        recorder = self._recorder
        (length,) = struct.unpack("=Q", self._receive(8))
        log, recorder.files, recorder._counter, recorder._databases, waits, ended = pickle.loads(self._receive(length))
        recorder.log += log
        self._sent = len(recorder.log)
        if ended is not None:
            self.other_ended = ended
        return bool(waits)

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._wire.recv(length - len(data))
            if not more:
                os._exit(98)  # the other is gone
            data += more
        return data
