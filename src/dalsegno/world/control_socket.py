"""Control sockets: ask a `dal` process on this machine, with one line of JSON each way, over a socket in a directory.

The directory's permissions decide which users may ask. The path may be longer than the address of a socket can be.
"""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

LINE_BYTES_MAX: Final = 64 * 1024
LISTEN_SECONDS: Final = 0.5

Words = dict[str, Any]


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def ask(path: Path, question: Words, *, timeout_seconds: float) -> Words | None:
    """Return the answer of the process that listens at `path`, or None when none does."""
    if not path.exists():
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(timeout_seconds)
        try:
            with _address(path) as address:
                line.connect(address)
            line.sendall(json.dumps(question).encode() + b"\n")
            answer = _read_line(line)
        except OSError:
            return None
    return json.loads(answer) if answer else None


def _read_line(line: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < LINE_BYTES_MAX:
        more = line.recv(LINE_BYTES_MAX)
        if not more:
            break
        data += more
    return data


class Listener:
    """A socket at `path` at which questions are answered, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _address(path) as address:
            self._socket.bind(address)
        path.chmod(0o600)
        self._socket.listen()
        self._socket.settimeout(LISTEN_SECONDS)

    def serve(self, answer: Callable[[Words], Words], *, ended: Callable[[], bool]) -> None:
        """Answer until `ended`, which is looked at twice a second."""
        while not ended():
            try:
                line, _ = self._socket.accept()
            except TimeoutError:
                continue
            with line, contextlib.suppress(OSError, ValueError):
                line.settimeout(10 * LISTEN_SECONDS)
                question = json.loads(_read_line(line))
                line.settimeout(None)
                line.sendall(json.dumps(answer(question)).encode() + b"\n")

    def close(self) -> None:
        """Go away."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
