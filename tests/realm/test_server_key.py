"""What a server keeps for itself opens neither with the realm's key, which every client gets, nor with a copy of its pool."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dalsegno.chunks.realm import SECRET_BYTES, Realm
from dalsegno.pool.pool import Pool
from dalsegno.replicas.server_key import (
    find_server_values,
    key_path_of,
    open_server_values,
    renew_server_values,
)
from dalsegno.replicas.tokens import ADMINISTER, READ, PoolTokens, Token, check_token, new_token
from dalsegno.server.tls import own_certificate
from dalsegno.terms.errors import Damaged, NoAccess
from kit import REALM

VALUES = ("tls", "peer", "realm", "address")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with Pool.create(tmp_path / "pool", encryption="none", realm=REALM) as pool:
        yield pool


def copy_of(pool: Pool, to: Path) -> Pool:
    """Return a copy of a pool's files, opened by somebody who has the realm's key."""
    shutil.copytree(pool.backend.directory, to)
    return Pool.open(to)


def forget_key(pool: Pool) -> None:
    """Be somebody who has not the server's key."""
    key_path_of(pool).rename(key_path_of(pool).with_suffix(".away"))


def test_a_copy_of_the_pool_with_the_realms_key_gives_none_of_a_servers_secrets(pool: Pool, tmp_path: Path) -> None:
    """Kind of fault: a secret of the server under a key that is handed out."""
    own = own_certificate(pool, name="s1", host="s1", now_ns=1)
    values = open_server_values(pool)
    for name in ("peer", "realm", "address"):
        assert values.swap(name, None, b"secret of " + name.encode())
    token, _ = new_token(rights=[ADMINISTER], volumes=["*"], now_ns=1)
    PoolTokens(pool).add(token)
    with copy_of(pool, tmp_path / "copy") as copied:
        assert list(copied.list_refs()) == []
        for name in copied.backend.list("server/"):
            sealed = copied.backend.read(name)
            own_name = name.removeprefix("server/").encode()
            for context in (b"dalsegno server value 1\0" + copied.pool_id + own_name, name.encode(), own_name):
                with pytest.raises(Damaged):
                    copied.realm.open_value(sealed, context=context)
        forget_key(pool)
        for attack in (find_server_values, open_server_values, PoolTokens):
            with pytest.raises(NoAccess, match="not there"):
                attack(copied)
        # With a key of his own instead, and a realm's key made to fit: nothing opens.
        mark = copied.backend.directory / "server/key"
        mark.unlink()
        guessed = open_server_values(copied)
        for name in VALUES:
            if copied.backend.directory.joinpath("server", name).exists():
                with pytest.raises(Damaged):
                    guessed.get(name)
        forget_key(copied)
        assert own.key not in b"".join(
            path.read_bytes() for path in pool.backend.directory.rglob("*") if path.is_file()
        )


def test_a_token_that_was_made_with_the_realms_key_opens_nothing(pool: Pool) -> None:
    """Kind of fault: a record that any member of the realm can write is believed."""
    tokens = PoolTokens(pool)
    forged, text = new_token(rights=[ADMINISTER], volumes=["*"], now_ns=1)
    data = msgspec.msgpack.encode(forged)
    pool.swap_ref(f"tokens/{forged.id}", None, data)
    assert check_token(text, [tokens, PoolTokens(pool)], now_ns=2) is None
    context = b"dalsegno server value 1\0" + pool.pool_id + f"tokens/{forged.id}".encode()
    sealed = Realm(REALM.secret).seal_value(data, context=context)
    (pool.backend.directory / "server/tokens").mkdir()
    (pool.backend.directory / "server/tokens" / forged.id).write_bytes(sealed)
    with pytest.raises(Damaged):
        check_token(text, [tokens], now_ns=2)


def test_a_servers_token_opens_no_other_server_of_the_realm(pool: Pool, tmp_path: Path) -> None:
    """Kind of fault: a record that is right in one place is carried to another."""
    token, text = new_token(rights=[ADMINISTER], volumes=["*"], now_ns=1)
    PoolTokens(pool).add(token)
    with Pool.create(tmp_path / "other", encryption="none", realm=REALM) as other:
        tokens = PoolTokens(other)
        (other.backend.directory / "server/tokens").mkdir()
        shutil.copy(pool.backend.directory / "server/tokens" / token.id, other.backend.directory / "server/tokens")
        with pytest.raises(Damaged):
            check_token(text, [tokens], now_ns=2)


def test_a_revoked_token_stays_revoked_when_its_record_is_put_back(pool: Pool) -> None:
    """Kind of fault: an older copy of a file undoes what was taken away."""
    token, text = new_token(rights=[ADMINISTER], volumes=["*"], now_ns=1)
    tokens = PoolTokens(pool)
    tokens.add(token)
    path = pool.backend.directory / "server/tokens" / token.id
    record = path.read_bytes()
    tokens.revoke(token.id)
    path.write_bytes(record)
    for store in (tokens, PoolTokens(pool)):
        assert check_token(text, [store], now_ns=2) is None and store.all() == []


