"""What this machine remembers of copies that were made of a pool's key: where, when, and whether on another disk.

One JSON object a line, in the user's state directory. It says nothing of the key itself and may be lost: then
`dal doctor` asks for a copy again.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from dalsegno.terms.errors import DalError
from dalsegno.world import places
from dalsegno.world.files import PRIVATE_DIRECTORY, append_lines, file_errors, make_directory

STANDARD_OUTPUT = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCopy:
    """One copy of a key."""

    place: str
    """The file, or `-` for what was printed."""
    at_ns: int
    is_apart: bool
    """Whether it was on another file system than the pool when it was made."""


def copies_path(pool_id: bytes) -> Path:
    """Return where the copies of a pool's key are remembered; BadInput when nobody knows the user's home."""
    return places.state_dir() / "keys" / f"{pool_id.hex()}.copies"


def remember_copy(pool_id: bytes, copy: KeyCopy) -> None:
    """Remember that a copy was made."""
    path = copies_path(pool_id)
    make_directory(places.state_dir(), mode=PRIVATE_DIRECTORY)
    make_directory(path.parent)
    line = json.dumps({"place": copy.place, "at_ns": copy.at_ns, "apart": copy.is_apart})
    append_lines(path, [line.encode()])


def list_copies(pool_id: bytes) -> list[KeyCopy]:
    """Return the copies that were made here, the newest of each place; lines that cannot be read are passed over."""
    try:
        path = copies_path(pool_id)
        with file_errors(path):
            lines = path.read_bytes().splitlines()
    except DalError:
        return []
    found: dict[str, KeyCopy] = {}
    for line in lines:
        try:
            value = json.loads(line)
            copy = KeyCopy(place=str(value["place"]), at_ns=int(value["at_ns"]), is_apart=bool(value["apart"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        found[copy.place] = copy
    return list(found.values())
