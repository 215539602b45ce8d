"""A server that is killed at any durable step, or whose disk fills up: asked again, it ends where it would have."""

import random
from pathlib import Path
from typing import Any

import pytest

from cli_kit import User
from dalsegno.formats import pack
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import Pool
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.transfer import Spool
from dalsegno.terms.errors import Full, Unavailable
from dalsegno.terms.ids import ObjectId
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, VolumeState
from kit import REALM, DictStore, store_revision
from server_kit import Server, start_server

SEED = random.Random().randrange(10**6)
FILES = {b"one": b"1" * 5000, b"two": random.Random(5).randbytes(80_000)}


def packed(store: DictStore) -> tuple[bytes, bytes]:
    spool = Spool()
    header = new_header(REALM, kind=pack.PACK_POOL, sealed=True)
    with PackWriter(spool.write, realm=REALM, header=header) as writer:
        for identity, (kind, payload) in store.objects.items():
            writer.put(kind, identity, payload)
        writer.finish()
    return header[0].pack_id, spool.read_at(0, spool.size_bytes)


STORE = DictStore()
FIRST = bytes(store_revision(STORE, FILES))
FIRST_UPLOAD, FIRST_DATA = packed(STORE)
STORE_2 = DictStore()
SECOND = bytes(store_revision(STORE_2, {**FILES, b"two": b"2"}, parents=(FIRST,), created_ns=2))
SECOND_UPLOAD, SECOND_DATA = packed(STORE_2)
CLONE = Clone(revision=FIRST, created_ns=1)


def life(site: RemoteSite) -> VolumeState:
    """Do everything once; said again it changes nothing more."""
    site.create(VolumeState(id=bytes(16), name="home", kind=NATIVE, source=b"", created_ns=1))
    there = site.upload_size("home", FIRST_UPLOAD)
    if there < len(FIRST_DATA):
        site.upload("home", FIRST_UPLOAD, there, [FIRST_DATA[there:]])
    site.adopt("home", [FIRST_UPLOAD])
    site.advance("home", FIRST)
    site.clone("home", "daily", CLONE)
    site.freeze("home", owner="me")
    site.thaw("home", owner="me")
    state = site.commit("home", SECOND, SECOND_UPLOAD, [SECOND_DATA], common=SECOND)
    assert b"".join(site.objects("home", FIRST))
    return state


def check(site: RemoteSite) -> None:
    state = site.state("home")
    assert (state.head, state.common, state.clones, state.lease) == (SECOND, SECOND, {"daily": CLONE}, None)
    for identity, (kind, payload) in {**STORE.objects, **STORE_2.objects}.items():
        assert (kind, identity, payload) in site.block("home", ObjectId(identity))


def new_user(home: Path) -> tuple[User, str]:
    user = User(home)
    Pool.create(user.home / "pool", encryption="none", realm=REALM).close()
    with start_server(user) as server:
        return user, server.token("administer")


def site_of(server: Server, token: str) -> Any:
    return server.site(token)


@pytest.mark.parametrize("number", range(10))
def test_a_server_killed_at_a_durable_step_is_asked_again(tmp_path: Path, number: int) -> None:
    user, token = new_user(tmp_path / "home")
    step = random.Random(SEED + number).randrange(8, 75)
    print(f"seed {SEED}, step {step}")
    server = start_server(user, DAL_FAULT=f"kill:{step}")
    try:
        life(server.site(token))
    except Unavailable:
        server.process.wait()
    server.kill()
    with start_server(user) as server:
        state = life(server.site(token))
        assert state.head == SECOND
        check(server.site(token))
    user.quick("verify")


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    user, token = new_user(tmp_path / "home")
    for step in (12, 20, 26, 33, 40, 47, 55):
        with start_server(user, DAL_FAULT=f"full:{step}") as server:
            site = server.site(token)
            with pytest.raises(Full):
                for number in range(100):
                    life(site)
                    site.freeze("home", owner="me", seconds=1 + number)
                    site.thaw("home", owner="me")
            assert site.server().name == "s1"  # it goes on for those who read
            site.states()
    with start_server(user) as server:
        site = server.site(token)
        life(site)
        site.thaw("home", owner="me")
        check(site)
    user.quick("verify")