def old_server(pool: Pool) -> tuple[Token, str]:
    """Leave what an older server kept under the realm's key; return a token of it, and its text."""
    token, text = new_token(rights=[READ], volumes=["*"], now_ns=1)
    for name, value in {
        "server/tls": b"certificate and key",
        "server/address": b"address",
        "realm": b"membership",
        "realm-peer": b"dal_old",
        f"tokens/{token.id}": msgspec.msgpack.encode(token),
        f"tokens-used/{token.id}": (5).to_bytes(8, "little"),
    }.items():
        assert pool.swap_ref(name, None, value)
    return token, text


def test_what_an_older_server_kept_is_taken_over_once(pool: Pool) -> None:
    """Kind of fault: the old door stays open beside the new one."""
    token, text = old_server(pool)
    old = {name: (pool.backend.directory / "refs" / name).read_bytes() for name in pool.list_refs()}
    values = find_server_values(pool)
    assert values is not None
    assert [values.get(name) for name in ("tls", "address", "realm", "peer")] == [
        b"certificate and key",
        b"address",
        b"membership",
        None,  # whoever has a copy of the pool has it: another one is made
    ]
    assert check_token(text, [PoolTokens(pool)], now_ns=9) is not None and PoolTokens(pool).all()[0].used_ns == 5
    assert list(pool.list_refs()) == []
    # An older copy of the pool's files, put back: none of it is believed any more.
    PoolTokens(pool).revoke(token.id)
    for name, data in old.items():
        path = pool.backend.directory / "refs" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(data)
    assert check_token(text, [PoolTokens(pool)], now_ns=9) is None
    forged, forged_text = new_token(rights=[ADMINISTER], volumes=["*"], now_ns=1)
    pool.swap_ref(f"tokens/{forged.id}", None, msgspec.msgpack.encode(forged))
    assert check_token(forged_text, [PoolTokens(pool)], now_ns=9) is None


def test_a_take_over_that_was_cut_off_goes_on(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = old_server(pool)
    swap = Pool.swap_ref
    left = 0

    def limited(self: Pool, name: str, expected: bytes | None, value: bytes | None) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return swap(self, name, expected, value)

    for count in range(7):
        left = count
        monkeypatch.setattr(Pool, "swap_ref", limited)
        try:
            open_server_values(pool)
        except KeyboardInterrupt:
            monkeypatch.setattr(Pool, "swap_ref", swap)
            continue
    monkeypatch.setattr(Pool, "swap_ref", swap)
    values = open_server_values(pool)
    assert values.get("tls") == b"certificate and key" and list(pool.list_refs()) == []
    assert check_token(text, [PoolTokens(pool)], now_ns=9) is not None


def test_the_key_is_its_owners_alone_and_outside_of_the_pool(pool: Pool) -> None:
    assert find_server_values(pool) is None and not key_path_of(pool).exists()
    open_server_values(pool)
    path = key_path_of(pool)
    assert path.stat().st_mode & 0o777 == 0o600 and not path.is_relative_to(pool.backend.directory)
    path.chmod(0o640)
    with pytest.raises(NoAccess, match="chmod 600"):
        open_server_values(pool)


def test_a_key_file_in_the_pool_does_not_take_the_servers_key_in(tmp_path: Path) -> None:
    """Kind of fault: a key beside what it opens."""
    made = Pool.create(tmp_path / "pool", encryption="keyfile", key_path=tmp_path / "keys" / "pool.key")
    made.close()
    inside = tmp_path / "pool" / "pool.key"
    os.rename(tmp_path / "keys" / "pool.key", inside)
    with Pool.open(tmp_path / "pool", key_path=inside) as pool:
        assert not key_path_of(pool).is_relative_to(tmp_path / "pool")


def test_another_identity_keeps_the_tokens_and_nothing_that_somebody_may_have(pool: Pool) -> None:
    token, text = new_token(rights=[READ], volumes=["*"], now_ns=1)
    PoolTokens(pool).add(token)
    values = open_server_values(pool)
    for name in VALUES:
        values.swap(name, None, name.encode())
    old = (pool.backend.directory / "server/tls").read_bytes()
    values = renew_server_values(pool)
    assert [values.get(name) for name in VALUES] == [None, None, b"realm", None]
    assert check_token(text, [PoolTokens(pool)], now_ns=2) is not None
    (pool.backend.directory / "server/tls").write_bytes(old)
    with pytest.raises(Damaged):
        values.get("tls")
    # The key is lost: what it opened is, too, and the server begins anew when told to.
    forget_key(pool)
    with pytest.raises(NoAccess, match="--new-identity"):
        open_server_values(pool)
    values = renew_server_values(pool)
    assert values.get("realm") is None and PoolTokens(pool).all() == []
    assert len(bytes.fromhex(key_path_of(pool).read_text().split()[-2])) == SECRET_BYTES
