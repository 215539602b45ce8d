"""A source that lost most of its files: not mounted, emptied, or moved away; never a success without a word.

What a volume had before the loss is kept in its settings until the files are back or a person accepts what is left, so
that the second night says it, too.
"""

import os
from contextlib import suppress

import msgspec

from dalsegno.actions.session import House
from dalsegno.terms.errors import NotFound, Refused
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.read import read_revision
from dalsegno.volumes.shrunk import SETTING, Shrunk, find_shrunk, shrunk_from
from dalsegno.volumes.state import VolumeState
from dalsegno.world.files import is_directory


def entries_expected(state: VolumeState, *, entries_before: int, accept: bool) -> int:
    """Return what to compare a scan with: the revision before, or what there was before that one shrank."""
    return 0 if accept else max(entries_before, shrunk_from(state) or 0)


def keep_shrunk(house: House, state: VolumeState, shrunk: Shrunk | None) -> VolumeState:
    """Keep in the volume that its source shrank, or that it has not any more; where settings cannot be changed from
    here (on servers), only the first backup says it."""
    kept = shrunk.entries_before if shrunk is not None else None
    if state.settings.get(SETTING) == kept:
        return state

    def change(current: VolumeState) -> VolumeState:
        settings = {name: value for name, value in current.settings.items() if name != SETTING}
        return msgspec.structs.replace(current, settings=settings if kept is None else {**settings, SETTING: kept})

    with suppress(Refused):
        return house.volumes.update(state.id, change)
    return state


def require_source(house: House, state: VolumeState) -> None:
    """Raise NotFound when a volume's directory is not there, and keep in the volume what it had, for `status`."""
    if is_directory(state.source):
        return
    head = read_revision(house.pool, ObjectId(state.head)) if state.head else None
    before = entries_expected(state, entries_before=head.entry_count if head is not None else 0, accept=False)
    keep_shrunk(house, state, find_shrunk(entries_before=before, entries_now=0))
    raise NotFound(
        f"{os.fsdecode(state.source)}: no such directory: is it mounted? When it is gone for good: "
        f"`dal volume set {state.name} --source none` (what was backed up stays)"
    )
