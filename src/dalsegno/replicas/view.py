"""A realm as somebody knows it: its servers, and which of them hold which volume. Values only."""

from typing import Final

import msgspec

from dalsegno.terms.errors import BadInput
from dalsegno.volumes.state import ReplicaSet

NAME_BYTES_MAX: Final = 64


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the realm, and how to know it."""

    name: str
    url: str
    fingerprint: str = ""
    """`sha256:` and 64 hexadecimal digits; empty: the system's authorities vouch for it, or it speaks without TLS."""
    seen_ns: int = 0
    """When it last said that it is there."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A volume and the servers that hold it."""

    name: str
    id: bytes
    replicas: ReplicaSet


class RealmView(msgspec.Struct, frozen=True, kw_only=True):
    """The directory as somebody knows it."""

    name: str
    realm: bytes
    """The realm's id."""
    servers: list[Server]
    volumes: list[Placed]
    as_of_ns: int
    """When this was read from the database."""
    directory: bool = True
    """False: there is no directory, only the server that answers."""

    def server(self, name: str) -> Server | None:
        """Return a server by name."""
        return next((server for server in self.servers if server.name == name), None)

    def placed(self, volume: str) -> Placed | None:
        """Return where a volume is."""
        return next((placed for placed in self.volumes if placed.name == volume), None)


def check_realm_name(name: str) -> str:
    """Refuse a name that could not be written in an address or a file name; for realms and servers."""
    plain = name.isascii() and all(letter.isalnum() or letter in "._-" for letter in name) and name[:1].isalnum()
    if not plain or len(name) > NAME_BYTES_MAX:
        raise BadInput(f"name {name[:80]!r}: use letters, digits and . _ -, at most {NAME_BYTES_MAX}")
    return name
