"""A pool whose key is changed while it is used, and what somebody can do who kept an older secret of it."""

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dalsegno.backends.local import LocalBackend
from dalsegno.chunks.realm import SECRET_BYTES, Realm, WriteKey
from dalsegno.chunks.recipients import age_recipient, read_identity
from dalsegno.formats import pack
from dalsegno.formats.objects import KIND_CHUNK
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.generations import change_key, finish_change, new_secret_after, realm_of, seal_older
from dalsegno.pool.holders import change_holders, open_by_identity, recipient_holder, renewed_holders
from dalsegno.pool.keys import read_key, renew_key_file, write_key_file
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import GENERATIONS_MAX, decode_settings, encode_settings, read_settings
from dalsegno.terms.errors import Conflict, Damaged, Full, NoAccess, Refused

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_settings import IDENTITY, NEWER, POOL_ID, SECRET  # noqa: E402


@pytest.fixture
def pool(tmp_path):
    with Pool.create(tmp_path / "pool", encryption="keyfile", key_path=tmp_path / "own.key") as made:
        yield made


def put(pool: Pool, data: bytes, ref: str = "volumes/one") -> bytes:
    with pool.writer() as writer:
        identity = writer.put(KIND_CHUNK, data)
        writer.flush()
        writer.commit_guard()
        assert pool.swap_ref(ref, pool.get_ref(ref), identity)
    return identity


def rotate(path: Path, key: Path) -> Realm:
    """Change the key, as another process does; return the realm as it was."""
    with Pool.open(path, key_path=key) as other:
        old = other.realm.at(other.realm.generation)

        def prepare(settings):
            new = new_secret_after(other.realm, [])
            renew_key_file(key, new)
            return new, renewed_holders(settings, new, opened_by=None, passphrase=None, has_key_file=True)[0]

        change_key(path, other.realm, now_ns=1, prepare=prepare)
        assert finish_change(other) == []
    return old


def test_settings_of_version_3_are_read_for_ever():
    data = (GOLDEN / "settings-v3.toml").read_bytes()
    settings = decode_settings(data, Path("settings-v3.toml"))
    assert (settings.generation, settings.refs_since, settings.changed_ns) == (3, 2, 1_796_000_000_000_000_000)
    secret, holder = open_by_identity(settings, read_identity(IDENTITY))
    realm = realm_of(settings, secret)
    assert holder.name == "anna" and realm is not None and realm.secrets == (*reversed(NEWER), SECRET)
    assert realm.realm_id == Realm(SECRET).realm_id and realm.id_key == Realm(SECRET).id_key
    assert settings.is_genuine(secret) and encode_settings(settings, secret) == data
    assert realm_of(settings, SECRET) is None and realm_of(settings, NEWER[0]) is None
    assert realm_of(replace(settings, pool_id=bytes(16)), secret) is None


def test_golden_keys_of_a_changed_realm_are_read(tmp_path):
    realm = read_key(GOLDEN / "key-v2.key", Realm(SECRET).realm_id)
    assert realm.secrets == (*reversed(NEWER), SECRET)
    writes = read_key(GOLDEN / "write-key-v2.key", realm.realm_id)
    assert writes.only_writes and writes.generation == 3 and writes.recipient == realm.recipient
    assert POOL_ID not in (GOLDEN / "key-v2.key").read_bytes()


def test_who_works_in_a_pool_goes_on_when_its_key_is_changed(pool, tmp_path):
    """Kind of fault: a mount or server that was there before writes what nobody can read after."""
    first = put(pool, b"one" * 100)
    old = rotate(pool.backend.directory, tmp_path / "own.key")
    assert pool.get_ref("volumes/one") == first, "sealed anew, and read by who had the older key"
    assert pool.realm.generation == 2
    old = rotate(pool.backend.directory, tmp_path / "own.key")
    second = put(pool, b"two" * 100)
    with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
        assert other.realm.generation == 3
        assert other.get_ref("volumes/one") == second and other.get(second) == b"two" * 100
        assert other.get(first) == b"one" * 100
        assert set(other.measure_generations()) == {1, 3}
    with pytest.raises(Damaged):
        old.open_value((pool.backend.directory / "refs/volumes/one").read_bytes(), context=b"")


