"""A volume whose head is of a far future takes commits again after it was reopened, and nothing of it is lost."""

import msgspec
import pytest

from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import Refused
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.read import read_revision
from dalsegno.volumes.dates import AHEAD_NS_MAX, require_past
from dalsegno.volumes.reopen import reopen
from dalsegno.volumes.store import Volumes
from kit import store_revision

NOW_NS = 1_800_000_000 * SECOND_NS
END_NS = (1 << 62) - 1


@pytest.mark.parametrize(
    ("at_ns", "is_right"),
    [(0, True), (1, True), (NOW_NS, True), (NOW_NS + AHEAD_NS_MAX, True), (NOW_NS + AHEAD_NS_MAX + 1, False)]
    + [(at_ns, False) for at_ns in (-1, END_NS, 2**63 - 1, 2**64 - 1, -(2**63))],
)
def test_the_past_is_right_and_the_future_is_not(at_ns: int, is_right: bool) -> None:
    if is_right:
        require_past("revision", at_ns, now_ns=NOW_NS)
        return
    with pytest.raises(Refused, match="cannot be right"):
        require_past("revision", at_ns, now_ns=NOW_NS)


def commit(pool: Pool, volumes: Volumes, model: dict, at_ns: int) -> bytes:
    state = volumes.get("home")
    with pool.writer() as writer:
        parents = (state.head,) if state.head else ()
        identity = store_revision(writer, model, parents=parents, created_ns=at_ns)
        revision = msgspec.structs.replace(read_revision_of(pool, writer, identity), volume=state.id)
        return volumes.commit_revision(writer, state, revision)[1]


def read_revision_of(pool: Pool, writer, identity: bytes):
    writer.flush()
    return read_revision(pool, identity)


@pytest.fixture
def pool(tmp_path):
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        Volumes(pool).create("home", kind="native", now_ns=1)
        yield pool


def test_an_ended_volume_goes_on_with_the_files_that_it_has(pool: Pool) -> None:
    volumes = Volumes(pool)
    good = commit(pool, volumes, {b"a": b"1"}, NOW_NS - SECOND_NS)
    commit(pool, volumes, {b"a": b"2"}, END_NS)
    ended = commit(pool, volumes, {b"a": b"3"}, NOW_NS)  # it, too, is of the future: it must be later than its parent
    assert read_revision(pool, ended).created_ns == END_NS + 1
    state = reopen(pool, volumes, "home", now_ns=NOW_NS)
    made = read_revision(pool, state.head)
    assert (made.parents, made.created_ns, made.volume) == ([good], NOW_NS, state.id)
    assert made.root == read_revision(pool, ended).root and not state.clones
    after = commit(pool, volumes, {b"a": b"4"}, NOW_NS + 1)
    assert read_revision(pool, after).created_ns == NOW_NS + 1
    with pytest.raises(Refused, match="not ended"):
        reopen(pool, volumes, "home", now_ns=NOW_NS)


def test_an_ended_volume_goes_on_with_the_files_of_a_clone_and_keeps_the_head(pool: Pool) -> None:
    volumes = Volumes(pool)
    good = commit(pool, volumes, {b"a": b"1"}, NOW_NS - SECOND_NS)
    volumes.add_clone("home", "good", now_ns=NOW_NS)
    ended = commit(pool, volumes, {}, END_NS)
    volumes.update(volumes.get("home").id, lambda state: msgspec.structs.replace(state, common=ended))
    state = reopen(pool, volumes, "home", content=good, now_ns=NOW_NS)
    assert read_revision(pool, state.head).root == read_revision(pool, good).root
    (kept,) = state.clones.keys() - {"good"}
    assert kept.startswith("before-reopening-") and state.clones[kept].revision == ended and state.common == b""


def test_a_volume_that_never_had_a_right_time_is_reopened_too(pool: Pool) -> None:
    volumes = Volumes(pool)
    commit(pool, volumes, {b"a": b"1"}, END_NS)
    assert read_revision(pool, reopen(pool, volumes, "home", now_ns=NOW_NS).head).parents == []
