"""Batches of small files that workers write while a restore goes on, and directories that wait for them."""

import errno
import os
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from dalsegno.host.access import close_again
from dalsegno.host.batch import Batch, BatchResult, write_batch
from dalsegno.host.descent import open_max
from dalsegno.host.finishing import Finisher
from dalsegno.host.frame import Frame
from dalsegno.host.restoring import Restoring
from dalsegno.host.setting import why

BATCHES_PENDING_MAX: Final = 32


class Batches:
    """Batches that were handed to workers, oldest first."""

    def __init__(self, restoring: Restoring, finisher: Finisher) -> None:
        self._restoring = restoring
        self._finisher = finisher
        self._pending: deque[tuple[Frame, Batch, Future[BatchResult]]] = deque()
        self._pending_max = min(BATCHES_PENDING_MAX, open_max() // 2)
        self._count = 0

    def hand_over(self, frame: Frame) -> None:
        """Let a worker write the frame's batch; blocks while too many are pending."""
        if not frame.batch.files:
            return
        assert self._restoring.workers is not None
        fd = self.duplicate(frame.fd)
        batch, frame.batch = frame.batch, Batch()
        batch.is_native = frame.file_system.is_native
        self._count += 1
        temporary = b"%s-%d" % (self._restoring.temporary, self._count)
        future = self._restoring.workers.submit(write_batch, fd, temporary, batch)
        frame.batches_pending += 1
        self._pending.append((frame, batch, future))
        self.settle(self._pending_max)

    def duplicate(self, fd: int) -> int:
        """Return one more descriptor of a directory; where they are scarce, after those of all batches came back."""
        try:
            return os.dup(fd)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self.settle(0)
        return os.dup(fd)

    def settle(self, pending_max: int) -> None:
        """Take the results of batches, oldest first, until few are pending; directories that are complete end here."""
        outcome, pending = self._restoring.outcome, self._pending
        while len(pending) > pending_max or (pending and pending[0][2].done()):
            frame, batch, future = pending[0]
            result = future.result()
            frame.batches_pending -= 1
            outcome.result.created += len(batch.files) - len(result.failed)
            outcome.result.bytes_written += batch.size_bytes
            above = frame.path + b"/" if frame.path else b""
            for entry, attribute, text in result.lost:
                outcome.lose(above + entry.name, attribute, text)
            for entry, error in result.failed:
                outcome.result.bytes_written -= entry.size
                self._restoring.escalate(error)
                outcome.fail(above + entry.name, why(error))
            if frame.own_fd and not frame.batches_pending:
                self._finisher.end(frame)
            pending.popleft()

    def end(self, frame: Frame) -> None:
        """Finish a directory all of which was met: now, or when its last batch is written."""
        if frame.batches_pending:
            frame.fd, frame.own_fd = self.duplicate(frame.fd), True
        else:
            self._finisher.end(frame)

    def abandon(self) -> None:
        """Wait for what workers still write, and give descriptors back, after an error."""
        for frame, _, future in self._pending:
            future.exception()
            if frame.own_fd:
                with suppress(OSError):
                    close_again(frame.fd, frame.opened)
                os.close(frame.fd)
                frame.own_fd = False
        self._pending.clear()
