"""Small files ahead of use: who reads the files of a directory in order finds the next in the kernel's cache.

To ask for a small file costs the reader a change to our thread and back, several times what answering costs. So when
two neighbours were read, the rows behind them are pushed into the kernel's page cache, at first a few, then more: the
one that was not pushed is asked for, and says that the reader came so far. For trees that never change only.
"""

from typing import Final, Protocol

from dalsegno.formats import fuse, objects
from dalsegno.mount.readonly import ROW_BITS, Folder, ReadOnly, read_pieces
from dalsegno.terms.errors import DalError
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.workers import Workers

PUSHED_FILE_BYTES_MAX: Final = 128 * KIB
PUSHED_BYTES_MAX: Final = 8 * MIB
"""What is pushed before somebody must ask again."""
PUSHED_ROWS_FIRST: Final = 16
PUSHED_ROWS_MAX: Final = 1024
NEIGHBOURS_ROWS: Final = 8
"""As near as this a file is the next: directories and empty files stand between."""
STEP_ROWS: Final = 4
"""How far before a reader that is faster the pushing goes on."""


class Tell(Protocol):
    """Session.notify."""

    def __call__(self, *pieces: bytes | memoryview) -> bool:
        """Tell the kernel, and return whether it wants to know."""
        ...


class Pusher:
    """Watches who reads what, and pushes what comes next. `noticed` is called by the threads that answer."""

    def __init__(self, tree: ReadOnly, tell: Tell, workers: Workers) -> None:
        self._tree = tree
        self._tell = tell
        self._workers = workers
        self._number = -1
        self._row = 0
        self._rows = 0
        """How many rows are pushed next; 0: nobody reads in order."""
        self._reached = 0
        self._busy = False
        self.ended = False

    def noticed(self, node: int) -> None:
        """Take note that a small file was asked for."""
        number, row = node >> ROW_BITS, (node & ((1 << ROW_BITS) - 1)) - 1
        same = number == self._number
        before, self._number, self._row = self._row, number, row
        if self._busy:
            self._reached = row + STEP_ROWS if same else -1
            return
        if same and before < row <= before + max(NEIGHBOURS_ROWS, 2 * self._rows):
            self._rows = min(2 * self._rows or PUSHED_ROWS_FIRST, PUSHED_ROWS_MAX)
        elif same or row > NEIGHBOURS_ROWS:
            self._rows = 0
        # In the next directory it goes on as it went in the one before.
        if self._rows and not self.ended:
            self._busy = True
            self._reached = row + 1
            self._workers.submit(self._push_rows, self._tree.folder_by_number(number), row + 1, self._rows)

    def _push_rows(self, folder: Folder, row: int, count: int) -> None:
        try:
            self._push_entries(folder, row, row + count)
        except (DalError, OSError):
            pass  # whoever asks for that file is told
        finally:
            self._busy = False

    def _push_entries(self, folder: Folder, row: int, end: int) -> None:
        layer = folder.layer
        if layer is None:
            return
        source, above = layer.listings.source, folder.number << ROW_BITS
        room = PUSHED_BYTES_MAX
        for entry in layer.listings.iterate(folder.content, row):
            row += 1
            reached = self._reached
            if row > end or reached < 0 or self.ended:
                return
            size = entry.size
            if (
                row <= reached
                or entry.kind != objects.ENTRY_FILE
                or not 0 < size <= PUSHED_FILE_BYTES_MAX
                or entry.content_kind == objects.CONTENT_NONE
            ):
                continue
            pieces = read_pieces(source, entry, offset=0, size=size)
            room -= size
            if room < 0 or not self._tell(fuse.encode_store_header(above | row, 0, size), *pieces):
                return
