"""What only replicated volumes have: made of dumps on several servers, given one more, dumped by one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dalsegno.actions.follow import keeps_up_by_itself
from dalsegno.actions.remote import RemoteHouse
from dalsegno.actions.seed import Seeded, seed_replica
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.place import place_for
from dalsegno.pool.pack_read import PackReader, open_note
from dalsegno.replicas.catchup import CaughtUp
from dalsegno.replicas.filling import Lacking, await_filled, survey
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.seed import PacksOrigin, seed
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.state import ANY, NATIVE, WRITER, Clone, DumpRecord, ReplicaSet, VolumeState
from dalsegno.volumes.store import check_volume_name
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.files import PartialFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A replicated volume made of dumps."""

    state: VolumeState
    servers: tuple[str, ...]
    missing: dict[str, DalError]
    sent_bytes: int
    media_bytes: int


def restore_replicated(
    house: RemoteHouse, paths: Sequence[Path], name: str, servers: Sequence[str], *, rule: str = ANY
) -> Rebuilt:
    """Make a living, writable volume of dumps on several servers, with all clones that the dumps carry.

    Begun again after it was cut off, it goes on where it was. AlreadyThere when the volume is another one.
    """
    check_volume_name(name)
    volumes = house.realm_volumes
    realm_servers = volumes.servers
    if len(set(servers)) != len(servers):
        raise BadInput(f"a server stands twice in {','.join(servers)}")
    sites = {each: realm_servers.site(each) for each in servers}
    with DumpChain.open(paths, house.pool.realm) as chain:
        chain.require_full()
        state = _state_of(chain, name, ReplicaSet(version=1, writers=list(servers), rule=rule))
        assert state.replicas is not None
        placed = realm_servers.placed(name, anew=True)
        if placed is not None and (placed.id != state.id or placed.replicas != state.replicas):
            raise AlreadyThere(f"volume {name!r} exists already in realm {house.realm_name}: choose another name")
        realm_servers.publish(name, state.replicas, volume_id=state.id)
        origin = PacksOrigin(chain.readers, house.pool.realm, workers=house.workers)
        carried = [(target.clone, target.revision) for target in chain.targets()]
        sent = 0
        missing: dict[str, DalError] = {}
        for each, site in sites.items():
            try:
                there = site.create(state)
                if there.head and there.head != chain.target.revision:
                    raise AlreadyThere(f"{each}: volume {name!r} is not empty: choose another name, or remove it there")
                sent += seed(name, origin, carried, state, to=site, report=house.report).bytes_crossed
                site.advance(name, chain.target.revision)
            except Unavailable as error:
                missing[each] = error
        if len(missing) == len(sites):
            raise Unavailable(f"volume {name!r}: {'; '.join(map(str, missing.values()))}")
        caught = volumes.bring_together(name)
        return Rebuilt(
            state=caught.state,
            servers=caught.reached,
            missing={**missing, **caught.missing},
            sent_bytes=sent,
            media_bytes=sum(reader.size_bytes for reader in chain.readers),
        )


