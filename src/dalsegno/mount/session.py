"""The loop between the kernel and a file system: read a request, call its method, write the answer.

Several threads do the same; a request is answered by the thread that read it. What a method raises becomes an errno:
OSError its own, a damaged or missing object EIO with a line in the log, a bug EIO with its traceback.
"""

import errno
import os
import select
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from dalsegno.formats import fuse
from dalsegno.formats.fuse import Header, InitReply
from dalsegno.mount.kernel import REQUEST_BYTES_MAX
from dalsegno.terms.errors import DalError, Full, NoAccess
from dalsegno.terms.sizes import KIB
from dalsegno.world.clock import ticks_ns
from dalsegno.world.workers import Workers, new_lock

BUFFER_BYTES: Final = REQUEST_BYTES_MAX + 64 * KIB
BACKGROUND_MAX: Final = 64
PAGE_BYTES: Final = 4096
NO_REPLY_OPCODES: Final = frozenset((fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT))

LONG_OPCODES: Final = frozenset((fuse.FSYNC, fuse.FSYNCDIR, fuse.SYNCFS))
LONG_READ_BYTES: Final = 64 * KIB
AWAKE_NS: Final = 60_000 if len(os.sched_getaffinity(0)) > 1 else 0
"""How long it stays awake after a quick answer; not where whoever asks next needs the processor."""
READ_SIZE_AT: Final = fuse.HEADER.size + 16
"""Where a READ says how much it wants."""

Answer = bytes | Sequence[bytes | memoryview] | None
"""A payload, a payload in pieces, or None for an empty one."""
Log = Callable[[str], None]
Method = Callable[[Header, Any], Answer]


class FileSystem(Protocol):
    """What a session asks of a file system."""

    @property
    def flags(self) -> int:
        """What it wants of the kernel, of the flags of INIT."""
        ...

    @property
    def methods(self) -> Mapping[int, Method]:
        """Opcode: what answers it. What is not here is answered ENOSYS, once: the kernel does not ask again."""
        ...

    def describe(self, node: int, /) -> str:
        """Return a node's path, for the log."""
        ...


