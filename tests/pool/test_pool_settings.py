"""Settings of pools: both versions are read for ever; their holders change one after the other, whole."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import age_identity, age_recipient, read_identity
from dalsegno.pool.holders import (
    change_holders,
    open_by_identity,
    open_by_passphrase,
    passphrase_holder,
    recipient_holder,
    with_changed,
    with_holder,
)
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import KdfCost, decode_settings, encode_settings, read_settings
from dalsegno.terms.errors import BadInput, Conflict, Damaged, Full, NoAccess, TooNew

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_settings import CHEAP, IDENTITY, POOL_ID, REALM_ID, SECRET  # noqa: E402


def put(place: Path | Backend, name: str) -> Backend:
    """Return a pool whose settings are golden ones."""
    backend = open_backend(place)
    Pool.create(backend, encryption="none").close()
    backend.put("pool.toml", (GOLDEN / name).read_bytes())
    return backend


def read(name: str):
    return decode_settings((GOLDEN / name).read_bytes(), Path(name))


def test_settings_of_version_1_are_read(place):
    for word in ("passphrase", "keyfile", "none"):
        settings = read(f"settings-v1-{word}.toml")
        assert (settings.pool_id, settings.realm_id, settings.encryption) == (POOL_ID, REALM_ID, word)
        assert encode_settings(settings) == (GOLDEN / f"settings-v1-{word}.toml").read_bytes()
    with Pool.open(put(place, "settings-v1-passphrase.toml"), passphrase=lambda: "golden passphrase") as pool:
        assert pool.realm.secret == SECRET and pool.holder == "passphrase"


def test_settings_of_version_2_are_read(place):
    settings = read("settings-v2.toml")
    assert settings.is_genuine(SECRET) and not settings.is_genuine(bytes(32))
    for name in ("passphrase", "zweite Tür"):
        secret, holder = open_by_passphrase(settings, f"golden {name}")
        assert (secret, holder.name) == (SECRET, name)
    secret, holder = open_by_identity(settings, read_identity(IDENTITY))
    assert (secret, holder.name) == (SECRET, "anna")
    assert encode_settings(settings, SECRET) == (GOLDEN / "settings-v2.toml").read_bytes()
    with Pool.open(put(place, "settings-v2.toml"), passphrase=lambda: "golden zweite Tür", is_sealed=True) as pool:
        assert pool.holder == "zweite Tür" and pool.holders[2].name == "keyfile"


def test_a_version_to_come_is_left_alone():
    text = (GOLDEN / "settings-v2.toml").read_text().replace("version = 2", "version = 4")
    with pytest.raises(TooNew, match="reads 3"):
        decode_settings(text.encode(), Path("pool.toml"))


def test_the_holder_of_version_1_opens_beside_one_that_was_added(place):
    path = put(place, "settings-v1-passphrase.toml")
    new = passphrase_holder("new", name="new", secret=SECRET, pool_id=POOL_ID, cost=CHEAP)
    change_holders(path, Realm(SECRET), lambda settings: with_holder(settings, new))
    for passphrase in ("golden passphrase", "new"):
        Pool.open(path, passphrase=lambda word=passphrase: word).close()
    with pytest.raises(NoAccess, match="wrong passphrase"):
        Pool.open(path, passphrase=lambda: "golden new")


def test_a_holder_of_one_pool_opens_no_other_one_and_under_no_other_name():
    """The attacker copies what he has from one pool's settings into another's."""
    holder = passphrase_holder("x", name="his", secret=SECRET, pool_id=POOL_ID, cost=CHEAP)
    settings = replace(read("settings-v2.toml"), holders=(holder,))
    assert open_by_passphrase(settings, "x") is not None
    for forged in (replace(settings, pool_id=bytes(16)), replace(settings, holders=(replace(holder, name="other"),))):
        assert open_by_passphrase(forged, "x") is None


def test_several_who_change_holders_at_once_exclude_each_other(place):
    """Kind: the last writer undoes what the others did."""
    path = put(place, "settings-v1-keyfile.toml")
    keys = [age_recipient(age_identity(bytes([number]) * 32)) for number in range(8)]
    new = [recipient_holder(key, name=f"holder {number}", secret=SECRET) for number, key in enumerate(keys)]

    def add(holder):
        change_holders(path, Realm(SECRET), lambda settings: with_holder(settings, holder))

    workers = [threading.Thread(target=add, args=(holder,)) for holder in new]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    holders = read_settings(path).holders
    assert {holder.name for holder in holders} == {"keyfile", *(holder.name for holder in new)}
    assert path.directory is None or not list(path.directory.glob("*.partial"))


def test_a_passphrase_that_somebody_else_changed_meanwhile_is_not_changed_again(place):
    path = put(place, "settings-v1-passphrase.toml")
    before = read("settings-v1-passphrase.toml").holders[0]
    first, second = (
        passphrase_holder(word, name="passphrase", secret=SECRET, pool_id=POOL_ID, cost=CHEAP) for word in ("1", "2")
    )
    change_holders(path, Realm(SECRET), lambda settings: with_changed(settings, before, first))
    with pytest.raises(Conflict):
        change_holders(path, Realm(SECRET), lambda settings: with_changed(settings, before, second))
    Pool.open(path, passphrase=lambda: "1").close()


def test_who_has_another_key_changes_nothing(place):
    path = put(place, "settings-v2.toml")
    with pytest.raises(Damaged):
        change_holders(path, Realm(bytes(32)), lambda settings: settings.holders)
    assert path.read("pool.toml") == (GOLDEN / "settings-v2.toml").read_bytes()


def test_more_holders_than_a_reader_takes_are_not_written(place):
    """Kind: a file is written that its own program refuses to read."""
    path = put(place, "settings-v1-keyfile.toml")
    dear = KdfCost(memory_kib=1024 * 1024, passes=4, lanes=4)
    one = passphrase_holder("x", name="x", secret=SECRET, pool_id=POOL_ID, cost=CHEAP)
    for holders in (
        [replace(one, name=f"x{number}") for number in range(65)],
        [replace(one, name=f"x{number}", cost=dear) for number in range(2)],
    ):
        with pytest.raises(Full):
            change_holders(path, Realm(SECRET), lambda settings, holders=holders: holders)
    assert path.read("pool.toml") == (GOLDEN / "settings-v1-keyfile.toml").read_bytes()


@pytest.mark.parametrize("name", ["", " x", "x" * 65, "a\nb", 'a"b', "a\\b", "\u202e", "'"])
def test_a_name_that_would_be_another_line_is_refused(name):
    with pytest.raises(BadInput, match="name"):
        recipient_holder(age_recipient(IDENTITY), name=name, secret=SECRET)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_settings_stay_their_owners_when_root_changes_them(tmp_path):
    """Kind: root's umask shuts out those who could read a file before."""
    path = tmp_path / "pool"
    put(path, "settings-v1-keyfile.toml")
    os.chown(path / "pool.toml", 1234, 4321)
    (path / "pool.toml").chmod(0o640)
    before = os.umask(0o077)
    try:
        holder = recipient_holder(age_recipient(IDENTITY), name="anna", secret=SECRET)
        change_holders(path, Realm(SECRET), lambda settings: with_holder(settings, holder))
    finally:
        os.umask(before)
    status = (path / "pool.toml").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 4321, 0o640)
