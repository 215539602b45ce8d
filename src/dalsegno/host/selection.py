"""Which paths of a tree are wanted."""

import os
from collections.abc import Sequence

from dalsegno.formats import objects
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import BadInput, NotFound
from dalsegno.trees.read import lookup

Selection = dict[bytes, "Selection | None"]
"""Names to restore in a directory; None is the whole entry."""


def plan_selection(paths: Sequence[bytes]) -> Selection | None:
    """Return the selection that `paths` (relative to the root) make; None is everything."""
    top: Selection = {}
    for path in paths:
        names = [name for name in path.split(b"/") if name and name != b"."]
        if b".." in names:
            raise BadInput(f"{os.fsdecode(path)}: a path within the tree is expected, without ..")
        if not names:
            return None
        level = top
        for name in names[:-1]:
            below = level.setdefault(name, {})
            if below is None:
                break
            level = below
        else:
            level[names[-1]] = None
    return top or None


def check_selection(source: Source, directory: bytes, selection: Selection, above: bytes = b"") -> None:
    """Raise NotFound unless everything selected is in the tree."""
    for name, below in selection.items():
        path = above + b"/" + name if above else name
        entry = lookup(source, directory, name)
        if entry is None or (below is not None and entry.kind != objects.ENTRY_DIRECTORY):
            raise NotFound(f"{os.fsdecode(path)}: no such file in this revision")
        if below is not None:
            check_selection(source, entry.content, below, path)
