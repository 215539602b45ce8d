"""What only replicated volumes have: made of dumps on several servers, given one more."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dalsegno.actions.follow import keeps_up_by_itself
from dalsegno.actions.remote import RemoteHouse
from dalsegno.actions.seed import Seeded, seed_replica
from dalsegno.dumps.chain import DumpChain
from dalsegno.replicas.catchup import CaughtUp
from dalsegno.replicas.filling import Lacking, await_filled, survey
from dalsegno.replicas.seed import PacksOrigin, seed
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, Unavailable
from dalsegno.terms.events import Note
from dalsegno.volumes.clones import Clone, Clones
from dalsegno.volumes.records import DumpRecord, DumpRecords
from dalsegno.volumes.state import ANY, NATIVE, WRITER, ReplicaSet, VolumeState
from dalsegno.volumes.store import check_volume_name
from dalsegno.world.clock import ticks_ns


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
        twin = next((each.name for each in realm_servers.view().volumes if each.id == state.id), name)
        if twin != name:
            raise AlreadyThere(
                f"volume {twin!r} of realm {house.realm_name} is the one that these dumps carry: "
                f"restore files from them with --to, or `dal volume remove {twin}` first"
            )
        realm_servers.publish(name, state.replicas, volume_id=state.id)
        origin = PacksOrigin(chain.readers, house.pool.realm, workers=house.workers)
        carried = [(target.clone, target.revision) for target in chain.targets()]
        sent = 0
        missing: dict[str, DalError] = {}
        made: dict[str, VolumeState] = {}
        for each, site in sites.items():
            try:
                there = site.create(state)
                if there.head and there.head != chain.target.revision:
                    raise AlreadyThere(f"{each}: volume {name!r} is not empty: choose another name, or remove it there")
                made[each] = there
                volumes.made(made)
                sent += seed(name, origin, carried, state, to=site, report=house.report).bytes_crossed
                site.advance(name, chain.target.revision)
            except Unavailable as error:
                missing[each] = error
            except AlreadyThere:
                if placed is None:
                    with suppress(DalError):
                        realm_servers.desk.forget(name)
                raise
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
        clones=Clones(clones),
        dumps=DumpRecords(records),
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
