"""Make the entries of files that are new or changed: attributes from statx, flags and xattrs from the file itself."""

import os
from collections.abc import Callable
from stat import S_IFBLK, S_IFCHR, S_IFLNK, S_IFREG
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.formats.scan_cache import unproven
from dalsegno.host import attributes
from dalsegno.host.contents import Content, ContentReader
from dalsegno.host.fields import (
    BTIME_NS,
    BTIME_S,
    FORM_MASK,
    GID,
    KINDS,
    MODE,
    MTIME_NS,
    MTIME_S,
    RMAJOR,
    RMINOR,
    UID,
    Fields,
    Leaf,
    RacyTimes,
    device_number,
)
from dalsegno.host.findings import Findings
from dalsegno.pool.contract import Sink

FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class EntryMaker:
    """Makes entries, and stores the content of files."""

    def __init__(
        self, sink: Sink, reader: ContentReader, racy: RacyTimes, findings: Findings, node_source: Callable[[], int]
    ) -> None:
        self._sink = sink
        self._reader = reader
        self._racy = racy
        self._findings = findings
        self._node_source = node_source
        self._owners = attributes.OwnerNames()
        self._flagless: set[int] = set()
        """Devices whose file systems keep no inode flags."""

    def leaf(self, leaf: Leaf, before: Entry | None) -> tuple[Entry, bytes] | None:
        """Return the entry and key of a file that is no directory, its content stored; None when it cannot be read.

        `before` is the entry of the revision before that the file carries on.
        """
        directory, name, path, fields, key = leaf
        form = fields[MODE] & FORM_MASK
        kind = KINDS[form]
        device = flags = 0
        self._findings.file = path
        try:
            if form == S_IFREG:
                fd = open_file(directory.fd, name)
                try:
                    content = self._reader.read(fd, path, fields, key)
                    flags = self._read_flags(fd, device_number(content.fields))
                    xattrs = self._encode_xattrs(fd)
                finally:
                    os.close(fd)
            else:
                content = Content(fields, key, 0, 0, b"")
                if form == S_IFLNK:
                    link = os.readlink(name, dir_fd=directory.fd)
                    content = Content(fields, key, len(link), objects.CONTENT_INLINE, link)
                elif form in (S_IFCHR, S_IFBLK):
                    device = os.makedev(fields[RMAJOR], fields[RMINOR])
                try:
                    xattrs = self._encode_xattrs(attributes.path_beneath(directory.fd, name))
                except FileNotFoundError:  # no /proc
                    xattrs = b""
        except OSError as error:
            self._findings.fail(path, error)
            return None
        finally:
            self._findings.file = b""
        # Of the last look at the file: it may have changed since the directory was listed.
        fields, key = content.fields, content.key
        key = unproven(key) if self._racy.is_racy(directory, fields) else key
        node, btime_ns = self._node_and_birth(fields, before if before is not None and before.kind == kind else None)
        uid, gid = fields[UID], fields[GID]
        entry = Entry(
            name=name,
            kind=kind,
            mode=fields[MODE] & 0o7777,
            uid=uid,
            gid=gid,
            owner=self._owners.user(uid),
            group=self._owners.group(gid),
            mtime_ns=attributes.join_time_ns(fields[MTIME_S], fields[MTIME_NS]),
            btime_ns=btime_ns,
            size=content.size,
            node=node,
            content_kind=content.kind,
            content=content.value,
            device=device,
            flags=flags,
            xattrs=xattrs,
        )
        return entry, key

    def directory(self, fd: int, path: bytes, fields: Fields, before: Entry | None, *, stays_empty: bool) -> Entry:
        """Return the entry of an open directory, without content; one that `stays_empty` is not asked for more."""
        node, btime_ns = self._node_and_birth(fields, before)
        uid, gid = fields[UID], fields[GID]
        return Entry(
            name=path.rpartition(b"/")[2],
            kind=objects.ENTRY_DIRECTORY,
            mode=fields[MODE] & 0o7777,
            uid=uid,
            gid=gid,
            owner=self._owners.user(uid),
            group=self._owners.group(gid),
            mtime_ns=attributes.join_time_ns(fields[MTIME_S], fields[MTIME_NS]),
            btime_ns=btime_ns,
            node=node,
            content_kind=objects.CONTENT_DIRECTORY,
            flags=0 if stays_empty else self._read_flags(fd, device_number(fields)),
            xattrs=b"" if stays_empty else self._directory_xattrs(fd, path),
        )

    def _node_and_birth(self, fields: Fields, before: Entry | None) -> tuple[int, int]:
        if before is not None:
            return before.node, before.btime_ns
        return self._node_source(), attributes.join_time_ns(fields[BTIME_S], fields[BTIME_NS])

    def _encode_xattrs(self, target: int | bytes) -> bytes:
        found = attributes.read_xattrs(target)
        if not found:
            return b""
        data = objects.encode_xattrs(found)
        if len(data) <= objects.XATTRS_INLINE_BYTES_MAX:
            return b"\x01" + data
        return b"\x02" + self._sink.put(objects.KIND_CHUNK, data)

    def _directory_xattrs(self, fd: int, path: bytes) -> bytes:
        """Return a directory's extended attributes; what is in it does not depend on them."""
        try:
            return self._encode_xattrs(fd)
        except OSError as error:
            self._findings.unreadable.append((path, f"extended attributes: {error.strerror or error}"))
            return b""

    def _read_flags(self, fd: int, device: int) -> int:
        if device in self._flagless:
            return 0
        try:
            flags = attributes.get_flags(fd)
        except OSError:
            return 0
        if flags is None:
            self._flagless.add(device)
            return 0
        return flags


def open_file(directory: int, name: bytes) -> int:
    """Open a file for reading, leaving its access time alone if that is ours to decide. OSError."""
    try:
        return os.open(name, FILE_FLAGS | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        # O_NOATIME is for owners only.
        return os.open(name, FILE_FLAGS, dir_fd=directory)
