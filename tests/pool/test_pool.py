"""The pool keeps what it acknowledged: killed anywhere, on a full disk, used by several processes."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from dalsegno.backends.contract import Backend
from dalsegno.pool import pool as pool_room
from dalsegno.pool.check import check_pool
from dalsegno.pool.collect import collect
from dalsegno.pool.holders import change_holders, passphrase_holder, with_holder
from dalsegno.pool.keys import read_realm
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import Holder, KdfCost, PoolSettings, encode_settings
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    Damaged,
    Full,
    Lost,
    NoAccess,
    NotFound,
    Refused,
    TooNew,
)
from dalsegno.terms.events import silent
from dalsegno.world import files
from kit import REALM

CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Pool.create(tmp_path / "pool", encryption="none"):
        return tmp_path / "pool"


@pytest.fixture
def made(place: Backend) -> Backend:
    """A place with a pool."""
    Pool.create(place, encryption="none").close()
    return place


def payloads(seed: int, count: int = 30) -> list[bytes]:
    return [b"%d/%d " % (seed, number) * (1 + number % 7) for number in range(count)]


def store(pool: Pool, seed: int, ref: str | None = None) -> list[bytes]:
    with pool.writer() as writer:
        ids = [writer.put(1, payload) for payload in payloads(seed)]
        writer.flush()
        writer.commit_guard()
        if ref is not None:
            assert pool.swap_ref(ref, None, b"".join(ids))
    return list(ids)


def assert_good(path: Path | Backend) -> None:
    """Everything that a ref names is readable, no half file has a final name, and the next write works."""
    with Pool.open(path) as pool:
        assert [finding for finding in check_pool(pool, silent) if finding.severity == "error"] == []
        for name in pool.list_refs():
            value = pool.get_ref(name)
            assert value is not None
            seed = int(name.rpartition("/")[2])
            found = [pool.get(value[at : at + 32]) for at in range(0, len(value), 32)]  # type: ignore[arg-type]
            assert found == payloads(seed)
        ids = store(pool, 999)
        assert [pool.get(identity) for identity in ids] == payloads(999)  # type: ignore[arg-type]


def in_child(action: Callable[[], None], fault: str) -> int:
    """Run `action` in a child process under a fault; return 0, its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            files._steps_taken = 0
            os.environ["DAL_FAULT"] = fault
            action()
            code = 0
        except Full:
            code = 10
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_was_put_is_got(made: Backend) -> None:
    with Pool.open(made) as pool:
        ids = store(pool, 1)
        assert [pool.get(identity) for identity in ids] == payloads(1)  # type: ignore[arg-type]
        assert pool.find_prefix(ids[0].hex()[:20]) == [ids[0]] and pool.find_prefix(ids[0].hex()) == [ids[0]]
        with pytest.raises(NotFound):
            pool.get(bytes(32))  # type: ignore[arg-type]
        with pytest.raises(BadInput):
            pool.find_prefix("xyz")
        with pool.writer() as writer:
            assert [writer.put(1, payload) for payload in payloads(1)] == ids
            assert writer.objects_added == 0


def test_a_pool_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for encryption in ("none", "keyfile"):
            path = tmp_path / encryption
            Pool.create(path, encryption=encryption, key_path=tmp_path / "key").close()
            assert path.stat().st_mode & 0o7777 == 0o750
        shared = tmp_path / "shared"
        shared.mkdir(mode=0o2770)
        Pool.create(shared, encryption="none").close()
        assert shared.stat().st_mode & 0o777 == 0o770
    finally:
        os.umask(before)


def test_aborted_writer_leaves_nothing(made: Backend) -> None:
    with Pool.open(made) as pool:
        with pytest.raises(KeyError), pool.writer() as writer:
            writer.put(1, b"x")
            raise KeyError
        assert list(made.list("packs/")) == []
        if made.directory is not None:
            assert [child for child in (made.directory / "packs").rglob("*") if child.is_file()] == []


def commit_one(path: Path) -> None:
    with Pool.open(path) as pool:
        store(pool, 2, "volumes/2")


def test_kill_at_every_step_loses_nothing_acknowledged(path: Path, tmp_path: Path) -> None:
    with Pool.open(path) as pool:
        store(pool, 1, "volumes/1")
    step, code = 0, -1
    while code:
        step += 1
        copy = tmp_path / f"copy{step}"
        shutil.copytree(path, copy)
        code = in_child(lambda copy=copy: commit_one(copy), f"kill:{step}")  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL)
        assert_good(copy)
    with Pool.open(copy) as pool:
        assert list(pool.list_refs()) == ["volumes/1", "volumes/2"]
    assert step > 10


