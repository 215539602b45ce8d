"""The notes of a pool about what it has lost: read, written, and told to the index (damage.py)."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dalsegno.backends.contract import Backend
from dalsegno.pool.damage import (
    DAMAGED,
    DIGEST_BYTES,
    INDEX_LOST,
    UNSOUND,
    Damage,
    PackDamage,
    decode_damage,
    encode_damage,
)
from dalsegno.pool.index import Index, Values
from dalsegno.terms.errors import DalError, NoAccess, NotFound
from dalsegno.terms.ids import OBJECT_ID_BYTES, PackId


class Losses:
    """What a pool has lost, as of the last look. Notes are durable if we may write, and honoured at once anyway."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._index: Index | None = None
        self.notes = self._read()

    def attach(self, index: Index) -> None:
        """Have an index honour the notes."""
        self._index = index
        index.damaged = self.notes.shunned()

    def reload(self) -> None:
        """See what others noted; the index honours it with its next refresh."""
        self.notes = self._read()
        if self._index is not None:
            self._index.damaged = self.notes.shunned()

    def _read(self) -> Damage:
        packs: dict[PackId, PackDamage] = {}
        index_lost = False
        for name in self._backend.list(DAMAGED + "/"):
            index_lost |= name == INDEX_LOST
            try:
                pack_id = PackId(bytes.fromhex(name.rpartition("/")[2]))
                packs[pack_id] = decode_damage(self._backend.read(name))
            except (ValueError, NotFound, NoAccess):
                continue
        return Damage(packs=packs, index_lost=index_lost)

    def _write(self, name: str, data: bytes) -> None:
        self._backend.making_room(lambda: self._backend.put(name, data))

    def _judge(self) -> None:
        if self._index is not None:
            self._index.judge(self.notes.shunned())

    def note_index_remade(self) -> None:
        """Note that the index was lost: packs may have been lost with it."""
        with suppress(DalError):
            self._write(INDEX_LOST, b"")
        self.notes = replace(self.notes, index_lost=True)

    def set(self, pack_id: PackId, damage: PackDamage) -> None:
        """Note what is wrong with a pack, or that nothing is."""
        if self.notes.packs.get(pack_id, PackDamage()) == damage:
            return
        packs = {key: value for key, value in self.notes.packs.items() if key != pack_id}
        if damage == PackDamage():
            with suppress(DalError):
                self._backend.discard(f"{DAMAGED}/{pack_id.hex()}")
        else:
            packs[pack_id] = damage
            with suppress(DalError):
                self._write(f"{DAMAGED}/{pack_id.hex()}", encode_damage(damage))
        self.notes = replace(self.notes, packs=packs)
        self._judge()

    def note_block(self, pack_id: PackId, block_index: int | None) -> None:
        """Note that a block of a pack cannot be read; None: nothing of it can."""
        known = self.notes.packs.get(pack_id, PackDamage())
        if block_index is None:
            self.set(pack_id, replace(known, unreadable=True))
        else:
            self.set(pack_id, replace(known, blocks=known.blocks | {block_index}))

    def hurt_rows(self, pack_id: PackId, values: Values) -> npt.NDArray[np.bool_]:
        """Return which rows of a pack's index lie in blocks that are noted as damaged."""
        damage = self.notes.packs.get(pack_id)
        if damage is None:
            return np.zeros(len(values), np.bool_)
        return np.ones(len(values), np.bool_) if damage.is_whole else np.isin(values[:, 0], list(damage.blocks))

    def read_unsound(self) -> tuple[bytes, bytes]:
        """Return for which notes it was looked what rests on them, and the joined ids of the unsound."""
        try:
            data = self._backend.read(UNSOUND)
        except NotFound:
            return bytes(DIGEST_BYTES), b""
        whole = len(data) // OBJECT_ID_BYTES * OBJECT_ID_BYTES
        return data[:DIGEST_BYTES], data[DIGEST_BYTES:whole]

    def write_unsound(self, ids: bytes, *, digest: bytes | None = None) -> None:
        """Set the unsound, as found for the notes of now, or for those of `digest`. With the collection lock held."""
        if ids or self.notes:
            self._write(UNSOUND, (digest or self.notes.digest()) + ids)
        else:
            self.forget(())

    def forget(self, kept: Iterable[PackId]) -> None:
        """Drop the notes but those of `kept` packs: nothing that is needed is lost. With the collection lock held."""
        packs = {pack_id: self.notes.packs[pack_id] for pack_id in kept if pack_id in self.notes.packs}
        forgotten = self.notes.packs.keys() - packs.keys()
        if self._index is not None:
            self._index.note_collected(forgotten)  # else they would be missed again as long as the index names them
        for pack_id in forgotten:
            self._backend.discard(f"{DAMAGED}/{pack_id.hex()}")
        self._backend.discard(INDEX_LOST)
        self.notes = Damage(packs=packs)
        if packs:
            self._write(UNSOUND, self.notes.digest())
        else:
            self._backend.discard(UNSOUND)
        self._judge()
