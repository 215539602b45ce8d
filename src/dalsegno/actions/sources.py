"""Which volume follows which directory: found by its name or by the directory, made when there is none, set by hand."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dalsegno.actions.rules import RulesChange, changed_settings
from dalsegno.actions.session import House
from dalsegno.terms.errors import AlreadyThere, NoAccess, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.state import NATIVE, TRACKED, VolumeState
from dalsegno.world.clock import now_ns
from dalsegno.world.files import is_directory, is_file

NAME_TRIES_MAX = 1000
TAKEN_WORDS = ("backup", "clone", "amanda")
"""What a revision's message begins with, before the directory that it was taken from."""

Ask = Callable[[str], bool | None]
"""Puts a question to a person; None when nobody is there to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A volume as far as directories go."""

    name: str
    source: bytes = b""
    """The directory that it follows; empty for a native one."""
    on_servers: bool = False
    came_from: str = ""
    """Of a native one: the directory that its newest state was taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which volume a word means; all empty: a new one."""

    volume: str = ""
    beside: bool = False
    """A directory of this name is here, too, and the volume follows another."""
    several: tuple[str, ...] = ()
    """The volumes that all follow the directory."""
    before: tuple[str, ...] = ()
    """Native volumes that followed it before, or have its name."""


def choose_volume(word: str, directory: bytes | None, known: Sequence[Known], *, stem: str = "") -> Choice:
    """Return which volume `word` means; `directory` is the real path when it is one. NotFound when it is neither.

    `stem` is the name that a new volume would have, when it is not that of the directory.

    A plain word that is a volume's name is that volume, wherever the command is run; one with a slash is a directory.
    """
    named = next((each for each in known if each.name == word), None)
    if named is not None and not named.source and not named.on_servers and directory is not None:
        return Choice(before=(word,))
    if named is not None:
        return Choice(volume=word, beside=directory is not None and named.source != directory)
    if directory is None:
        raise nothing_there(word)
    following = tuple(each.name for each in known if each.source == directory)
    if following:
        return Choice(volume=following[0]) if len(following) == 1 else Choice(several=following)
    stem, place = stem or stem_of(directory), _as_text(directory)
    native = [each for each in known if not each.source and not each.on_servers]
    came = tuple(each.name for each in native if each.came_from == place)
    return Choice(before=came or tuple(each.name for each in native if each.name == stem))


def nothing_there(word: str) -> NotFound:
    """Return the error for a word that is neither a directory nor a volume."""
    if is_file(word):
        return NotFound(f"{word}: is a file, and a backup takes a directory: name the one that it is in")
    return NotFound(f"{word}: {'no such directory' if os.sep in word else 'neither a directory nor a volume'}")


def stem_of(directory: bytes) -> str:
    """Return what a volume is called that follows a directory."""
    stem = re.sub(r"[^\w .+,=-]", "_", os.fsdecode(os.path.basename(directory)).strip(" .+,=-")) or "root"
    return re.sub(r"\.dump$", "_dump", stem.encode(errors="replace").decode()[:80].replace("..", "__"))


def _as_text(directory: bytes) -> str:
    return os.fsdecode(directory).encode(errors="replace").decode()


def taken_message(word: str, directory: bytes) -> str:
    """Return a revision's message: by it a volume that was restored is known again."""
    assert word in TAKEN_WORDS
    return f"{word} {_as_text(directory)}"


def _known(house: House, state: VolumeState, *, look_back: bool) -> Known:
    came_from = ""
    # A server's own pool is not asked for what its clients keep there.
    on_servers = state.replicas is not None and not house.volumes.merges
    if look_back and state.kind == NATIVE and state.head and not on_servers:
        with suppress(NoAccess, Unavailable):
            revision = find_revision(house.pool, state.head)
            word, _, place = revision.message.partition(" ") if revision is not None else ("", "", "")
            came_from = place if word in TAKEN_WORDS else ""
    return Known(name=state.name, source=state.source, on_servers=on_servers, came_from=came_from)


def find_or_create(
    house: House, what: str, *, ask: Ask | None = None, by_name: bool = False
) -> tuple[VolumeState, bool]:
    """Return the tracked volume of that name or of a directory (made if there is none), and whether it was made.

    With `by_name` no directory is meant. Refused when several volumes follow the directory, or when one followed it
    before and nobody says what to do.
    """
    if by_name or what.startswith("//"):
        return _require_tracked(house.volumes.get(what), what), False
    choice, directory, states = _choose(house, what)
    if choice.volume:
        state = _require_tracked(states[choice.volume], what)
        if choice.beside:
            text = f"is the volume, which follows {os.fsdecode(state.source)}; the directory here is ./{what}"
            house.report(Note(severity="notice", path=os.fsencode(what), text=text))
        return state, False
    assert directory is not None
    if _is_pool(house, os.fsdecode(directory)):
        raise Refused(f"{what}: is the pool itself; choose another pool or directory")
    if choice.several:
        raise _several(what, choice)
    if choice.before:
        return _follow_again(house, what, directory, choice.before[0], ask)
    return create_tracked(house, directory), True