def test_who_cannot_get_the_new_key_writes_nothing_any_more(pool, tmp_path):
    first = put(pool, b"one" * 100)
    (tmp_path / "copy.key").write_bytes((tmp_path / "own.key").read_bytes())
    with Pool.open(pool.backend.directory, key_path=tmp_path / "copy.key") as other:
        rotate(pool.backend.directory, tmp_path / "own.key")
        for act in (lambda: put(other, b"two"), lambda: other.swap_ref("volumes/two", None, first)):
            with pytest.raises(Refused, match=r"its key was changed on .* begin again, with the new one"):
                act()
        with pytest.raises(Refused):
            other.get_ref("volumes/one")
        assert other.get(first) == b"one" * 100
    assert pool.get_ref("volumes/two") is None and pool.get_ref("volumes/one") == first


def test_refs_that_change_while_the_key_is_changed_are_read_by_all_afterwards(pool, tmp_path):
    """Kind of fault: a ref that is sealed with the old key between two looks at the settings."""
    put(pool, b"one", ref="volumes/0")
    stop = threading.Event()
    errors = []

    def write(number):
        try:
            with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
                value = b"0"
                assert other.swap_ref(f"volumes/{number}", other.get_ref(f"volumes/{number}"), value)
                while not stop.is_set():
                    assert other.swap_ref(f"volumes/{number}", value, value := value + b"1")
        except BaseException as error:
            errors.append(error)

    def read():
        try:
            with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
                assert other.get_ref("volumes/0")
                crew = [threading.Thread(target=look, args=(other,)) for _ in range(2)]
                for thread in crew:
                    thread.start()
                for thread in crew:
                    thread.join()
        except BaseException as error:
            errors.append(error)

    def look(other):
        try:
            while not stop.is_set():
                other.renew_key()
                other.get_ref("volumes/0")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in (1, 2)] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        rotate(pool.backend.directory, tmp_path / "own.key")
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
        assert other.realm.generation == 5
        assert all(other.get_ref(f"volumes/{number}") for number in range(3))


class ChangedBetween(LocalBackend):
    """A place at which somebody begins to change the key when a ref has been sealed and is about to be written."""

    def swap(self, name, *, expected, value):
        if self.begin is not None:
            begin, self.begin = self.begin, None
            begin()
        return super().swap(name, expected=expected, value=value)


def test_the_key_is_not_changed_between_the_seal_of_a_ref_and_its_writing(pool, tmp_path):
    first = put(pool, b"one")
    done = threading.Event()

    def change():
        rotate(pool.backend.directory, tmp_path / "own.key")
        done.set()

    changer = threading.Thread(target=change)
    backend = ChangedBetween(pool.backend.directory)
    backend.begin = None
    with Pool.open(backend, key_path=tmp_path / "own.key") as other:
        backend.begin = lambda: (changer.start(), done.wait(0.3))  # it waits for us, so we do not wait for its end
        assert other.swap_ref("volumes/one", first, b"two")
    changer.join()
    with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
        assert other.realm.generation == 2 and other.get_ref("volumes/one") == b"two"


class ReadBefore(LocalBackend):
    """A place from which a ref is read just before something happens."""

    begin = None

    def read(self, name, offset=0, length=None):
        data = super().read(name, offset, length)
        if self.begin is not None and name.startswith("refs/"):
            begin, self.begin = self.begin, None
            begin()
        return data


def test_a_ref_that_was_read_before_the_key_was_changed_and_opened_after_it_is_read_again(pool, tmp_path):
    """Kind of fault: one of two threads knows the new key already, and the other holds what the old one sealed."""
    identity = put(pool, b"one")
    backend = ReadBefore(pool.backend.directory)
    with Pool.open(backend, key_path=tmp_path / "own.key") as other:

        def change() -> None:
            rotate(pool.backend.directory, tmp_path / "own.key")
            other.renew_key()  # another thread

        backend.begin = change
        assert other.get_ref("volumes/one") == identity


def test_a_ref_made_with_an_older_secret_is_not_believed(pool, tmp_path):
    """Kind of fault: who had the key once moves a volume's head back, or to what he likes."""
    put(pool, b"one")
    stolen = (pool.backend.directory / "refs/volumes/one").read_bytes()
    old = rotate(pool.backend.directory, tmp_path / "own.key")
    forged = old.seal_value(bytes(32), context=b"dalsegno ref 2\0" + pool.pool_id + b"volumes/one")
    for data in (stolen, forged):
        (pool.backend.directory / "refs/volumes/one").write_bytes(data)
        with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other, pytest.raises(Damaged):
            other.get_ref("volumes/one")