class Session:
    """One mount's conversation with the kernel, from INIT to the unmount."""

    def __init__(self, descriptor: int, file_system: FileSystem, *, log: Log) -> None:
        self.descriptor = descriptor
        self.setxattr_extended = False
        self.flags = 0
        self._file_system = file_system
        self._turn = new_lock()
        self._telling = new_lock()
        self._closed = False
        self._log = log

    def negotiate(self) -> None:
        """Answer INIT: what is spoken from then on."""
        buffer = bytearray(BUFFER_BYTES)
        size = os.readv(self.descriptor, [buffer])
        message = memoryview(buffer)[:size]
        header = fuse.decode_header(message)
        if header.opcode != fuse.INIT:
            raise DalError(f"the kernel began with request {header.opcode} instead of INIT")
        asked = fuse.decode_body(header, message)
        if asked.major != fuse.VERSION_MAJOR or asked.minor < fuse.VERSION_MINOR_MIN:
            os.writev(self.descriptor, [fuse.encode_error(header.unique, errno.EPROTO)])
            raise DalError(
                f"the kernel speaks FUSE {asked.major}.{asked.minor}, "
                f"needed is {fuse.VERSION_MAJOR}.{fuse.VERSION_MINOR_MIN} (Linux 5.10) or newer"
            )
        self.flags = asked.flags & self._file_system.flags
        self.setxattr_extended = bool(self.flags & fuse.SETXATTR_EXT)
        reply = InitReply(
            major=fuse.VERSION_MAJOR,
            minor=fuse.VERSION_MINOR,
            readahead_bytes_max=asked.readahead_bytes_max,
            flags=self.flags,
            background_max=BACKGROUND_MAX,
            congestion_threshold=BACKGROUND_MAX * 3 // 4,
            write_bytes_max=REQUEST_BYTES_MAX,
            time_granularity_ns=1,
            pages_max=REQUEST_BYTES_MAX // PAGE_BYTES,
        )
        os.writev(self.descriptor, [fuse.encode_reply(header.unique, fuse.encode_init(reply))])

    def serve(self, *, thread_count: int) -> None:
        """Answer until the mount is gone."""
        os.set_blocking(self.descriptor, False)
        with Workers(thread_count) as crew:
            ends = [crew.submit(self._serve_one) for _ in range(thread_count)]
            for end in ends:
                end.result()

    def notify(self, *pieces: bytes | memoryview) -> bool:
        """Tell the kernel something it did not ask for; False when it does not want it, or is gone."""
        with self._telling:
            if self._closed:
                return False
            try:
                os.writev(self.descriptor, pieces)
            except OSError:
                return False
            return True

    def close(self) -> None:
        """Give the descriptor back; nobody is told anything from then on."""
        with self._telling:
            self._closed = True
            os.close(self.descriptor)

    def _serve_one(self) -> None:
        """Read and answer. One thread reads at a time, and answers what is quick before it reads on.

        With what takes longer it first lets the next thread read. To wake another thread for each request would cost
        more than most requests do; so would waking this one, on a virtual machine above all, so it sleeps only when
        nothing has come for a moment.
        """
        descriptor = self.descriptor
        buffer = bytearray(BUFFER_BYTES)
        room = [buffer]
        view = memoryview(buffer)
        readv = os.readv
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        turn = self._turn
        awake_until_ns = 0
        turn.acquire()
        try:
            while True:
                try:
                    size = readv(descriptor, room)
                except BlockingIOError:
                    if ticks_ns() >= awake_until_ns:
                        waiting.poll()
                    continue
                except OSError as error:
                    if error.errno in (errno.ENODEV, errno.EBADF):
                        return
                    if error.errno in (errno.EINTR, errno.ENOENT):
                        continue
                    raise
                message = view[:size]
                if not _is_long(message):
                    if not self._answer(message):
                        return
                    awake_until_ns = ticks_ns() + AWAKE_NS
                    continue
                awake_until_ns = 0
                turn.release()
                try:
                    self._answer(message)
                finally:
                    turn.acquire()
        finally:
            turn.release()

    def _answer(self, message: memoryview) -> bool:
        """Answer one request; return False when it says that this was the last."""
        header = fuse.decode_header(message)
        opcode = header.opcode
        method = self._file_system.methods.get(opcode)
        if method is None:
            if opcode == fuse.DESTROY:
                self._write([fuse.encode_reply(header.unique)])
                return False
            if opcode not in NO_REPLY_OPCODES:
                self._write([fuse.encode_error(header.unique, errno.ENOSYS)])
            return True
        try:
            body = fuse.decode_body(header, message, setxattr_extended=self.setxattr_extended)
            answer = method(header, body)
        except Exception as error:
            code = self._errno_of(header, error)
            if opcode not in NO_REPLY_OPCODES:
                self._write([fuse.encode_error(header.unique, code)])
            return True
        if opcode in NO_REPLY_OPCODES:
            return True
        if answer is None:
            answer = b""
        if isinstance(answer, bytes):
            self._write([fuse.encode_reply(header.unique, answer)])
        else:
            total = sum(map(len, answer))
            self._write([fuse.encode_reply_header(header.unique, total), *answer])
        return True

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        try:
            os.writev(self.descriptor, pieces)
        except OSError as error:
            # ENOENT: whoever asked was interrupted and is gone; ENODEV: so is the mount.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _errno_of(self, header: Header, error: Exception) -> int:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if isinstance(error, Full):
            return errno.ENOSPC
        where = self._file_system.describe(header.node)
        if isinstance(error, DalError):
            self._log(f"{where}: {error}")
            return errno.EACCES if isinstance(error, NoAccess) else errno.EIO
        trace = "".join(traceback.format_exception(error))
        self._log(f"{where}: internal error in request {header.opcode}, please report it: {trace}")
        return errno.EIO


def _is_long(message: memoryview) -> bool:
    """Tell whether a request may take much longer than to wake another thread."""
    opcode = int.from_bytes(message[4:8], sys.byteorder)
    if opcode == fuse.READ:
        return int.from_bytes(message[READ_SIZE_AT : READ_SIZE_AT + 4], sys.byteorder) >= LONG_READ_BYTES
    return opcode in LONG_OPCODES


def log_to_stderr(text: str) -> None:
    """Write one line of the log."""
    print(f"dal: mount: {text}", file=sys.stderr, flush=True)