def _choose(house: House, what: str) -> tuple[Choice, bytes | None, dict[str, VolumeState]]:
    """Return which volume a word means, the directory that it names, and the volumes by name."""
    directory = os.fsencode(os.path.realpath(what)) if is_directory(what) else None
    states = {state.name: state for state in house.volumes.list()}
    choice = choose_volume(what, directory, [_known(house, state, look_back=False) for state in states.values()])
    if directory is not None and not choice.volume and not choice.several:
        known = [_known(house, state, look_back=True) for state in states.values()]
        choice = choose_volume(what, directory, known, stem=house.volumes.name_for(stem_of(directory)))
    return choice, directory, states


def find_tracked(house: House, what: str, *, by_name: bool = False) -> tuple[VolumeState | None, bytes]:
    """Return the tracked volume that `what` means, None where one would be made, and the directory; nothing is made."""
    if by_name or what.startswith("//"):
        state = _require_tracked(house.volumes.get(what), what)
        return state, state.source
    choice, directory, states = _choose(house, what)
    if choice.volume:
        state = _require_tracked(states[choice.volume], what)
        return state, state.source
    assert directory is not None
    if choice.several:
        raise _several(what, choice)
    return (states[choice.before[0]] if choice.before else None), directory


def _several(what: str, choice: Choice) -> Refused:
    words = " or ".join(f"`dal backup {name}`" for name in choice.several)
    return Refused(
        f"{what}: volumes {' and '.join(choice.several)} all follow it: {words}; "
        f"`dal volume set {choice.several[-1]} --source none` ends that"
    )


def _require_tracked(state: VolumeState, what: str) -> VolumeState:
    if state.kind != TRACKED:
        raise Refused(
            f"volume {what!r} follows no directory: `dal volume set {what} --source DIR` makes it follow one, "
            f"`dal import {what} DIR` fills it, `dal clone` names it"
        )
    return state


def _follow_again(house: House, what: str, directory: bytes, name: str, ask: Ask | None) -> tuple[VolumeState, bool]:
    place = os.fsdecode(directory)
    question = f"Volume {name} has the history of {place}, and does not follow it now. Go on with it?"
    answer = ask(question) if ask is not None else None
    if answer is None:
        raise Refused(
            f"{what}: volume {name!r} has its history and does not follow it now: `dal volume set {name} --source "
            f"{what}` goes on with it, `dal volume create NAME --source {what}` begins a new one"
        )
    return (set_source(house, name, Path(place)), False) if answer else (create_tracked(house, directory), True)


def create_tracked(house: House, directory: bytes) -> VolumeState:
    """Make a volume that follows a directory, named after it; AlreadyThere when all names like it are taken."""
    stem = house.volumes.name_for(stem_of(directory))
    for number in range(1, NAME_TRIES_MAX):
        name = stem if number == 1 else f"{stem}-{number}"
        try:
            return house.volumes.create(name, kind=TRACKED, source=directory, now_ns=now_ns())
        except AlreadyThere:
            continue
    raise AlreadyThere(f"volume {stem!r}: all names like it are taken; use `dal volume create NAME --source DIR`")


def _is_pool(house: House, real: str) -> bool:
    place = house.pool.backend.directory
    return place is not None and os.path.realpath(place) == real


def real_source(house: House, source: Path) -> bytes:
    """Return the real path of a directory that a volume may follow. NotFound, Refused."""
    if not is_directory(source):
        raise NotFound(f"{source}: no such directory")
    real = os.path.realpath(source)
    if _is_pool(house, real):
        raise Refused(f"{source}: is the pool itself; choose another directory")
    return os.fsencode(real)


def set_source(house: House, name: str, source: Path | None) -> VolumeState:
    """Let a volume follow a directory from now on, or none; its history stays. Refused for a volume on servers."""
    state = house.volumes.get(name)
    if state.replicas is not None and not house.volumes.merges:
        raise Refused(f"volume {name!r} is on servers: it follows no directory of this host, `dal import` fills it")
    real = real_source(house, source) if source is not None else b""
    return house.volumes.update(
        state.id,
        lambda current: msgspec.structs.replace(current, kind=TRACKED if real else NATIVE, source=real),
    )


def followers(house: House, directory: bytes) -> list[str]:
    """Return the volumes that follow a directory."""
    return [state.name for state in house.volumes.list() if directory and state.source == directory]


def set_rules(house: House, name: str, change: RulesChange) -> VolumeState:
    """Change a volume's own rules. BadInput and NotFound of `changed_settings`; nothing is changed then."""
    state = house.volumes.get(name)
    at_ns = now_ns()
    return house.volumes.update(
        state.id,
        lambda current: msgspec.structs.replace(
            current, settings=changed_settings(current.settings, change, now_ns=at_ns)
        ),
    )
