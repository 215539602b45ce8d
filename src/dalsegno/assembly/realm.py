"""From a realm's profile to its open cache house: the other half of assembly/local.py, loaded only for realms."""

import os
from importlib import import_module
from typing import Any, Final

import msgspec

from dalsegno.actions.remote import RealmVolumes, RemoteHouse
from dalsegno.actions.session import House, author
from dalsegno.assembly.local import WORKERS_MAX, cache_dir
from dalsegno.chunks.realm import Realm
from dalsegno.pool.contract import Sink, Source
from dalsegno.pool.known import Differs, KnownPlace, refuse
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import is_pool
from dalsegno.pool.signing_key import OwnSigner
from dalsegno.replicas.connections import CONNECT_SECONDS, Patience
from dalsegno.replicas.contract import Site
from dalsegno.replicas.followed import Directories
from dalsegno.replicas.nearest import NearestSource, Nearness
from dalsegno.replicas.newer_key import NewerKey, bring_forward
from dalsegno.replicas.profile import (
    Profile,
    cache_directory,
    key_path_of,
    read_profile,
    read_profile_realm,
    write_profile,
)
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.servers import DirectorySite, ServerDesk, Servers
from dalsegno.replicas.view import RealmView, Server
from dalsegno.terms.errors import AlreadyThere, Refused
from dalsegno.terms.events import Note, Report, silent
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.files import make_directory
from dalsegno.world.workers import Workers

CONNECT_AGAIN_SECONDS: Final = 1.0
"""How long a server that did not answer lately is waited for."""


def lease_owner() -> str:
    """Return what leases of this process are called: nobody else's are."""
    return f"{author()}:{os.getpid()}:{random_bytes(4).hex()}"


def open_nearness(name: str) -> Nearness:
    """Return what is remembered of how near a realm's servers are."""
    directory = cache_directory(name)
    make_directory(directory)
    return Nearness(directory / "nearness.json", clock=now_ns)


def remote_site(server: Server, token: str, nearness: Nearness, newer_key: NewerKey | None = None) -> RemoteSite:
    """Return the way to a server; one that did not answer lately is not waited for as long."""
    seconds = CONNECT_AGAIN_SECONDS if nearness.has_failed(server.name) else CONNECT_SECONDS
    return RemoteSite(
        server.url,
        token,
        name=server.name,
        fingerprint=server.fingerprint,
        patience=Patience(connect_seconds=seconds),
        newer_key=newer_key,
    )


def client_servers(
    profile: Profile,
    nearness: Nearness,
    *,
    realm: Realm | None = None,
    newer_key: NewerKey | None = None,
    report: Report = silent,
) -> Servers:
    """Return a realm's servers as a client that joined it sees them."""
    realm = realm or read_profile_realm(profile)
    newer_key = newer_key or NewerKey(key_path_of(profile.name), realm, report=report)

    def connect(server: Server) -> Site:
        return remote_site(server, profile.token, nearness, newer_key)

    def connect_directory(server: Server) -> DirectorySite:
        return remote_site(server, profile.token, nearness, newer_key)

    def remember(view: RealmView) -> None:
        known = read_profile(profile.name)
        lasting = [(server.name, server.url, server.fingerprint) for server in view.servers]
        if lasting != [(server.name, server.url, server.fingerprint) for server in known.view.servers] or (
            view.volumes != known.view.volumes
        ):
            write_profile(msgspec.structs.replace(known, view=view))

    def tell(text: str) -> None:
        report(Note(severity="notice", path=profile.name.encode(), text=text))

    desk = ServerDesk(
        profile.view,
        connect=connect_directory,
        order=nearness.order,
        failed=nearness.failed,
        changed=remember,
        tell=tell,
    )
    return Servers(desk, realm, connect=connect, owner=lease_owner())


def open_cache_pool(profile: Profile, realm: Realm) -> Pool:
    """Open the pool of a realm's cache house, which is made on first use."""
    path = cache_directory(profile.name) / "pool"
    make_directory(path.parent)
    if not is_pool(path):
        try:
            return Pool.create(path, encryption="keyfile", key_path=key_path_of(profile.name), realm=realm)
        except (AlreadyThere, Refused):
            pass  # somebody else makes it at this moment
    pool = Pool.open(path, key_path=key_path_of(profile.name))
    if pool.realm.realm_id != realm.realm_id:
        pool.close()
        raise Refused(f"{path}: is the cache of another realm: remove it when no commit waits in it")
    bring_forward(pool, key_path_of(profile.name))
    return pool


def open_realm(name: str, *, differs: Differs = refuse, report: Report = silent) -> RemoteHouse:
    """Open the cache house of a realm that was joined.

    `differs` is called with a sentence when its servers show less than was seen of them; unless it raises (as it does
    by default: Refused) the work goes on, and nothing is remembered of that.
    """
    profile = read_profile(name)
    realm = read_profile_realm(profile)
    nearness = open_nearness(name)
    newer_key = NewerKey(key_path_of(name), realm, report=report)
    servers = client_servers(profile, nearness, realm=realm, newer_key=newer_key, report=report)
    pool = newer_key.pool = open_cache_pool(profile, realm)
    source = NearestSource(realm, site=servers.site, nearness=nearness, ticks=ticks_ns)
    pool.elsewhere = source
    workers = Workers(max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0)))))
    signer = OwnSigner(name=author(), report=report)
    volumes = RealmVolumes(
        pool,
        servers,
        source,
        nearness,
        realm_name=name,
        merge=merge_heads,
        workers=workers,
        report=report,
        cache_bytes_max=profile.cache_bytes_max,
        directories=Directories(name),
        sign=signer.sign,
        known=KnownPlace(f"realm {realm.realm_id.hex()}", report=report),
        differs=differs,
    )
    return RemoteHouse(
        pool=pool,
        volumes=volumes,
        signer=signer,
        cache_dir=cache_dir(pool),
        report=report,
        workers=workers,
        realm_name=name,
        realm_volumes=volumes,
    )


def open_member(house: House, *, url: str | None = None, name: str | None = None) -> Any:
    """Return the part (a Member) that the server over a house's pool has in its realm, or None."""
    # A client never loads what speaks to databases.
    return import_module("dalsegno.replicas.member").Member.open(house.pool, url=url, name=name)


def member_servers(member: Any, *, local: Site | None) -> Servers:
    """Return a realm's servers as one of them sees them; `local` is itself."""

    def connect(server: Server, token: str) -> Site:
        return RemoteSite(server.url, token, name=server.name, fingerprint=server.fingerprint)

    servers: Servers = member.servers(connect=connect, owner=lease_owner(), local=local)
    return servers


def merge_heads(source: Source, sink: Sink, a: bytes, b: bytes) -> bytes:
    """Merge two heads; only who finds replicas that diverged loads what does it."""
    merged: bytes = import_module("dalsegno.volumes.resolve").merge_heads(source, sink, a, b)
    return merged
