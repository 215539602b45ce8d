"""Work on dump files alone: merge, inspect, verify, salvage."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dalsegno.actions.dump import forget
from dalsegno.actions.session import House
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.lost import find_lost_files
from dalsegno.dumps.merge import merge_dumps, merged_note
from dalsegno.dumps.place import place_for
from dalsegno.dumps.plan import built_on, list_records
from dalsegno.dumps.verify import Salvage, salvage_dump, verify_dump, verify_stream
from dalsegno.formats.pack_header import DumpNote
from dalsegno.terms.errors import Damaged, Refused
from dalsegno.world.files import PRIVATE_FILE, PartialFile


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpFacts:
    """What a dump file says about itself."""

    path: str
    dump_id: bytes
    realm: bytes
    sealed: bool
    size_bytes: int
    object_count: int
    block_count: int
    note: DumpNote


def merge(house: House, paths: Sequence[Path], output: Path | BinaryIO) -> tuple[DumpNote, int]:
    """Merge a dump with the increments that continue it, oldest first; return lineage and size of the result.

    Refused, naming both lineages, before anything is written when one does not continue those before it.
    """
    sealed = house.pool.encryption != "none"
    with DumpChain.open(paths, house.pool.realm) as chain:
        if not isinstance(output, Path):
            note, summary = merge_dumps(
                chain, output.write, realm=house.pool.realm, sealed=sealed, workers=house.workers, report=house.report
            )
            output.flush()
            return note, summary.size_bytes
        if output.is_dir():
            raise Refused(f"{output}: is a directory; name a file in it")
        if any(output.exists() and output.samefile(path) for path in paths):
            raise Refused(f"{output}: is one of the dumps to merge; write to another file")
        made = merged_note(chain)
        place = place_for(output, house.pool.realm, volume=made.volume, level=made.level)
        state = house.volumes.get_by_id(made.volume) if place.replaced and not house.volumes.merges else None
        useless = built_on(state.dumps, place.replaced) if state is not None else []
        if useless:
            raise Refused(
                f"{output}: {list_records(useless)} cannot be restored without the dump that is there: "
                "write to another file"
            )
        with PartialFile(place.path, mode=PRIVATE_FILE) as file:
            note, summary = merge_dumps(
                chain, file.write, realm=house.pool.realm, sealed=sealed, workers=house.workers, report=house.report
            )
            if state is not None:
                forget(house, state, [place.replaced])
            file.commit()
        return note, summary.size_bytes


def inspect(house: House, path: Path) -> DumpFacts:
    """Return what a dump file says about itself."""
    with DumpChain.open([path], house.pool.realm) as chain:
        reader = chain.readers[0]
        return DumpFacts(
            path=str(path),
            dump_id=reader.pack_id,
            realm=reader.header.realm,
            sealed=bool(reader.header.seal),
            size_bytes=reader.size_bytes,
            object_count=reader.object_count,
            block_count=reader.block_count,
            note=chain.notes[0],
        )


def verify(house: House, dump: Path | BinaryIO) -> list[str]:
    """Read every byte of a dump and return what is wrong with it."""
    if isinstance(dump, Path):
        return list(verify_dump(dump, house.pool.realm, workers=house.workers, report=house.report))
    try:
        verify_stream(dump, house.pool.realm, report=house.report)
    except Damaged as error:
        return [str(error)]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvageOutcome:
    """What could be saved of a damaged dump, and which files of its newest state were lost."""

    saved: Salvage
    lost: list[tuple[bytes, str]]
    """Path and what is lost of it; an empty path is the list of all names."""
    is_complete: bool
    """Whether `lost` is all: of an increment without its index nobody knows what it held."""


def salvage(house: House, damaged: Path, output: Path) -> SalvageOutcome:
    """Write a dump of all that is whole in a damaged one, and find out what was lost."""
    if output.exists():
        raise Refused(f"{output}: exists already; name another file")
    with PartialFile(output, mode=PRIVATE_FILE) as file:
        saved = salvage_dump(damaged, house.pool.realm, file.write, sealed=house.pool.encryption != "none")
        file.commit()
    if not saved.damaged:
        return SalvageOutcome(saved=saved, lost=[], is_complete=True)
    with ExitStack() as stack:
        chain = stack.enter_context(DumpChain.open([output], house.pool.realm))
        try:
            index = stack.enter_context(DumpChain.open([damaged], house.pool.realm)).readers[0]
        except Damaged:
            # A full dump held all that its state is made of.
            lost = [] if chain.bases else list(find_lost_files(chain, lambda identity: True))
            return SalvageOutcome(saved=saved, lost=lost, is_complete=not chain.bases)
        lost = list(find_lost_files(chain, lambda identity: index.find(identity) is not None))
        return SalvageOutcome(saved=saved, lost=lost, is_complete=True)