def test_full_disk_at_every_step_is_refused_cleanly(path: Path, tmp_path: Path) -> None:
    with Pool.open(path) as pool:
        store(pool, 1, "volumes/1")
    step, code = 0, -1
    while code:
        step += 1
        copy = tmp_path / f"copy{step}"
        shutil.copytree(path, copy)
        code = in_child(lambda copy=copy: commit_one(copy), f"full:{step}")  # type: ignore[misc]
        assert code in (0, 10)
        assert list(copy.rglob("*.partial")) == []
        assert_good(copy)
    assert step > 10


def test_killed_collection_goes_on(path: Path, tmp_path: Path) -> None:
    with Pool.open(path) as pool:
        dead = store(pool, 1)
        live = store(pool, 2, "volumes/2")
        with pool.writer() as writer:
            mixed = [writer.put(1, payload) for payload in payloads(3)]
    live += mixed[:5]

    def run(copy: Path) -> None:
        with Pool.open(copy) as pool:
            collect(pool, lambda: live, grace_seconds=0, now_ns=2**62, dry_run=False, report=silent)

    step, code = 0, -1
    while code:
        step += 1
        copy = tmp_path / f"copy{step}"
        shutil.copytree(path, copy)
        code = in_child(lambda copy=copy: run(copy), f"kill:{step}")  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL)
        assert_good(copy)
        run(copy)
        with Pool.open(copy) as pool:
            assert [pool.get(identity) for identity in mixed[:5]] == payloads(3)[:5]
            assert not any(pool.has(identity) for identity in dead)  # type: ignore[arg-type]
            assert not any(pool.has(identity) for identity in mixed[5:])
        assert_good(copy)
    assert step > 8


def write_in_process(path: Path, number: int, won: "multiprocessing.Queue[int]") -> None:
    with Pool.open(path) as pool:
        for turn in range(5):
            store(pool, number * 100 + turn, f"volumes/{number * 100 + turn}")
        store(pool, 7)
        if pool.swap_ref("names/race", None, b"%d" % number):
            won.put(number)


