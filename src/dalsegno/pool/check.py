"""Check a pool: every pack's every byte, every object's id, and the index against the packs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dalsegno.formats.pack_index import decode_place
from dalsegno.pool.damage import PackDamage
from dalsegno.pool.index import Ids
from dalsegno.pool.pack_verify import verify
from dalsegno.pool.pool import PACK_SUFFIX, PACKS, Pool, pack_id_of
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.events import Progress, Report
from dalsegno.terms.ids import OBJECT_ID_BYTES, PackId, hex_short


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    severity: str
    """`error` (something is lost or wrong) or `note`."""
    where: str
    text: str
    paths: tuple[bytes, ...] = ()
    """Files that are lost."""


def check_pool(pool: Pool, report: Report) -> Iterator[Finding]:
    """Read all of `pool` and yield what is wrong with it; a pool without errors yields none."""
    sizes = {pack_id: entry.size_bytes for pack_id, entry in pool.pack_entries().items()}
    packs = sorted(sizes)
    pool.refresh()  # behind the list: the index knows every pack of it
    total_bytes, done_bytes = sum(sizes.values()), 0
    for number, pack_id in enumerate(packs):
        report(
            Progress(
                phase="check packs",
                done_bytes=done_bytes,
                total_bytes=total_bytes,
                done_count=number,
                total_count=len(packs),
            )
        )
        yield from _check_pack(pool, pack_id)
        done_bytes += sizes.get(pack_id, 0)
    for pack_id, damage in sorted(pool.losses.notes.packs.items()):
        if damage.lost:
            text = "lost: `dal backup` stores again what the sources still have; what nothing has is named below"
            yield Finding(severity="note", where=pool.where_pack(pack_id), text=text)
    for segment in pool.index.segments:
        if not segment.is_intact():
            yield Finding(
                severity="error",
                where=str(pool.index.path / segment.name),
                text="index segment damaged: delete the file, it is made again from the packs",
            )
    for name in pool.backend.list(PACKS + "/"):
        if name.endswith(PACK_SUFFIX) and pack_id_of(name) is None:
            text = "not the name of a pack: nothing reads it"
            yield Finding(severity="note", where=pool.backend.where(name), text=text)
    for name in pool.list_refs(""):
        try:
            pool.get_ref(name)
        except DalError as error:
            yield Finding(severity="error", where=f"ref {name}", text=str(error))


def _check_pack(pool: Pool, pack_id: bytes) -> Iterator[Finding]:
    where = pool.where_pack(pack_id)
    try:
        reader = pool.open_pack(pack_id)
    except NotFound:
        return  # collected meanwhile
    except Damaged as error:
        pool.losses.set(PackId(pack_id), PackDamage(unreadable=True))
        yield Finding(severity="error", where=where, text=str(error).removeprefix(f"{where}: "))
        return
    except DalError as error:
        yield Finding(severity="error", where=where, text=str(error))
        return
    try:
        findings = list(verify(reader))
        pool.losses.set(PackId(pack_id), PackDamage(blocks=frozenset(reader.damaged_blocks)))
        for text in findings:
            yield Finding(severity="error", where=where, text=text.removeprefix(f"{where}: "))
        ids, values = reader.objects()
        unknown, first = 0, b""
        for row in range(len(ids)):
            identity = ids[row].tobytes()
            place = (int(values[row, 0]), decode_place(int(values[row, 1]))[0])
            known = any(
                location.pack_id == pack_id and (location.block_index, location.offset) == place
                for location in pool.index.find_all(identity)
            )
            if not known:
                unknown += 1
                first = identity if unknown == 1 else first
        if unknown:
            yield Finding(
                severity="error",
                where=where,
                text=f"the index misses {unknown} objects, first {hex_short(first)}: delete {pool.index.path}",
            )
    except Damaged as error:
        pool.losses.set(PackId(pack_id), PackDamage(unreadable=True))
        yield Finding(severity="error", where=where, text=str(error).removeprefix(f"{where}: "))
    except DalError as error:
        yield Finding(severity="error", where=where, text=str(error).removeprefix(f"{where}: "))
    finally:
        reader.close()


def only_copies(pool: Pool, pack_id: PackId) -> Ids:
    """Return the ids of what lies in the damaged blocks of a pack, as the index knows them, and nowhere else."""
    found = [np.zeros((0, OBJECT_ID_BYTES), np.uint8)]
    for segment in pool.index.segments:
        for number in segment.hurt:
            if segment.pack_ids[number] == pack_id:
                rows = np.flatnonzero(np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[:, 0] == number)
                ids = segment.ids_of(rows)
                found.append(ids[~pool.index.hold(ids)])
    return np.concatenate(found)
