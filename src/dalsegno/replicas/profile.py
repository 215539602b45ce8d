"""What a client keeps of a realm that it joined: its servers, a token, the realm's key. For its owner's eyes only.

~/.config/dalsegno/realms/NAME.json    servers and token, mode 0600
~/.config/dalsegno/realms/NAME.key     the realm's key, as `dal key export` writes it, mode 0600
~/.cache/dalsegno/realms/NAME/         the cache house, which may be lost when no commit waits in it
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from dalsegno.chunks.realm import Realm
from dalsegno.formats import messages
from dalsegno.pool.keys import read_key, read_key_notes, write_key_file
from dalsegno.replicas.view import RealmView, check_realm_name
from dalsegno.terms.errors import AlreadyThere, BadInput, Damaged, NotFound
from dalsegno.terms.sizes import GIB
from dalsegno.world import places
from dalsegno.world.files import file_errors, make_directory, remove_durable, write_durable

VERSION: Final = 1
CACHE_BYTES_MAX_DEFAULT: Final = 10 * GIB
"""What a client's pool of a realm may take before it lets go of what the servers have."""
SUFFIX: Final = ".json"
KEY_SUFFIX: Final = ".key"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A realm as a client knows it."""

    version: int = VERSION
    name: str
    token: str
    view: RealmView
    """The servers and volumes as they were known last."""
    cache_bytes_max: int = CACHE_BYTES_MAX_DEFAULT


def profiles_directory() -> Path:
    """Return where this user's profiles are."""
    return places.config_dir() / "realms"


def cache_directory(name: str) -> Path:
    """Return where what may be lost of a realm is."""
    return places.cache_dir() / "realms" / check_realm_name(name)


def profile_path(name: str) -> Path:
    """Return the file of a profile."""
    return profiles_directory() / (check_realm_name(name) + SUFFIX)


def key_path_of(name: str) -> Path:
    """Return the file of a realm's key."""
    return profiles_directory() / (check_realm_name(name) + KEY_SUFFIX)


def list_profiles() -> list[str]:
    """Return the names of the realms that this user joined."""
    base = places.find_config_dir()
    try:
        names = sorted(os.listdir(base / "realms")) if base is not None else []
    except OSError:
        return []
    return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


def read_profile(name: str) -> Profile:
    """Return a profile; NotFound says how to make one."""
    path = profile_path(name)
    try:
        with file_errors(path):
            data = path.read_bytes()
    except NotFound:
        known = ", ".join(list_profiles()) or "none"
        raise NotFound(f"realm {name!r} was not joined here (joined: {known}): `dal realm join` does it") from None
    try:
        return messages.decode(data, Profile)
    except BadInput as error:
        raise Damaged(f"{path}: {error}: join the realm again (`dal realm join`)") from None


def write_profile(profile: Profile, realm: Realm | None = None) -> None:
    """Keep a profile, and with `realm` its key first."""
    path = profile_path(profile.name)
    make_directory(path.parent)
    with file_errors(path.parent):
        path.parent.chmod(0o700)
    if realm is not None:
        try:
            write_key_file(key_path_of(profile.name), realm, notes={"realm": profile.name})
        except AlreadyThere:
            place = key_path_of(profile.name)
            if read_key_notes(place)[0] == realm.realm_id:
                raise AlreadyThere(
                    f"{place}: this machine joined with a token of other rights: `dal realm leave {profile.name}` first"
                ) from None
            raise AlreadyThere(f"{place}: is another realm's key: join with --name OTHER") from None
    write_durable(path, messages.encode(profile), mode=0o600)


def remove_profile(name: str) -> None:
    """Forget a realm."""
    remove_durable(profile_path(name))
    remove_durable(key_path_of(name))


def read_profile_realm(profile: Profile) -> Realm:
    """Return the realm's key."""
    return read_key(key_path_of(profile.name), profile.view.realm)