def test_four_processes_write_at_once(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    crew = [context.Process(target=write_in_process, args=(path, number, won)) for number in range(4)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
        assert process.exitcode == 0
    winner = won.get(timeout=5)
    assert won.empty()
    with Pool.open(path) as pool:
        assert pool.get_ref("names/race") == b"%d" % winner
        assert pool.swap_ref("names/race", b"%d" % winner, None)
        assert len(list(pool.list_refs("volumes/"))) == 20
    assert_good(path)


@pytest.mark.parametrize("harm", ["lost", "torn", "empty", "flipped", "garbage"])
def test_harmed_index_is_made_again(made: Backend, harm: str) -> None:
    with Pool.open(made) as pool:
        ids = store(pool, 1, "volumes/1")
    for segment in made.scratch("index").glob("*.idx"):
        data = segment.read_bytes()
        if harm == "lost":
            segment.unlink()
        else:
            middle = len(data) // 2
            flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            new = {"torn": data[:middle], "empty": b"", "flipped": flipped, "garbage": b"x" * 500}[harm]
            segment.unlink()
            segment.write_bytes(new)
    with Pool.open(made) as pool:
        assert all(pool.has(identity) for identity in ids)  # type: ignore[arg-type]
    assert_good(made)


def test_damaged_pack_is_named_and_the_other_copy_used(made: Backend) -> None:
    with Pool.open(made) as pool:
        ids = store(pool, 1)
    (pack,) = made.list("packs/")
    harmed = bytearray(made.read(pack))
    harmed[300] ^= 1
    made.put(pack, bytes(harmed))
    with Pool.open(made) as pool:
        with pytest.raises(Damaged, match=pack):
            for identity in ids:
                pool.get(identity)  # type: ignore[arg-type]
        assert any(pack in finding.where for finding in check_pool(pool, silent))
        with pool.writer() as writer:
            for identity, payload in zip(ids, payloads(1), strict=True):
                writer.store_copy(1, identity, payload)  # type: ignore[arg-type]
        assert [pool.get(identity) for identity in ids] == payloads(1)  # type: ignore[arg-type]


def test_passphrase_opens_and_a_wrong_one_does_not(place: Backend) -> None:
    with Pool.create(place, encryption="passphrase", passphrase="swordfish", cost=CHEAP) as pool:
        ids = store(pool, 1)
    with Pool.open(place, passphrase=lambda: "swordfish") as pool:
        assert pool.get(ids[0]) == payloads(1)[0]  # type: ignore[arg-type]
    with pytest.raises(NoAccess):
        Pool.open(place, passphrase=lambda: "sword")
    with pytest.raises(NoAccess):
        Pool.open(place)


def test_key_file_is_private_and_needed(place: Backend, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "k.key"
    path = place
    with Pool.create(path, encryption="keyfile", key_path=key) as pool:
        ids = store(pool, 1)
    assert key.stat().st_mode & 0o777 == 0o600
    key.rename(tmp_path / "elsewhere")
    with pytest.raises(NoAccess, match=str(key)):
        Pool.open(path, key_path=key)
    with Pool.open(path, key_path=tmp_path / "elsewhere") as pool:
        assert pool.get(ids[0]) == payloads(1)[0]  # type: ignore[arg-type]
    with pytest.raises(NoAccess), Pool.create(tmp_path / "q", encryption="keyfile", key_path=key):
        Pool.open(path, key_path=key)


def test_pools_of_one_realm_agree_on_ids(tmp_path: Path) -> None:
    with (
        Pool.create(tmp_path / "a", encryption="none") as first,
        Pool.create(tmp_path / "b", encryption="none", realm=first.realm) as second,
    ):
        assert store(first, 1) == store(second, 1) and first.pool_id != second.pool_id


def test_create_refuses_what_is_there(tmp_path: Path, path: Path) -> None:
    with pytest.raises(AlreadyThere):
        Pool.create(path, encryption="none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(Refused):
        Pool.create(tmp_path / "full", encryption="none")
    with pytest.raises(NotFound):
        Pool.open(tmp_path / "full")


def test_tampered_settings_are_damaged_or_too_new(made: Backend) -> None:
    good = made.read("pool.toml")
    odd = good.replace(b'secret = "', b'secret = "0')
    for bad in (b"", b"\xff\xfe", b"version = ", odd, good[:-30], b"a" * 99999):
        made.put("pool.toml", bad)
        with pytest.raises(Damaged) as caught:
            Pool.open(made)
        assert "\n" not in str(caught.value)
    for position in range(110, len(good), 7):
        made.put("pool.toml", good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises((Damaged, TooNew)):
            Pool.open(made)
    made.put("pool.toml", good.replace(b"version = 1", b"version = 4"))
    with pytest.raises(TooNew):
        Pool.open(made)


@pytest.mark.parametrize(
    ("right", "forged"),
    [
        ("kdf_memory_kib = 64", "kdf_memory_kib = inf"),
        ("kdf_passes = 1", "kdf_passes = [1]"),
        ("kdf_lanes = 1", "kdf_lanes = nan"),
        (f'kdf_salt = "{bytes(16).hex()}"', 'kdf_salt = ""'),
        (f'kdf_salt = "{bytes(16).hex()}"', f'kdf_salt = "{bytes(4000).hex()}"'),
        (f'wrapped_secret = "{bytes(60).hex()}"', 'wrapped_secret = "00"'),
    ],
)
def test_settings_of_odd_values_are_damaged_although_the_checksum_is_right(path: Path, right: str, forged: str) -> None:
    """Kind of fault: a checksum tells what was damaged; who made the file may have written anything."""
    settings = PoolSettings(
        pool_id=bytes(16),
        realm_id=bytes(16),
        holders=(Holder(name="passphrase", kind="passphrase", cost=CHEAP, salt=bytes(16), wrapped_secret=bytes(60)),),
    )
    body = "".join(encode_settings(settings).decode().replace(right, forged).splitlines(keepends=True)[1:-1])
    (path / "pool.toml").write_text(f'{body}checksum = "{blake3(body.encode()).hexdigest(16)}"\n')
    with pytest.raises((Damaged, NoAccess)):
        Pool.open(path, passphrase=lambda: "x")


@pytest.mark.parametrize(
    ("id_key", "seed", "secret"),
    [
        (bytes(5), "5", bytes(32)),
        (bytes(32), "-5", bytes(32)),
        (bytes(32), "f" * 16, bytes(32)),
        (bytes(32), "5", bytes(3)),
    ],
)
def test_a_write_key_of_odd_values_is_said_when_it_is_read(
    tmp_path: Path, id_key: bytes, seed: str, secret: bytes
) -> None:
    """Kind of fault: a key that is taken, and ends in a traceback when something is to be named with it."""
    words = ["dalsegno-write-key-1", REALM.realm_id.hex(), id_key.hex(), seed, REALM.recipient, secret.hex()]
    text = " ".join(words)
    (tmp_path / "key").write_text(f"{text} {blake3(text.encode()).hexdigest(16)}\n")
    with pytest.raises(NoAccess, match="damaged"):
        read_realm(tmp_path / "key")


def test_moved_or_flipped_ref_is_damaged(made: Backend) -> None:
    with Pool.open(made) as pool:
        assert pool.swap_ref("volumes/1", None, b"one") and pool.swap_ref("volumes/2", None, b"two")
        one = made.read("refs/volumes/1")
        made.put("refs/volumes/2", one)
        made.put("refs/volumes/1", one[:-1] + bytes([one[-1] ^ 1]))
        for name in ("volumes/1", "volumes/2"):
            with pytest.raises(Damaged):
                pool.get_ref(name)


@pytest.mark.parametrize(
    ("memory_kib", "passes", "lanes"),
    [
        (4 << 20, 1, 1),
        ((1 << 20) + 1, 1, 1),
        (1 << 20, 16, 1),
        (1024, 17, 1),
        (1024, 1, 17),
        (1 << 20, 5, 4),
        (0, 1, 1),
    ],
)
def test_a_forged_pool_file_costs_seconds_at_most(tmp_path, memory_kib, passes, lanes):
    """Kind of fault: whoever writes the settings says how long everybody who opens them works."""
    path = tmp_path / "pool"
    Pool.create(path, encryption="passphrase", passphrase="x", cost=CHEAP).close()
    holder = Holder(
        name="passphrase",
        kind="passphrase",
        cost=KdfCost(memory_kib=memory_kib, passes=passes, lanes=lanes),
        salt=bytes(16),
        wrapped_secret=bytes(60),
    )
    forged = PoolSettings(pool_id=bytes(16), realm_id=bytes(16), holders=(holder,))
    (path / "pool.toml").write_bytes(encode_settings(forged))
    asked = []
    with pytest.raises(Damaged, match="out of bounds"):
        Pool.open(path, passphrase=lambda: asked.append(1) or "x")
    assert not asked
    assert KdfCost().is_sane() and KdfCost(memory_kib=1 << 20, passes=4, lanes=4).is_sane()


def test_a_pool_whose_packs_are_gone_says_so_and_one_that_lost_a_pack_goes_on(made: Backend) -> None:
    """A disk that is not mounted looks like a pool that lost everything."""
    with Pool.open(made) as pool:
        ids = store(pool, 1)
        store(pool, 2)
        lost = pool.index.pack_of(ids[0])
        assert lost is not None
        made.delete(pool_room.pack_name(lost))
    with Pool.open(made) as pool:
        assert pool.losses.notes.packs[lost].lost
        with pytest.raises(Lost, match="lacks 1 pack lost"):
            pool.get(ids[0])
        assert store(pool, 1) == ids and pool.get(ids[0]) == payloads(1)[0]


def test_a_pool_is_made_only_where_nothing_else_is(place: Backend) -> None:
    Pool.create(place, encryption="none").close()
    with pytest.raises(AlreadyThere):
        Pool.create(place, encryption="none")
    settings = place.read("pool.toml")
    with Pool.open(place) as pool:
        store(pool, 1)
    place.delete("pool.toml")
    with pytest.raises(Damaged, match="packs without"):
        Pool.create(place, encryption="none")
    with pytest.raises(Damaged, match="put back your copy"):
        Pool.open(place)
    place.create("pool.toml", settings)
    Pool.open(place).close()


def test_writers_share_a_pool_and_a_collection_without_grace_waits_for_none(made: Backend) -> None:
    with Pool.open(made) as one, Pool.open(made) as other, one.writer() as first, other.writer() as second:
        assert first.put(1, b"same") == second.put(1, b"same")
        with pytest.raises(Conflict, match="a writer is at work"):
            collect(one, list, grace_seconds=0, now_ns=2**62, dry_run=False, report=silent)
    with Pool.open(made) as pool:
        result = collect(pool, list, grace_seconds=0, now_ns=2**62, dry_run=False, report=silent)
        assert result.deleted == 2 and list(made.list("packs/")) == []


def test_a_holder_that_was_added_opens_the_pool(place: Backend) -> None:
    with Pool.create(place, encryption="passphrase", passphrase="one", cost=CHEAP) as pool:
        ids = store(pool, 1)
        two = passphrase_holder("two", name="two", secret=pool.realm.secret, pool_id=pool.pool_id, cost=CHEAP)
        change_holders(place, pool.realm, lambda settings: with_holder(settings, two))
    for words in ("one", "two"):
        with Pool.open(place, passphrase=lambda words=words: words) as pool:
            assert pool.get(ids[0]) == payloads(1)[0]
    assert [name for name in place.list("") if "/" not in name and name != "reserve"] == ["pool.toml"]