def _state_of(chain: DumpChain, name: str, replicas: ReplicaSet) -> VolumeState:
    """Return the volume that the dumps carry, its dumps as bases of the next ones."""
    clones = {
        target.clone: Clone(revision=target.revision, created_ns=target.created_ns)
        for target in chain.targets()
        if target.clone
    }
    records = [
        DumpRecord(
            dump_id=reader.pack_id,
            level=note.level,
            revision=note.targets[-1].revision,
            base_dump=note.base_dump,
            taken_at_ns=note.taken_at_ns,
            path=str(reader.path.absolute()),
            size_bytes=reader.size_bytes,
        )
        for reader, note in zip(chain.readers, chain.notes, strict=True)
    ]
    return VolumeState(
        id=chain.notes[-1].volume,
        name=name,
        kind=NATIVE,
        source=b"",
        created_ns=chain.notes[0].taken_at_ns,
        clones=clones,
        dumps=records,
        role=WRITER,
        replicas=replicas,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """One more writer of a volume."""

    caught: CaughtUp
    seeded: Seeded | None
    fetched: Lacking | None
    """What its server fetched by itself."""


def add_replica(
    house: RemoteHouse, volume: str, server: str, *, clones: str = "", seed_from: str | None = None
) -> Added:
    """Make one more server a writer of a volume: seeded from dumps, if there are any, it fetches the rest by itself.

    What comes meanwhile, or all where that server cannot fetch, is sent to it from here.
    """
    servers = house.realm_volumes.servers
    group = house.realm_volumes.group(volume)
    site = servers.site(server)
    before = group.catch_up()
    seeded = fetched = None
    if server not in before.replicas.writers:
        group.join(server, before.state)
        if seed_from is not None:
            seeded = seed_replica(
                seed_from,
                there=before.state,
                to=site,
                realm=house.pool.realm,
                workers=house.workers,
                report=house.report,
            )
        if keeps_up_by_itself(site):
            origin = servers.site(before.reached[0])
            # Before it is a standby: from then on it fetches.
            lacking = survey(volume, before.state, origin=origin, to=site, clones=clones)
            group.add_standby(server, before.replicas, clones=clones)
            if await_filled(volume, lacking, site=site, ticks=ticks_ns, pause=servers.pause, report=house.report):
                fetched = lacking
            else:
                text = f"{server} does not fetch it from the other servers: sending it from here"
                house.report(Note(severity="notice", path=volume.encode(), text=text))
    return Added(caught=group.add_replica(server, clones=clones), seeded=seeded, fetched=fetched)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDump:
    """A dump that a server wrote."""

    server: str
    path: str
    dump_id: bytes
    size_bytes: int
    level: int
    volume: str


def dump_remote(
    house: RemoteHouse, address: str, *, level: int | None, output: Path | BinaryIO | None, record: bool
) -> RemoteDump:
    """Have the nearest server that can write a dump, and take it to a file or a stream.

    With `record` the servers note a dump in a file, once it is durable, as a base of later ones.
    """
    if ".." in address.partition("@")[2]:
        raise BadInput(f"{address}: a server's dump carries one state: expected VOLUME[@CLONE]")
    resolved = resolve(house.pool, house.volumes, parse_address(address), now_ns=now_ns())
    if resolved.path:
        raise BadInput(f"{address}: a dump carries whole volumes; expected VOLUME[@CLONE]")
    state = resolved.state
    clone = resolved.clone or "#" + resolved.revision.hex()
    if level is None:
        level = 0 if not state.dumps else min(9, state.dumps[-1].level + 1)
    wanted = f"{state.name}.{resolved.clone or hex_short(resolved.revision)}.{level}.dump"
    if output is None:
        output = Path(wanted)
        if output.exists():
            raise Refused(f"{output}: exists already; name another file with -o")
    if isinstance(output, Path) and output.is_dir():
        output = output / wanted
    if isinstance(output, Path):
        output = place_for(output, house.pool.realm, volume=state.id, level=level)
    errors: list[DalError] = []
    for name in house.realm_volumes.servers_of(state):
        site = house.realm_volumes.servers.site(name)
        assert isinstance(site, RemoteSite)
        try:
            if not isinstance(output, Path):
                for piece in site.dump(state.name, clone=clone, level=level):
                    output.write(piece)
                output.flush()
                return RemoteDump(server=name, path="-", dump_id=b"", size_bytes=0, level=level, volume=state.name)
            size = 0
            with PartialFile(output) as file:
                for piece in site.dump(state.name, clone=clone, level=level):
                    file.write(piece)
                    size += len(piece)
                file.commit()
        except (Unavailable, NotFound, Refused) as error:
            errors.append(error)
            if not isinstance(output, Path):
                raise
            continue
        made = _record_of(house, output)
        if record:
            house.realm_volumes.record_dump(state, made)
        return RemoteDump(
            server=name,
            path=str(output.absolute()),
            dump_id=made.dump_id,
            size_bytes=size,
            level=made.level,
            volume=state.name,
        )
    if errors:
        raise errors[-1]
    raise Unavailable(f"volume {state.name!r}: none of its servers is known")


def _record_of(house: RemoteHouse, path: Path) -> DumpRecord:
    with PackReader.open(path, house.pool.realm) as reader:
        note = open_note(reader.header, house.pool.realm)
        return DumpRecord(
            dump_id=reader.pack_id,
            level=note.level,
            revision=note.targets[-1].revision,
            base_dump=note.base_dump,
            taken_at_ns=note.taken_at_ns,
            path=str(path.absolute()),
            size_bytes=reader.size_bytes,
        )
