"""Dumps: write one, record it, estimate several levels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from dalsegno.actions.browse import ordered_clones
from dalsegno.actions.session import House
from dalsegno.actions.view import named
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.estimate import Estimate, count_in_pool, estimate_levels
from dalsegno.dumps.place import dump_name, place_for
from dalsegno.dumps.plan import (
    DumpPlan,
    built_on,
    plan_dump,
    record_dump,
    recorded_by,
    require_unneeded,
)
from dalsegno.dumps.write import write_dump
from dalsegno.formats.pack_header import DumpNote
from dalsegno.pool.pack_write import PackSummary
from dalsegno.terms.errors import BadInput, DalError, NotFound, Refused
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns
from dalsegno.world.files import PRIVATE_FILE, PartialFile, settle_file

ID_DIGITS_MIN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpResult:
    """A finished dump."""

    dump_id: bytes
    note: DumpNote
    path: str
    size_bytes: int
    object_count: int
    recorded: bool
    useless: Sequence[DumpRecord] = ()
    """Dumps that were forgotten, because they build on the one whose place this one took."""


def _targets(house: House, text: str) -> tuple[VolumeState, list[tuple[str, bytes]]]:
    """Return the volume and the (clone, revision) list, oldest first, of `VOLUME[@CLONE[..@CLONE]]`."""
    head, dots, last = text.partition("..")
    now = now_ns()
    first = resolve(house.pool, house.volumes, parse_address(head), now_ns=now)
    if first.path:
        raise BadInput(f"{text}: a dump carries whole volumes; expected VOLUME[@CLONE[..@CLONE]]")
    if not dots:
        return first.state, [(first.clone or "", first.revision)]
    name = first.state.name
    end = resolve(house.pool, house.volumes, parse_address(f"{name}@{last.removeprefix('@')}"), now_ns=now)
    clones = ordered_clones(first.state)
    names = [clone for clone, _ in clones]
    if first.clone is None or end.clone is None:
        raise BadInput(f"{text}: both ends must name clones; `dal clones {name}` shows them")
    low, high = names.index(first.clone), names.index(end.clone)
    if low > high:
        raise BadInput(f"{text}: {first.clone} is newer than {end.clone}; put the older clone first")
    return first.state, [(clone, each.revision) for clone, each in clones[low : high + 1]]


def default_name(plan: DumpPlan) -> str:
    """Return the file name of a dump whose place nobody named."""
    note = plan.note
    clone = note.targets[-1].clone or hex_short(note.targets[-1].revision)
    return dump_name(note.volume_name, clone, note.level)


def dump(
    house: House,
    address: str,
    *,
    level: int | None = None,
    output: Path | BinaryIO | None = None,
    record: bool = True,
    force: bool = False,
    recipients: Sequence[str] = (),
) -> DumpResult:
    """Write a dump to a file (default: named after its content, here) or a stream, and record it once it is durable.

    `force`: it may take the place of a dump that others build on, which are then forgotten. Each of `recipients`
    (public keys of age or ssh) opens the dump with his private key; it is sealed then, also from a pool that is not.
    """
    state, targets = _targets(house, address)
    replaced, useless = b"", list[DumpRecord]()
    plan = plan_dump(house.pool, state, targets=targets, level=level, now_ns=now_ns())
    if output is None:
        output = Path(default_name(plan))
        if output.exists():
            raise Refused(f"{output}: exists already; name another file with -o")
    if isinstance(output, Path):
        if output.is_dir():
            output = output / default_name(plan)
        place = place_for(output, house.pool.realm, volume=state.id, level=plan.note.level)
        output, replaced = place.path, place.replaced
        useless = built_on(recorded_by(state.dumps, ""), replaced) if replaced else []
        require_unneeded(useless, force=force, what=str(output))
        path = str(output.absolute())
        with PartialFile(output, mode=PRIVATE_FILE) as file:
            summary = _write(house, plan, file, recipients)
            if replaced:  # before it is gone: nothing ever builds on a dump that is not there
                forget(house, state, [replaced, *(each.dump_id for each in useless)])
            file.commit()
    else:
        path = "-"
        summary = _write(house, plan, output, recipients)
        output.flush()
    if record:
        made = DumpRecord(
            dump_id=summary.pack_id,
            level=plan.note.level,
            revision=plan.target,
            base_dump=plan.note.base_dump,
            taken_at_ns=plan.note.taken_at_ns,
            path=path,
            size_bytes=summary.size_bytes,
        )
        try:
            house.volumes.update(state.id, lambda current: record_dump(current, made))
        except DalError as error:
            then = "`dal mark` records it later, and with --no-record it is left to you"
            raise type(error)(f"{path}: the dump is whole, but could not be recorded: {error}; {then}") from error
    return DumpResult(
        dump_id=summary.pack_id,
        note=plan.note,
        path=path,
        size_bytes=summary.size_bytes,
        object_count=summary.object_count,
        recorded=record,
        useless=useless,
    )


def forget(house: House, state: VolumeState, dump_ids: Iterable[bytes]) -> None:
    """Let no later dump build on these, wherever their files are."""
    gone = list(dump_ids)
    house.volumes.update(state.id, lambda current: msgspec.structs.replace(current, dumps=current.dumps.without(gone)))


def forget_named(house: House, what: str, *, force: bool = False) -> tuple[VolumeState, list[DumpRecord]]:
    """Forget a recorded dump that is gone, by the place it was written to or the beginning of its id, and what builds
    on it; Refused when something does, without `force`."""
    place = str(Path(what).absolute())
    found = [
        (state, record)
        for state in house.volumes.list()
        for record in state.dumps
        if not record.recorder
        and (record.path == place or (len(what) >= ID_DIGITS_MIN and record.dump_id.hex().startswith(what)))
    ]
    if not found:
        raise NotFound(f"{what}: no dump of this name or id is recorded: `dal volume show VOLUME` lists them")
    if len({record.dump_id for _, record in found}) > 1:
        ids = ", ".join(hex_short(record.dump_id) for _, record in found)
        raise BadInput(f"{what}: means {ids}: say which one, by its id")
    state, record = found[0]
    useless = built_on(recorded_by(state.dumps, ""), record.dump_id)
    require_unneeded(useless, force=force, what=what)
    gone = [record, *useless]
    forget(house, state, [each.dump_id for each in gone])
    return state, gone


def _write(house: House, plan: DumpPlan, stream: PartialFile | BinaryIO, recipients: Sequence[str]) -> PackSummary:
    return write_dump(
        house.pool,
        plan,
        stream.write,
        realm=house.pool.realm,
        sealed=bool(recipients) or house.pool.encryption != "none",
        recipients=recipients,
        workers=house.workers,
        report=house.report,
    )


def mark(house: House, path: Path) -> tuple[VolumeState, DumpRecord]:
    """Record a dump file as backed up: later dumps may start from it."""
    settle_file(path)
    with DumpChain.open([path], house.pool.realm) as chain:
        note, reader = chain.notes[0], chain.readers[0]
        state = house.volumes.get_by_id(note.volume)
        if state is None:
            raise NotFound(f"{path}: its volume {note.volume_name!r} is not in this pool")
        made = DumpRecord(
            dump_id=reader.pack_id,
            level=note.level,
            revision=note.targets[-1].revision,
            base_dump=note.base_dump,
            taken_at_ns=note.taken_at_ns,
            path=str(path.absolute()),
            size_bytes=reader.size_bytes,
        )
    # Of a volume on servers they look themselves.
    if not house.volumes.merges and not house.pool.has(ObjectId(made.revision)):
        raise Refused(f"{path}: its revision {hex_short(made.revision)} is no longer in the pool; make a level 0 dump")
    return house.volumes.update(state.id, lambda current: record_dump(current, made)), made


def estimate(house: House, address: str, *, levels: Sequence[int]) -> list[Estimate]:
    """Return one estimate per level, from the comparison of trees: no file data is read."""
    state, targets = _targets(house, address)
    with named(address):
        return estimate_levels(state, levels=levels, count=count_in_pool(house.pool, targets[-1][1]))
