"""The files with several names that a scan has met, in little memory: there can be many millions of them.

Everything lies in arrays, some 100 bytes a file; what is new of them is packed, and beyond a bound in a scratch file.
"""

from array import array
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from dalsegno.formats.objects import Entry
from dalsegno.formats.scan_cache import KEY_BYTES, LINK
from dalsegno.host.links import Rows
from dalsegno.terms.errors import DalError
from dalsegno.terms.sizes import MIB
from dalsegno.world.files import ScratchFile

PACKED_BYTES_MAX: Final = 16 * MIB
"""Packed entries beyond this wait in a scratch file."""
RECORDS_A_PIECE: Final = 4096
_DEVICE_SHIFT: Final = 56
_WORD: Final = (1 << 64) - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class LinkedFiles:
    """Files by device and inode, one row each: node, key, and the entry of those that are not as the cache has them."""

    def __init__(self) -> None:
        self._devices = array("Q")
        self._marks = array("Q")
        self._nodes = array("Q")
        self._keys = bytearray()
        self._by_mark = Rows(self._marks)
        self._by_node = Rows(self._nodes)
        self._device_numbers: dict[int, int] = {}
        self._doubles: dict[tuple[int, int], int] = {}
        """Rows of files whose mark another has, too."""
        self._starts = array("Q")
        self._sizes = array("I")
        self._packed = bytearray()
        self._packed_start = 0
        self._scratch: ScratchFile | None = None
        self.new_count = 0
        """How many rows have an entry."""

    def __len__(self) -> int:
        return len(self._nodes)

    def _mark(self, device: int, inode: int) -> int:
        number = self._device_numbers.get(device)
        if number is None:
            number = self._device_numbers[device] = len(self._device_numbers)
        if not number:
            return inode
        return inode ^ (number << _DEVICE_SHIFT & _WORD)

    def find(self, device: int, inode: int) -> int | None:
        """Return a file's row, or None when it was not met."""
        row = self._by_mark.find(self._mark(device, inode))
        if row is None or self._devices[row] == device:
            return row
        return self._doubles.get((device, inode))

    def node(self, row: int) -> int:
        """Return the node of the file in a row."""
        return self._nodes[row]

    def key(self, row: int) -> bytearray:
        """Return the key of the file in a row."""
        return self._keys[row * KEY_BYTES : (row + 1) * KEY_BYTES]

    def has_node(self, node: int) -> bool:
        """Tell whether a file has this node."""
        return self._by_node.find(node) is not None

    def add(self, device: int, inode: int, *, node: int, key: bytes, entry: Entry | None) -> None:
        """Add a file that was not met before; without `entry` it is as it was in the revision before."""
        row, mark = len(self._nodes), self._mark(device, inode)
        known = self._by_mark.find(mark)
        self._marks.append(mark)
        if known is None:
            self._by_mark.set(mark, row)
        else:
            self._doubles[device, inode] = row
        self._devices.append(device)
        self._nodes.append(node)
        self._by_node.set(node, row)
        self._keys += key
        if entry is None:
            self._starts.append(0)
            self._sizes.append(0)
            return
        self.new_count += 1
        data = _encode(entry)
        self._starts.append(self._packed_start + len(self._packed))
        self._sizes.append(len(data))
        self._packed += data
        if len(self._packed) >= PACKED_BYTES_MAX:
            self._set_aside()

    def _set_aside(self) -> None:
        """Move what is packed to a scratch file; without room there it stays in memory."""
        try:
            if self._scratch is None:
                self._scratch = ScratchFile()
            self._scratch.append(self._packed)
        except DalError:
            return
        self._packed_start += len(self._packed)
        self._packed = bytearray()

    def rows_by_node(self) -> "array[int]":
        """Return all rows in the order of their nodes."""
        return array("q", np.argsort(np.frombuffer(self._nodes, np.uint64), kind="stable").tobytes())

    def entry(self, row: int) -> Entry | None:
        """Return the entry of a row, or None when it is as it was."""
        size, start = self._sizes[row], self._starts[row]
        if size == 0:
            return None
        if start >= self._packed_start:
            start -= self._packed_start
            return _decode(memoryview(self._packed)[start : start + size])
        assert self._scratch is not None
        return _decode(self._scratch.read(start, size))

    def records(self) -> Iterator[bytes]:
        """Yield all rows as the scan cache keeps them, some at a time."""
        keys = memoryview(self._keys)
        for first in range(0, len(self), RECORDS_A_PIECE):
            piece = bytearray()
            for row in range(first, min(first + RECORDS_A_PIECE, len(self))):
                device = self._devices[row]
                key = bytes(keys[row * KEY_BYTES : (row + 1) * KEY_BYTES])
                inode = self._mark(device, self._marks[row])  # the mark of a mark is the inode
                piece += LINK.pack(device, inode, self._nodes[row], key)
            yield bytes(piece)
