"""Labels: which medium is in which place. A directory without a label is never written to: nothing may be mounted."""

import os
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from dalsegno.formats.media import LABEL_BYTES_MAX, LABEL_NAME, Label, decode_label, encode_label
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, Damaged, NotFound, Refused, Unavailable
from dalsegno.terms.times import format_time
from dalsegno.world.chance import random_bytes
from dalsegno.world.files import file_errors, fsync_directory, remove_left_behind, write_durable

LABEL_CHARACTERS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A labelled medium in its place."""

    path: Path
    label: Label
    is_lost: bool = False
    """Somebody said that it is gone for good, and here it is: nothing on it counts, and nothing is written to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLabel:
    """A place whose label is there and cannot be read: which medium it is nobody knows."""

    path: Path
    error: DalError


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What is in a target's places."""

    ours: tuple[Mounted, ...] = ()
    strangers: tuple[Mounted, ...] = ()
    bad: tuple[BadLabel, ...] = ()

    def require_readable(self) -> None:
        """Raise what is wrong with the first label that cannot be read: the medium that is missing may be that one."""
        for each in self.bad:
            raise each.error


def read_label(path: Path) -> Label | None:
    """Return the label of the medium at `path`, or None when nothing labelled is there. Damaged when it is no label."""
    place = path / LABEL_NAME
    try:
        data = _read_file(place)
    except NotFound:
        return None
    try:
        return decode_label(data)
    except Damaged as error:
        raise Damaged(f"{place}: {error}: {_RELABEL}") from None


_RELABEL: Final = "put it right, or remove it and label the medium again (`dal media label`)"


def _read_file(place: Path) -> bytes:
    """Return the bytes of a label file. Damaged when it is no file: a FIFO would hold us up, a link lead elsewhere."""
    with file_errors(place):
        try:
            if not stat.S_ISREG(os.lstat(place).st_mode):
                raise Damaged(f"{place}: is no file: {_RELABEL}")
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except NotADirectoryError:
            raise NotFound(f"{place}: no such directory") from None
        with open(descriptor, "rb") as file:
            return file.read(LABEL_BYTES_MAX)


def write_label(path: Path, *, label: str, target: str, kind: str, now_ns: int) -> Label:
    """Label the medium at `path`. AlreadyThere, naming it, when it has a label; NotFound; BadInput: a bad label."""
    if not label or len(label) > LABEL_CHARACTERS_MAX or not label.isprintable() or label != label.strip():
        raise BadInput(f"label {label!r}: expected 1 to {LABEL_CHARACTERS_MAX} printable characters")
    if not path.is_dir():
        raise NotFound(f"{path}: no such directory: mount the medium first")
    known = read_label(path)
    if known is not None:
        raise AlreadyThere(f"{path}: is labelled {known.label!r} of target {known.target!r} already; nothing was done")
    made = Label(label=label, target=target, kind=kind, id=random_bytes(16).hex(), created=format_time(now_ns))
    remove_left_behind(path, LABEL_NAME)
    write_durable(path / LABEL_NAME, encode_label(made), replace=False)
    return made


def belongs(label: Label, *, target: str, kind: str, patterns: Sequence[str]) -> bool:
    """Return whether a medium is of a target's set."""
    named = not patterns or any(fnmatchcase(label.label, pattern) for pattern in patterns)
    return label.target == target and label.kind == kind and named


def look(
    paths: Iterable[Path], *, target: str, kind: str, patterns: Sequence[str], lost: Collection[str] = ()
) -> Looked:
    """Return the media in these places: those of the target, strangers, and places whose label cannot be read.

    A medium seen twice counts once. `lost`: ids of media, in hexadecimal, that were said to be gone for good:
    strangers, too. Refused: two media have one label.
    """
    ours: dict[str, Mounted] = {}
    strangers = []
    bad = []
    for path in paths:
        try:
            label = read_label(path)
        except DalError as error:
            bad.append(BadLabel(path=path, error=error))
            continue
        if label is None:
            continue
        mounted = Mounted(path=path, label=label, is_lost=label.id in lost)
        if mounted.is_lost or not belongs(label, target=target, kind=kind, patterns=patterns):
            strangers.append(mounted)
            continue
        known = ours.setdefault(label.label, mounted)
        if known.label.id != label.id:
            raise Refused(
                f"{known.path} and {path}: two media are labelled {label.label!r}: label one of them anew "
                f"(remove {LABEL_NAME}, then `dal media label`)"
            )
    return Looked(ours=tuple(ours.values()), strangers=tuple(strangers), bad=tuple(bad))


def require_all(looked: Looked, labels: Collection[str] | None, *, target: str) -> None:
    """Refuse to go on with other media than those that were here before: one whose label could not be read is not gone.

    `labels`: those that were here; None: whatever is here now. Unavailable: one came or went.
    """
    found = {each.label.label for each in looked.ours}
    changed = sorted(found ^ set(labels)) if labels is not None else []
    if changed:
        looked.require_readable()
        raise Unavailable(f"target {target}: medium {changed[0]!r} came or went while the media were read: run again")


def settle_label(mounted: Mounted) -> None:
    """Make the name of a medium's label durable before dumps rest on it: who labelled it may have been killed."""
    fsync_directory(mounted.path)


def require_same(mounted: Mounted) -> None:
    """Raise Refused when another medium is in the place now: it was swapped while we worked."""
    label = read_label(mounted.path)
    if label is None or label.id != mounted.label.id:
        now = f"medium {label.label!r}" if label is not None else "nothing labelled"
        raise Refused(
            f"{mounted.path}: medium {mounted.label.label!r} was here, now there is {now}: "
            f"put {mounted.label.label!r} back and run again"
        )


def wrong_medium(strangers: Sequence[Mounted], *, wanted: str) -> Refused:
    """Return the refusal of a place that holds another medium than the wanted one; it names both."""
    there = ", ".join(f"{each.label.label!r} of target {each.label.target!r} at {each.path}" for each in strangers)
    lost = [each.label.label for each in strangers if each.is_lost]
    back = f"; `dal media found {lost[0]}` takes back what was said to be lost" if lost else ""
    return Refused(f"wrong medium: there is {there}; wanted is {wanted}{back}")
