"""Dal Segno: volume backup and replication.

The Python door: `open_pool(path)` opens a `House`, and every action takes it first. The names in `__all__` are stable.

    with dalsegno.open_pool("/backup/pool") as house:
        for row in dalsegno.ls(house, "home@latest:/doc"):
            print(row.path, row.entry.size)
        data = dalsegno.read_file(house, "home@yesterday:/doc/plan.txt")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dalsegno.actions.backup import backup
    from dalsegno.actions.browse import diff, find, list_volumes, ls, read_file, versions
    from dalsegno.actions.clone import clone
    from dalsegno.actions.dump import dump, estimate, mark
    from dalsegno.actions.merge import inspect, merge, verify
    from dalsegno.actions.restore import restore, restore_volume
    from dalsegno.actions.session import House
    from dalsegno.assembly.local import create_pool, open_pool
    from dalsegno.terms.errors import DalError

__all__ = [
    "DalError",
    "House",
    "backup",
    "clone",
    "create_pool",
    "diff",
    "dump",
    "estimate",
    "find",
    "inspect",
    "list_volumes",
    "ls",
    "mark",
    "merge",
    "open_pool",
    "read_file",
    "restore",
    "restore_volume",
    "verify",
    "versions",
]

_PLACES = {
    "DalError": "dalsegno.terms.errors",
    "House": "dalsegno.actions.session",
    "backup": "dalsegno.actions.backup",
    "clone": "dalsegno.actions.clone",
    "create_pool": "dalsegno.assembly.local",
    "diff": "dalsegno.actions.browse",
    "dump": "dalsegno.actions.dump",
    "estimate": "dalsegno.actions.dump",
    "find": "dalsegno.actions.browse",
    "inspect": "dalsegno.actions.merge",
    "list_volumes": "dalsegno.actions.browse",
    "ls": "dalsegno.actions.browse",
    "mark": "dalsegno.actions.dump",
    "merge": "dalsegno.actions.merge",
    "open_pool": "dalsegno.assembly.local",
    "read_file": "dalsegno.actions.browse",
    "restore": "dalsegno.actions.restore",
    "restore_volume": "dalsegno.actions.restore",
    "verify": "dalsegno.actions.merge",
    "versions": "dalsegno.actions.browse",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that `import dalsegno` costs nothing."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'dalsegno' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(place), name)
    globals()[name] = value
    return value
