"""Write the golden settings of pools. Run once when version 2 was made; its files are read forever."""

from pathlib import Path

from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.pool.holders import key_file_holder, passphrase_holder, recipient_holder
from dalsegno.pool.settings import Holder, KdfCost, PoolSettings, encode_settings

POOL_ID = b"the golden pool."
SECRET = b"the secret of the golden realm.."
REALM_ID = Realm(SECRET).realm_id
IDENTITY = age_identity(b"the identity of the golden realm")
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
        (Path(__file__).parent / name).write_bytes(encode_settings(settings, SECRET))


if __name__ == "__main__":
    main()
