"""Dumps of volumes that are on servers: one of these writes it and sends it; what it builds on is chosen here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from dalsegno.actions.dump import forget
from dalsegno.actions.received import Wanted, receive, require_whole
from dalsegno.actions.remote import RemoteHouse, lineage_of, record_lineage
from dalsegno.dumps.estimate import Estimate, estimate_levels
from dalsegno.dumps.place import dump_name, place_for
from dalsegno.dumps.plan import built_on, choose_base, choose_level, record_dump, recorded_by, require_unneeded
from dalsegno.formats.object_rows import read_rows, row_lengths
from dalsegno.formats.pack_header import DumpNote
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.writers import list_errors, shared_kind
from dalsegno.terms.errors import BadInput, Conflict, DalError, Damaged, NotFound, Refused, Unavailable
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns
from dalsegno.world.files import PRIVATE_FILE, PartialFile


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDump:
    """A dump that a server wrote."""

    server: str
    path: str
    dump_id: bytes
    size_bytes: int
    note: DumpNote
    useless: Sequence[DumpRecord] = ()
    """Dumps that were forgotten, because they build on the one whose place this one took."""


def dump_remote(
    house: RemoteHouse,
    address: str,
    *,
    level: int | None,
    output: Path | BinaryIO | None,
    record: bool,
    force: bool = False,
    recipients: Sequence[str] = (),
) -> RemoteDump:
    """Have the nearest server that can write a dump, and take it to a file or a stream.

    With `record` the servers note it, once it is durable, as a base of later ones. `force`: it may take the place of a
    dump that others build on, which are then forgotten. Each of `recipients` opens it, too, with his own key.
    """
    if ".." in address.partition("@")[2]:
        raise BadInput(
            f"{address}: a server's dump carries one state: dump the clones one after the other, each a level higher"
        )
    resolved = resolve(house.pool, house.volumes, parse_address(address), now_ns=now_ns())
    if resolved.path:
        raise BadInput(f"{address}: a dump carries whole volumes; expected VOLUME[@CLONE]")
    state = resolved.state
    replaced, useless = b"", list[DumpRecord]()
    level = choose_level(state.dumps, recorder="") if level is None else level
    base = choose_base(state.dumps, level=level, recorder="")
    if level > 0 and base is None:
        raise Refused(f"volume {state.name!r}: no recorded dump below level {level}; make a level 0 dump first")
    name = dump_name(state.name, resolved.clone or hex_short(resolved.revision), level)
    if output is None:
        output = Path(name)
        if output.exists():
            raise Refused(f"{output}: exists already; name another file with -o")
    if isinstance(output, Path):
        place = place_for(output / name if output.is_dir() else output, house.pool.realm, volume=state.id, level=level)
        output, replaced = place.path, place.replaced
        useless = built_on(recorded_by(state.dumps, ""), replaced) if replaced else []
        require_unneeded(useless, force=force, what=str(output))
    clone = resolved.clone or "#" + resolved.revision.hex()
    wanted = Wanted(
        volume=state.id,
        revision=resolved.revision,
        level=level,
        base_dump=base.dump_id if base is not None else b"",
        for_readers=bool(recipients),
    )
    made = _write(house, state, output, clone=clone, wanted=wanted, base=base, recipients=recipients)
    if replaced:
        forget(house, state, [replaced, *(each.dump_id for each in useless)])
        made = replace(made, useless=tuple(useless))
    if record:
        noted = DumpRecord(
            dump_id=made.dump_id,
            level=made.note.level,
            revision=made.note.targets[-1].revision,
            base_dump=made.note.base_dump,
            taken_at_ns=made.note.taken_at_ns,
            path=made.path,
            size_bytes=made.size_bytes,
        )
        house.volumes.update(state.id, lambda current: record_dump(current, noted))
    return made


def _write(
    house: RemoteHouse,
    state: VolumeState,
    output: Path | BinaryIO,
    *,
    clone: str,
    wanted: Wanted,
    base: DumpRecord | None,
    recipients: Sequence[str],
) -> RemoteDump:
    """Take a dump from the first server that gives it; what a stream has got cannot be taken back."""
    errors: dict[str, DalError] = {}
    for site in servers_that_dump(house, state):
        sent = 0

        def pieces(site: RemoteSite = site) -> Iterator[bytes]:
            return ask_dump(site, state, clone=clone, level=wanted.level, base=base, recipients=recipients)

        def write(data: bytes) -> None:
            nonlocal sent
            assert not isinstance(output, Path)
            sent += output.write(data)

        try:
            if isinstance(output, Path):
                with PartialFile(output, mode=PRIVATE_FILE) as file:
                    found = receive(pieces(), file.write, realm=house.pool.realm, wanted=wanted)
                    require_whole(file.partial_path, house.pool.realm, wanted=wanted)
                    file.commit()
            else:
                found = receive(pieces(), write, realm=house.pool.realm, wanted=wanted)
                output.flush()
        except (Unavailable, NotFound, Refused, Conflict, Damaged) as error:
            errors[site.name] = error
            if sent:
                raise
            continue
        return RemoteDump(
            server=site.name,
            path=str(output.absolute()) if isinstance(output, Path) else "-",
            dump_id=found.dump_id,
            size_bytes=found.size_bytes,
            note=found.note,
        )
    raise no_dump(state, errors)


def servers_that_dump(house: RemoteHouse, state: VolumeState) -> Iterator[RemoteSite]:
    """Yield the servers that have a volume, the nearest first."""
    for name in house.realm_volumes.servers_of(state):
        site = house.realm_volumes.servers.site(name)
        assert isinstance(site, RemoteSite)
        yield site


def ask_dump(
    site: RemoteSite,
    state: VolumeState,
    *,
    clone: str,
    level: int,
    base: DumpRecord | None,
    recipients: Sequence[str] = (),
) -> Iterator[bytes]:
    """Have a server write a dump that builds on `base`, one of the state's records, and return its bytes.

    It bears our time, not the server's: the next one may be written by another, and must be the later one.
    """
    # A comment behind a key is nobody's business.
    keys = [" ".join(each.split()[:2]) for each in recipients]
    ask = partial(site.dump, state.name, clone=clone, level=level, recipients=keys)
    now = now_ns()
    if base is None:
        return ask(taken_at_ns=now)
    now, base_id = max(now, base.taken_at_ns + 1), base.dump_id.hex()
    try:
        return ask(base=base_id, taken_at_ns=now)
    except NotFound:
        # It was away when that one was recorded.
        record_lineage(site, state.name, lineage_of(state.dumps, base))
        return ask(base=base_id, taken_at_ns=now)


def count_new(house: RemoteHouse, state: VolumeState, target: bytes, base: bytes | None) -> tuple[int, int]:
    """Have a server count the objects that `target` has and `base` has not, and their bytes."""
    errors: dict[str, DalError] = {}
    for site in servers_that_dump(house, state):
        object_count = payload_bytes = 0
        try:
            stream = site.missing(state.name, [target], [base] if base else [])
            for rows in read_rows(stream, of=site.name):
                object_count += len(rows)
                payload_bytes += int(row_lengths(rows).sum())
        except (Unavailable, NotFound, Refused) as error:
            errors[site.name] = error
            continue
        return object_count, payload_bytes
    raise no_dump(state, errors)


def estimate_remote(house: RemoteHouse, address: str, *, levels: Sequence[int]) -> list[Estimate]:
    """Return one estimate per level, as a server counts: this client need have nothing of the volume."""
    resolved = resolve(house.pool, house.volumes, parse_address(address), now_ns=now_ns())
    return estimate_levels(
        resolved.state, levels=levels, count=partial(count_new, house, resolved.state, resolved.revision)
    )


def no_dump(state: VolumeState, errors: dict[str, DalError]) -> DalError:
    """Return why no server gave a dump."""
    why = list_errors(errors) or "none of its servers is known"
    return shared_kind(errors)(f"volume {state.name!r}: no dump: {why}")
