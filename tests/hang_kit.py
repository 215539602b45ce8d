"""A file system that stops to answer: a directory with one file in it, by FUSE; nobody can end who waits for it.

usage: hang_kit.py DIRECTORY MARKER OPCODE: from the first request of this kind on that is for the file (READ) or the
root (GETATTR, which is then the first of all), nothing is answered. MARKER is made when it comes.
"""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dalsegno.formats import fuse
from dalsegno.mount import kernel

KIND = "fuse.hang"
"""Not ours: a backup does not go into mounts of ours."""
FILE_NODE = 2
FILE_NAME = b"mail"
FILE_BYTES = 100


def _attr(node: int) -> fuse.Attr:
    mode = stat.S_IFREG | 0o644 if node == FILE_NODE else stat.S_IFDIR | 0o755
    size = FILE_BYTES if node == FILE_NODE else 0
    return fuse.Attr(node, size, 1, 10**18, 10**18, 10**18, mode, 1, os.getuid(), os.getgid(), 0)


def _answer(header: fuse.Header, body: object) -> bytes | int:
    """Return a payload, or an errno."""
    if header.opcode == fuse.GETATTR:
        return fuse.encode_attr_reply(0, _attr(header.node))
    if header.opcode == fuse.LOOKUP and isinstance(body, fuse.Name):
        if body.name != FILE_NAME:
            return errno.ENOENT
        return fuse.encode_entry(fuse.EntryReply(FILE_NODE, 0, 0, 0, _attr(FILE_NODE)))
    if header.opcode in (fuse.OPEN, fuse.OPENDIR):
        return fuse.encode_open(1, 0)
    if header.opcode == fuse.READDIR and isinstance(body, fuse.Read):
        name = fuse.Dirent(FILE_NODE, 1, stat.S_IFREG >> 12, FILE_NAME)
        return fuse.encode_dirent(name) if body.offset == 0 else b""
    if header.opcode in (fuse.RELEASE, fuse.RELEASEDIR, fuse.FLUSH):
        return b""
    return errno.ENOSYS


def _serve(directory: Path, marker: Path, opcode: int) -> None:
    kernel.TYPE = KIND  # type: ignore[misc]
    options = kernel.MountOptions(read_only=True, allow_other=False, default_permissions=False, label="hang")
    descriptor = kernel.mount(directory, options)
    print("mounted", flush=True)
    while True:
        try:
            message = memoryview(os.read(descriptor, 1 << 21))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            continue
        header = fuse.decode_header(message)
        body = fuse.decode_body(header, message) if header.opcode in fuse.REQUESTS else fuse.Empty()
        if header.opcode == fuse.INIT:
            reply = fuse.InitReply(7, 31, body.readahead_bytes_max, 0, 16, 12, 1 << 17, 1, 32)
            os.write(descriptor, fuse.encode_reply(header.unique, fuse.encode_init(reply)))
            continue
        if header.opcode == opcode:
            marker.touch()
        if marker.exists() or header.opcode in (fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT):
            continue
        found = _answer(header, body)
        answer = fuse.encode_error(header.unique, found) if isinstance(found, int) else None
        os.write(descriptor, answer or fuse.encode_reply(header.unique, found if isinstance(found, bytes) else b""))


@contextmanager
def hanging(directory: Path, marker: Path, opcode: int) -> Iterator[None]:
    """Have the file system at `directory`; afterwards whoever waited for it gets an error, and it is gone."""
    words = [sys.executable, __file__, str(directory), str(marker), str(opcode)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"mounted\n"
        yield
    finally:
        server.kill()
        server.communicate()
        root = os.geteuid() == 0
        subprocess.run([*(("umount", "-l") if root else ("fusermount3", "-uz")), str(directory)], check=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
