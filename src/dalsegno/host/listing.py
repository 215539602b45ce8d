"""The entries of one directory while it is scanned: a large one is stored, or packed, as it grows.

A decoded entry takes about 1 KB. What comes before the first subdirectory is stored at once; what comes behind it waits
until the subdirectories are done, and is packed meanwhile.
"""

from typing import Final

import msgspec
from blake3 import blake3

from dalsegno.formats.objects import Entry
from dalsegno.formats.scan_cache import KEY_BYTES
from dalsegno.pool.contract import Sink
from dalsegno.trees.build import DirectoryBuilder, store_directory

LARGE_ENTRIES: Final = 2048
"""How many entries wait as they are: smaller directories are made in one go, which is quicker."""
NAME_HASH_BYTES: Final = 16

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class Listing:
    """Entries, None for a subdirectory that is not done or was lost, and the key of each, in name order."""

    __slots__ = ("_builder", "_hasher", "_is_hashed", "entries", "keys", "packed_count")

    def __init__(self) -> None:
        self.entries: list[Entry | bytes | None] = []
        self.keys = bytearray()
        self._builder: DirectoryBuilder | None = None
        self._hasher = blake3()
        self._is_hashed = False
        self.packed_count = 0
        """How many of the entries that wait are packed."""

    def relieve(self, sink: Sink, *, has_subdirectories: bool, large: int = LARGE_ENTRIES) -> None:
        """Give memory back when many entries wait: store them, or pack them while subdirectories are not done."""
        entries = self.entries
        if len(entries) - self.packed_count < large:
            return
        if has_subdirectories:
            for index in range(self.packed_count, len(entries)):
                entry = entries[index]
                if isinstance(entry, Entry):
                    entries[index] = _encode(entry)
            self.packed_count = len(entries)
            return
        self._store(sink)
        entries.clear()

    def _store(self, sink: Sink) -> None:
        names = []
        for entry in self.entries:
            if entry is not None:
                whole = entry if isinstance(entry, Entry) else _decode(entry)
                names.append(whole.name)
                if self._builder is None:
                    self._builder = DirectoryBuilder(sink)
                self._builder.add(whole)
        if names:
            self._hasher.update(b"\0" * self._is_hashed + b"\0".join(names))
            self._is_hashed = True

    def finish(self, sink: Sink) -> tuple[bytes, bytes, bytes | bytearray]:
        """Store the directory without what was lost; return its id, the hash of its names, and its keys."""
        if self._builder is None and not self.packed_count:
            final = [entry for entry in self.entries if isinstance(entry, Entry)]
            names = b"\0".join([entry.name for entry in final])
            keys = self.keys if len(final) == len(self.entries) else self._kept_keys()
            return store_directory(sink, final), blake3(names).digest(NAME_HASH_BYTES), keys
        self._store(sink)
        identity = self._builder.finish() if self._builder is not None else store_directory(sink, [])
        return identity, self._hasher.digest(NAME_HASH_BYTES), self._kept_keys()

    def _kept_keys(self) -> bytes | bytearray:
        """Return the keys but for those of what was lost."""
        stored_bytes = len(self.keys) - len(self.entries) * KEY_BYTES
        kept = self.keys[:stored_bytes]
        for index, entry in enumerate(self.entries):
            if entry is not None:
                start = stored_bytes + index * KEY_BYTES
                kept += self.keys[start : start + KEY_BYTES]
        return kept
