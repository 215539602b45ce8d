"""The first names of hard-linked files that a restore has met: what further names are linked to, in little memory.

Everything lies in arrays, some 60 bytes and the name for each file, since there can be many millions of them.
"""

import os
from array import array
from collections import OrderedDict
from typing import Final

from dalsegno.host.descent import DIRECTORY_FLAGS

SLOTS_MIN: Final = 1024
DIRECTORIES_OPEN_MAX: Final = 8
_MIX: Final = 0x9E3779B97F4A7C15
_WORD: Final = (1 << 64) - 1
_EMPTY: Final = (1 << 32) - 1
INODE_UNKNOWN: Final = 0
"""Of a file that a dry run did not make."""


class Rows:
    """From a number to the row where `column` holds it; the newest row counts."""

    def __init__(self, column: "array[int]") -> None:
        self._column = column
        self._slots = array("I", [_EMPTY]) * SLOTS_MIN
        self._used_count = 0

    def find(self, number: int) -> int | None:
        """Return the row of a number, or None."""
        slots, column = self._slots, self._column
        mask = len(slots) - 1
        place = (number * _MIX & _WORD) >> 32 & mask
        while (row := slots[place]) != _EMPTY:
            if column[row] == number:
                return row
            place = (place + 1) & mask
        return None

    def set(self, number: int, row: int) -> None:
        """Have `row`, in which the column holds `number` already, found by it."""
        place = self._place(number)
        if self._slots[place] == _EMPTY:
            self._used_count += 1
        self._slots[place] = row
        if self._used_count * 2 > len(self._slots):
            self._grow()

    def _place(self, number: int) -> int:
        slots, column = self._slots, self._column
        mask = len(slots) - 1
        place = (number * _MIX & _WORD) >> 32 & mask
        while (row := slots[place]) != _EMPTY and column[row] != number:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        rows = [row for row in self._slots if row != _EMPTY]
        self._slots = array("I", [_EMPTY]) * (2 * len(self._slots))
        for row in rows:
            self._slots[self._place(self._column[row])] = row


class FirstNames:
    """Files by their number in the links table and by inode, each with the place of its first name."""

    def __init__(self) -> None:
        self._links = array("Q")
        self._inodes = array("Q")
        self._directories = array("I")
        self._names = array("Q")
        self._by_link = Rows(self._links)
        self._by_inode = Rows(self._inodes)
        # Names and paths of directories, one behind the other, each with its length before it.
        self._text = bytearray()
        self._paths = array("Q")
        self._last_path: bytes | None = None
        self._open: OrderedDict[int, int] = OrderedDict()

    def add(self, link: int, directory: bytes, name: bytes, inode: int) -> None:
        """Note the first name of a file."""
        if directory != self._last_path:
            self._last_path = directory
            self._paths.append(self._put(directory))
        row = len(self._links)
        self._links.append(link)
        self._inodes.append(inode)
        self._directories.append(len(self._paths) - 1)
        self._names.append(self._put(name))
        self._by_link.set(link, row)
        if inode != INODE_UNKNOWN:
            self._by_inode.set(inode, row)

    def find(self, link: int) -> int | None:
        """Return the row of a file whose first name was met."""
        return self._by_link.find(link)

    def link(self, row: int) -> int:
        """Return a file's number in the links table."""
        return self._links[row]

    def inode(self, row: int) -> int:
        """Return the inode of a file."""
        return self._inodes[row]

    def link_of_inode(self, inode: int) -> int | None:
        """Return the number of the file that has an inode, if its first name was met."""
        row = self._by_inode.find(inode)
        return None if row is None else self._links[row]

    def name(self, row: int) -> bytes:
        """Return a file's first name, without its directory."""
        return self._get(self._names[row])

    def directory(self, row: int) -> bytes:
        """Return the path of the directory of a file's first name."""
        return self._get(self._paths[self._directories[row]])

    def open_directory(self, root: int, row: int) -> int:
        """Return the open directory of a file's first name, found from `root` downwards; it stays this object's."""
        number = self._directories[row]
        known = self._open.get(number)
        if known is not None:
            self._open.move_to_end(number)
            return known
        fd = os.dup(root)
        try:
            for part in self.directory(row).split(b"/"):
                if part:
                    below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
                    os.close(fd)
                    fd = below
        except BaseException:
            os.close(fd)
            raise
        self._open[number] = fd
        if len(self._open) > DIRECTORIES_OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        """Give the open directories back."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _put(self, text: bytes) -> int:
        at = len(self._text)
        self._text += len(text).to_bytes(4, "little") + text
        return at

    def _get(self, at: int) -> bytes:
        start = at + 4
        return bytes(self._text[start : start + int.from_bytes(self._text[at:start], "little")])