def test_an_object_made_with_an_older_secret_is_believed_by_its_id_only(pool, tmp_path):
    """Kind of fault: who had the key once puts other contents under the id of something that is there."""
    good = b"what was backed up" * 10
    identity = put(pool, good)
    old = rotate(pool.backend.directory, tmp_path / "own.key")
    pieces = []
    header = new_header(old, kind=pack.PACK_POOL, sealed=True)
    with PackWriter(pieces.append, realm=old, header=header) as writer:
        writer.put(KIND_CHUNK, identity, b"what he wants it to be")
        writer.finish()
    (original,) = (pool.backend.directory / "packs").glob("*/*.pack")
    name = header[0].pack_id.hex()
    place = pool.backend.directory / "packs" / name[:2] / f"{name}.pack"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"".join(pieces))
    with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
        assert other.get(identity) == good
    original.unlink()
    with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
        with pytest.raises(Damaged, match="an older key"):
            other.get(identity)
        for dense in (False, True):
            marks = PoolMarks(other)
            assert marks.add(identity)
            new = new_header(other.realm, kind=pack.PACK_DUMP, sealed=True)
            with (
                PackWriter(len, realm=other.realm, header=new, dense=dense) as copy,
                pytest.raises(Damaged, match="another object than its id says"),
            ):
                marks.copy(copy, lambda done, total: None)


def test_a_holder_is_not_let_in_by_who_has_an_older_key(pool, tmp_path):
    old = rotate(pool.backend.directory, tmp_path / "own.key")
    anna = recipient_holder(age_recipient(IDENTITY), name="anna", secret=old.secret)
    with pytest.raises(Conflict, match="changed its key"):
        change_holders(pool.backend, old, lambda settings: (*settings.holders, anna))
    settings = read_settings(pool.backend)
    forged = replace(settings, holders=(*settings.holders, anna), older=seal_older(old, pool.pool_id), generation=2)
    with pytest.raises((Damaged, NoAccess, AssertionError)):
        (pool.backend.directory / "pool.toml").write_bytes(encode_settings(forged, old.secret))
        Pool.open(pool.backend.directory, key_path=tmp_path / "own.key")


def test_two_changes_at_once_leave_one_key_that_all_have(pool, tmp_path):
    put(pool, b"one")
    results = []

    def change():
        try:
            results.append(rotate(pool.backend.directory, tmp_path / "own.key"))
        except Conflict as error:
            results.append(error)

    threads = [threading.Thread(target=change) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    changed = [each for each in results if isinstance(each, Realm)]
    assert changed and len(results) == 3
    with Pool.open(pool.backend.directory, key_path=tmp_path / "own.key") as other:
        assert other.realm.generation == 1 + len(changed) and other.get_ref("volumes/one")


def test_a_key_that_parted_from_the_pools_is_taken_from_nobody():
    realm = Realm(bytes(32), older=[b"1" * 32])
    with pytest.raises(NoAccess, match="does not contain this one"):
        realm.take(Realm(bytes(32), older=[b"2" * 32, b"1" * 32]))
    realm.take(newer := Realm(b"3" * 32, older=realm.secrets))
    assert realm.secrets == newer.secrets
    realm.take(newer)
    writes = WriteKey.of(realm.at(2))
    writes.take(WriteKey.of(newer))
    assert writes.recipient == newer.recipient and writes.generation == 3
    with pytest.raises(NoAccess):
        writes.take(WriteKey.of(Realm(bytes(32))))


def test_a_key_file_is_never_put_back_to_an_older_key(tmp_path):
    realm = Realm(bytes(32), older=[b"1" * 32])
    write_key_file(tmp_path / "key", realm)
    with pytest.raises(NoAccess):
        renew_key_file(tmp_path / "key", Realm(b"1" * 32))
    write_key_file(tmp_path / "key", Realm(b"2" * 32, older=realm.secrets))
    assert read_key(tmp_path / "key", None).generation == 3


def test_a_key_is_not_changed_without_end():
    most = Realm(bytes(32), older=[bytes([number]) * SECRET_BYTES for number in range(GENERATIONS_MAX - 1)])
    with pytest.raises(Full, match="new pool"):
        new_secret_after(most, [])
