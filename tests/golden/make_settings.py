"""Write the golden settings of pools, and keys of version 2. Run once for each version; its files are read forever."""

from pathlib import Path

from dalsegno.chunks.realm import Realm, WriteKey
from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.pool.generations import seal_older
from dalsegno.pool.holders import key_file_holder, passphrase_holder, recipient_holder
from dalsegno.pool.keys import key_file_text
from dalsegno.pool.settings import Holder, KdfCost, PoolSettings, encode_settings

HERE = Path(__file__).parent
POOL_ID = b"the golden pool."
SECRET = b"the secret of the golden realm.."
REALM_ID = Realm(SECRET).realm_id
IDENTITY = age_identity(b"the identity of the golden realm")
NEWER = (b"the second secret of that realm.", b"the third secret of that realm..")
CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)


def golden_passphrase(name: str, *, is_old: bool = False) -> Holder:
    """Return a holder whose passphrase is its name with `golden ` before it."""
    return passphrase_holder(f"golden {name}", name=name, secret=SECRET, pool_id=POOL_ID, cost=CHEAP, is_old=is_old)


def main() -> None:
    """Write the settings of both versions."""
    old = golden_passphrase("passphrase", is_old=True)
    anna = recipient_holder(age_recipient(IDENTITY), name="anna", secret=SECRET)
    files = {
        "settings-v1-passphrase.toml": PoolSettings(pool_id=POOL_ID, realm_id=REALM_ID, holders=(old,)),
        "settings-v1-keyfile.toml": PoolSettings(pool_id=POOL_ID, realm_id=REALM_ID, holders=(key_file_holder(),)),
        "settings-v1-none.toml": PoolSettings(pool_id=POOL_ID, realm_id=REALM_ID, plain_secret=SECRET),
        "settings-v2.toml": PoolSettings(
            pool_id=POOL_ID,
            realm_id=REALM_ID,
            holders=(old, golden_passphrase("zweite Tür"), key_file_holder(), anna),
            version=2,
        ),
    }
    for name, settings in files.items():
        if not (HERE / name).exists():
            (HERE / name).write_bytes(encode_settings(settings, SECRET))
    write_version_3()


def write_version_3() -> None:
    """Write what belongs to a realm whose key was changed twice."""
    realm = Realm(NEWER[1], older=(NEWER[0], SECRET))
    settings = PoolSettings(
        pool_id=POOL_ID,
        realm_id=REALM_ID,
        holders=(key_file_holder(), recipient_holder(age_recipient(IDENTITY), name="anna", secret=realm.secret)),
        version=3,
        generation=3,
        refs_since=2,
        changed_ns=1_796_000_000_000_000_000,
        older=seal_older(realm, POOL_ID),
    )
    (HERE / "settings-v3.toml").write_bytes(encode_settings(settings, realm.secret))
    (HERE / "key-v2.key").write_bytes(key_file_text(realm, {}))
    (HERE / "write-key-v2.key").write_bytes(key_file_text(WriteKey.of(realm), {}))


if __name__ == "__main__":
    main()
