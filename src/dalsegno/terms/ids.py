"""Identities. Each kind of id has its own type, so that one cannot be passed for another."""

from typing import NewType

ObjectId = NewType("ObjectId", bytes)
"""32 bytes: keyed BLAKE3-256 of an object (docs/formats/objects.md, "Ids")."""
VolumeId = NewType("VolumeId", bytes)
"""16 random bytes, given once when a volume is created; kept by every dump and replica."""
PackId = NewType("PackId", bytes)
"""16 random bytes that name one pack; for a dump this is the dump id."""
RealmId = NewType("RealmId", bytes)
"""16 bytes derived from a realm's secret: equal ids mean equal object ids."""

OBJECT_ID_BYTES = 32
UUID_BYTES = 16


def hex_short(identity: bytes) -> str:
    """Return the first 12 hexadecimal digits, as shown to people."""
    return identity[:6].hex()
