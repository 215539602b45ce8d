"""From what a user calls a place to the backend that keeps bytes there: the table of schemes."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from dalsegno.backends.contract import Backend
from dalsegno.backends.local import LocalBackend
from dalsegno.terms.errors import BadInput

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")


def _local(address: str) -> Backend:
    return LocalBackend(Path(address.removeprefix("file://")))


SCHEMES: Final[Mapping[str, Callable[[str], Backend]]] = {"": _local, "file": _local}
"""Scheme: what makes a backend of a whole address. A path has none."""


def open_backend(place: Path | str | Backend) -> Backend:
    """Return the backend of a path or an address, or a backend itself. BadInput: no such scheme.

    Nothing is read or written.
    """
    if isinstance(place, Path):
        return LocalBackend(place)
    if not isinstance(place, str):
        return place
    match = _SCHEME.match(place)
    scheme = match[1] if match else ""
    if scheme not in SCHEMES:
        raise BadInput(f"{place}: a pool cannot be kept in places of kind {scheme}:// yet: name a directory")
    return SCHEMES[scheme](place)


def directory_of(address: str) -> Path:
    """Return the directory that a path or an address means. BadInput: it means none."""
    directory = open_backend(address).directory
    if directory is None:
        raise BadInput(f"{address}: is no directory of this machine, and this needs one")
    return directory
