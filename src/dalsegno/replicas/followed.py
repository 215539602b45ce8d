"""Which directories of this host the volumes of a realm follow: kept by the client, for a server must not read them.

~/.config/dalsegno/realms/NAME.sources    mode 0600; beside the realm's profile (profile.py)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from dalsegno.formats import messages
from dalsegno.replicas.profile import profiles_directory
from dalsegno.replicas.view import check_realm_name
from dalsegno.terms.errors import BadInput, Damaged, NotFound
from dalsegno.world.files import FileLock, file_errors, make_directory, remove_durable, write_durable

VERSION: Final = 1
SUFFIX: Final = ".sources"


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of a realm that follows a directory here."""

    volume: bytes
    """Its id."""
    source: bytes
    """The directory; empty where only settings are kept."""
    settings: dict[str, str | int | bool | list[str]] = {}
    """The rules about what its backups leave out, as in the settings of a volume in a pool."""


class FollowedList(msgspec.Struct, frozen=True, kw_only=True):
    """All volumes of a realm that follow directories here."""

    version: int = VERSION
    volumes: list[Followed]


class Directories:
    """The directories of one realm, in their file; any number of processes may use it."""

    def __init__(self, realm: str) -> None:
        self.path: Path = profiles_directory() / (check_realm_name(realm) + SUFFIX)

    def all(self) -> dict[bytes, Followed]:
        """Return what is kept, by volume."""
        try:
            with file_errors(self.path):
                data = self.path.read_bytes()
        except NotFound:
            return {}
        try:
            return {each.volume: each for each in messages.decode(data, FollowedList).volumes}
        except BadInput as error:
            raise Damaged(f"{self.path}: {error}: remove it, and set each volume's source again") from None

    def put(self, followed: Followed) -> None:
        """Keep what a volume follows, and its rules; without either it is forgotten."""
        kept = followed.source or followed.settings

        def change(known: dict[bytes, Followed]) -> dict[bytes, Followed]:
            others = {volume: each for volume, each in known.items() if volume != followed.volume}
            return {**others, followed.volume: followed} if kept else others

        self._change(change)

    def _change(self, change: Callable[[dict[bytes, Followed]], dict[bytes, Followed]]) -> None:
        make_directory(self.path.parent)
        with FileLock(self.path.with_name(self.path.name + ".lock")) as lock:
            lock.acquire()
            new = FollowedList(volumes=list(change(self.all()).values()))
            write_durable(self.path, messages.encode(new), mode=0o600)

    def remove(self) -> None:
        """Forget all."""
        for path in (self.path, self.path.with_name(self.path.name + ".lock")):
            if path.exists():
                remove_durable(path)
