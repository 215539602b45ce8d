"""What a pool has lost: a note for each pack that is gone or cannot be read whole, and what rests on the lost.

    damaged/<pack id>    lines: `lost`, `unreadable`, or `block N` for each block that cannot be read
    damaged/index        the index was lost and made again: what else is lost shows in what rests on it
    damaged/objects      32 bytes that tell which notes were looked at, then ids of the *unsound*: directories and
                         recipes that name something lost, or that name something unsound

Look-ups do not find what a note names, and nobody relies on the unsound: so a backup, an import or a load stores both
again, and a server asks for them. What was stored again leaves the list. The notes go when a collection finds that
nothing that is needed is lost any more.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from dalsegno.formats import pack
from dalsegno.formats.objects import KIND_CHUNK, KIND_REVISION, references
from dalsegno.formats.pack_records import split_records
from dalsegno.pool.index import Blocks, Index
from dalsegno.pool.pack_read import PackReader
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES, PackId, hex_short

DAMAGED: Final = "damaged"
UNSOUND: Final = "damaged/objects"
INDEX_LOST: Final = "damaged/index"
DIGEST_BYTES: Final = 32
_BLOCK = re.compile(r"^block (\d{1,9})\Z")
Prefixes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackDamage:
    """What is wrong with one pack."""

    lost: bool = False
    unreadable: bool = False
    blocks: frozenset[int] = field(default_factory=frozenset)

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the pack can be read."""
        return self.lost or self.unreadable

    def text(self) -> str:
        """Say it to people."""
        if self.lost:
            return "lost"
        if self.unreadable:
            return "cannot be read"
        count = len(self.blocks)
        return f"{count} block{'s' * (count != 1)} cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """All notes of a pool."""

    packs: dict[PackId, PackDamage] = field(default_factory=dict)
    index_lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.packs) or self.index_lost

    def digest(self) -> bytes:
        """Return 32 bytes that tell these notes from others."""
        hasher = blake3(b"index lost" if self.index_lost else b"")
        for pack_id in sorted(self.packs):
            hasher.update(pack_id + encode_damage(self.packs[pack_id]))
        return hasher.digest(DIGEST_BYTES)

    def shunned(self) -> dict[PackId, Blocks]:
        """Return for each pack that is there in part which blocks are not to be relied on; None means all."""
        return {pack_id: None if each.is_whole else each.blocks for pack_id, each in self.packs.items()}


def encode_damage(damage: PackDamage) -> bytes:
    """Return a note as it is kept."""
    lines = ["lost"] * damage.lost + ["unreadable"] * damage.unreadable
    lines += [f"block {number}" for number in sorted(damage.blocks)]
    return "".join(line + "\n" for line in lines).encode()


def decode_damage(data: bytes) -> PackDamage:
    """Return what a note says; lines that are not understood are left out: they may be of a later version."""
    lines = data.decode(errors="replace").split("\n")
    blocks = frozenset(int(match.group(1)) for line in lines if (match := _BLOCK.match(line)))
    return PackDamage(lost="lost" in lines, unreadable="unreadable" in lines, blocks=blocks)


def find_unsound(
    index: Index, packs: Iterable[tuple[PackId, PackReader]], *, report_damage: Callable[[PackId, int], None]
) -> bytes:
    """Return the joined ids of all directories and recipes that rest on something that is not there.

    Every directory and recipe in the packs is read once; in memory stay 16 bytes for each that another names.
    `report_damage` is told the pack and number of blocks that cannot be read.
    """
    below: list[Prefixes] = []
    above: list[Prefixes] = []
    unsound: list[Prefixes] = [np.zeros(0, np.uint64)]
    for pack_id, reader in packs:
        for names, owners, inner in _named(reader, partial(report_damage, pack_id)):
            lost = owners[~index.hold(names)]
            unsound.append(np.unique(lost))
            below.append(_prefixes(names[inner]))
            above.append(owners[inner])
    found = np.unique(np.concatenate(unsound))
    children = np.concatenate(below) if below else np.zeros(0, np.uint64)
    parents = np.concatenate(above) if above else np.zeros(0, np.uint64)
    frontier = found
    while len(frontier):
        reached = np.unique(parents[np.isin(children, frontier)])
        frontier = reached[~np.isin(reached, found)]
        found = np.union1d(found, frontier)
    return index.ids_with(found)


def _named(
    reader: PackReader, report_damage: Callable[[int], None]
) -> Iterator[tuple[npt.NDArray[np.uint8], Prefixes, npt.NDArray[np.bool_]]]:
    """Yield for each block with metadata: the ids named in it, by whom (as prefixes), and which are no chunks."""
    for number in np.flatnonzero(reader.types == pack.BLOCK_METADATA).tolist():
        names = bytearray()
        owners: list[int] = []
        inner: list[bool] = []
        try:
            raw = reader.read_block(number)
            for _, kind, encoding, identity, payload in split_records(raw, offset=int(reader.offsets[number])):
                if kind == KIND_REVISION or encoding != pack.ENCODING_WHOLE:
                    continue
                owner = int.from_bytes(identity[:8], "big")
                for each, named in references(kind, bytes(payload)):
                    names += named
                    owners.append(owner)
                    inner.append(each != KIND_CHUNK)
        except Damaged:
            report_damage(number)  # not there, for those that name what lies in it
            continue
        if owners:
            ids = np.frombuffer(bytes(names), np.uint8).reshape(-1, OBJECT_ID_BYTES)
            yield ids, np.array(owners, np.uint64), np.array(inner, np.bool_)


def _prefixes(ids: npt.NDArray[np.uint8]) -> Prefixes:
    return np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def summary(damage: Damage) -> str:
    """Return what happened in a few words."""
    lost = [pack_id for pack_id, each in damage.packs.items() if each.lost]
    hurt = [pack_id for pack_id, each in damage.packs.items() if not each.lost]
    parts = []
    for packs, what in ((lost, "lost"), (hurt, "damaged")):
        if packs:
            first = f" ({hex_short(packs[0])}{', ...' if len(packs) > 1 else ''})"
            parts.append(f"{len(packs)} pack{'s' * (len(packs) != 1)} {what}{first}")
    return ", ".join(parts) or "its index was lost"
