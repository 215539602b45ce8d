"""Seed a new replica from dump files."""

from dataclasses import dataclass
from pathlib import Path

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.pool.pack_read import PackReader, open_note
from dalsegno.replicas.contract import Site
from dalsegno.replicas.seed import PacksOrigin, seed
from dalsegno.terms.errors import DalError, NotFound, Refused
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.address import dump_paths
from dalsegno.volumes.state import VolumeState
from dalsegno.world.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    """What came from media."""

    dumps: tuple[Path, ...]
    media_bytes: int
    """Size of the dumps that were read."""
    objects: int
    """Objects that the replica did not have."""
    sent_bytes: int
    """Bytes that went from the dumps to the replica's server."""
    revisions: tuple[bytes, ...]
    """What the replica has whole now, the newest last: what the rest can start from."""


def seed_replica(
    text: str,
    *,
    there: VolumeState,
    to: Site,
    realm: Realm,
    workers: Workers | None = None,
    report: Report = silent,
) -> Seeded:
    """Fill the new replica of the volume `there` at `to` from `FULL.dump+INCR.dump...` or a directory of dumps.

    Everything is checked against its id by the server that takes it; dumps of other volumes are Refused.
    """
    paths = find_dumps(text, volume=there.id, realm=realm, report=report)
    with DumpChain.open(paths, realm) as chain:
        chain.require_full()
        for reader, note in zip(chain.readers, chain.notes, strict=True):
            if note.volume != there.id:
                raise Refused(f"{reader.path} is a dump of another volume ({note.volume_name}), not of {there.name}")
        carried = [(target.clone, target.revision) for target in chain.targets()]
        origin = PacksOrigin(chain.readers, realm, workers=workers)
        chain.read_ahead(workers)
        try:
            transferred = seed(there.name, origin, carried, there, to=to, report=report)
        finally:
            chain.read_ahead(None)
        return Seeded(
            dumps=tuple(paths),
            media_bytes=sum(reader.size_bytes for reader in chain.readers),
            objects=transferred.objects,
            sent_bytes=transferred.bytes_crossed,
            revisions=tuple(dict.fromkeys(revision for _, revision in carried)),
        )


def find_dumps(text: str, *, volume: bytes, realm: Realm, report: Report = silent) -> list[Path]:
    """Return the dumps that `text` names, or of a directory the newest whole chain of this volume."""
    if not Path(text).is_dir():
        paths = dump_paths(text)
        if paths is None:
            raise NotFound(f"{text}: no such dump; expected FULL.dump+INCREMENT.dump... or a directory of dumps")
        return paths
    found: dict[bytes, tuple[int, Path, bytes, bool]] = {}
    for path in sorted(Path(text).iterdir()):
        if not path.is_file():
            continue
        try:
            with PackReader.open(path, realm) as reader:
                note = open_note(reader.header, realm)
                if note.volume == volume:
                    found[reader.pack_id] = (note.taken_at_ns, path, note.base_dump, not note.bases)
        except DalError as error:
            report(Note(severity="note", path=bytes(path), text=f"passed over: {error}"))
    for pack_id in sorted(found, key=lambda pack_id: found[pack_id][0], reverse=True):
        chain = _chain_down(pack_id, found)
        if chain:
            return chain
    raise NotFound(f"{text}: no full dump of this volume ({hex_short(volume)}) with what continues it")


def _chain_down(pack_id: bytes, found: dict[bytes, tuple[int, Path, bytes, bool]]) -> list[Path]:
    chain: list[Path] = []
    seen: set[bytes] = set()
    while pack_id in found and pack_id not in seen:
        seen.add(pack_id)
        _, path, base, full = found[pack_id]
        chain.insert(0, path)
        if full:
            return chain
        pack_id = base
    return []
