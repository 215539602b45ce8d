"""The Amanda application: each of Amanda's commands done to a house (words and lines: amanda.py)."""

import fcntl
import hashlib
import os
import select
import stat
import sys
import termios
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dalsegno.actions import amanda as actions
from dalsegno.actions.session import House
from dalsegno.bridges import amanda
from dalsegno.bridges.amanda import CLONE_NAME, Call
from dalsegno.chunks.realm import Realm
from dalsegno.host.losses import count_words
from dalsegno.terms.errors import BadInput, Conflict, DalError, NoAccess, NotFound, Refused
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.clones import Clone
from dalsegno.world.clock import SECOND_NS, now_ns
from dalsegno.world.files import file_errors, is_directory

FAILED = 2
"""Amanda forgives 1."""
RETRY = 1
"""Amanda has been told to try again; for a worse code sendbackup would add an error of its own."""
IMAGES_SECONDS_MAX = 24 * 3600
STRANGE_LINES_MAX = 100
POLL_MILLISECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where Amanda listens: the image or the answers, the messages, the index; and where an image comes from."""

    input: BinaryIO
    output: BinaryIO
    messages: BinaryIO | None = None
    index: BinaryIO | None = None

    def say(self, text: str) -> None:
        """Write one answer."""
        self.output.write(_encode(text))
        self.output.flush()

    def tell(self, text: str) -> None:
        """Write one message about a dump."""
        if self.messages is not None:
            self.messages.write(_encode(text))
            self.messages.flush()


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape") + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """How the application gets at what it needs: opened only by commands that need it."""

    house: Callable[[Call], House]
    realm: Callable[[Call], Realm]
    """The key alone is enough to read an image."""
    images: Path
    """Where images wait between the levels of a restore."""


def run(call: Call, line: Line, doors: Doors) -> int:
    """Do what Amanda asks and return the exit code. Every failure is told in the way that the command has for it."""
    return _COMMANDS[call.command](call, line, doors)


def support(call: Call, line: Line, doors: Doors) -> int:
    """Tell what the application can do."""
    for text in amanda.support_lines():
        line.say(text)
    return 0


def selfcheck(call: Call, line: Line, doors: Doors) -> int:
    """Tell what would go wrong tonight."""
    for name in call.unknown:
        line.say(amanda.check_line(False, f"unknown property {name.upper()}: see docs/guides/amanda.md"))
    try:
        line.say(amanda.check_line(True, amanda.NAME))
        call.clone_age_seconds, call.records, call.dense  # noqa: B018 - each refuses what it cannot read
        volume = amanda.check_volume(call)
        with doors.house(call) as house:
            state = actions.state_now(house, volume)
            local = not house.volumes.merges
            if local and state.source and not is_directory(state.source):
                raise NotFound(f"volume {volume!r}: its source {os.fsdecode(state.source)} is not there")
            if not state.head and not (local and state.source):
                raise Refused(f"volume {volume!r} is empty: import something first")
            line.say(amanda.check_line(True, f"volume {volume}" + (f" in {house.pool.place}" if local else "")))
    except DalError as error:
        line.say(amanda.check_line(False, error))
    return 0


def estimate(call: Call, line: Line, doors: Doors) -> int:
    """Take a fresh clone and tell how large the levels would be."""
    levels = call.levels or (0,)
    try:
        volume = amanda.check_volume(call)
        with doors.house(call) as house:
            revision = _revision_to_estimate(house, volume, call)
            found = actions.estimate(house, volume, revision, levels, recorder=call.recorder)
    except DalError as error:
        line.say(amanda.check_line(False, error))
        for level in levels:
            line.say(amanda.estimate_line(level, None))
        return 0
    for level, each in zip(levels, found, strict=True):
        if each is None and len(levels) == 1:
            line.say(amanda.check_line(False, f"level {level}: no base that is recorded and still in the pool"))
        line.say(amanda.estimate_line(level, each.raw_bytes if each is not None else None))
    return 0


def _revision_to_estimate(house: House, volume: str, call: Call) -> bytes:
    """Return what a dump would hold; of a volume that is frozen just now, what it held before."""
    try:
        fresh = actions.fresh_clone(house, volume, call.clone_name, age_seconds=call.clone_age_seconds)
        return fresh.clone.revision
    except Conflict:
        state = house.volumes.get(volume)
        clone = state.clones.get(call.clone_name)
        if clone is None and not state.head:
            raise
        return clone.revision if clone is not None else state.head


def backup(call: Call, line: Line, doors: Doors) -> int:
    """Write a dump, and record it when all of it is written and Amanda says so."""
    try:
        return _backup(call, line, doors)
    except DalError as error:
        line.tell(amanda.error_line(error))
    except BrokenPipeError:
        line.tell(amanda.error_line("Amanda closed the pipe: nothing is recorded"))
    return FAILED


def _backup(call: Call, line: Line, doors: Doors) -> int:
    volume = amanda.check_volume(call)
    records, dense = call.records, call.dense
    with doors.house(call) as house:
        try:
            fresh = actions.fresh_clone(house, volume, call.clone_name, age_seconds=call.clone_age_seconds)
        except Conflict as error:
            line.tell(amanda.retry_line(error, delay_seconds=amanda.RETRY_SECONDS))
            return RETRY
        try:
            plan = actions.plan(house, volume, call.clone_name, fresh.clone, level=call.level, recorder=call.recorder)
        except Refused as error:
            line.tell(amanda.retry_line(error, delay_seconds=1, level=0))
            return RETRY
        written = actions.write(house, plan, line.output.write, dense=dense)
        line.output.flush()
        if line.index is not None:
            _write_index(line.index, actions.listing(house, plan), level=plan.note.level)
            line.index.close()
        _tell_strange(line, fresh.unreadable)
        line.tell(amanda.chatter_line(_describe(volume, fresh.clone, call, written)))
        line.tell(amanda.size_line(written.size_bytes))
        if records:
            wait_until_read(line.output)
            actions.record(house, plan, written, recorder=call.recorder, timestamp=call.timestamp)
    return 0


def wait_until_read(stream: BinaryIO) -> None:
    """Wait until who reads a pipe or socket has taken all of it; BrokenPipeError when it went away before.

    What is small fits into the pipe, and is written without anybody there to read it.
    """
    number = stream.fileno()
    mode = os.fstat(number).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return
    question = termios.FIONREAD if stat.S_ISFIFO(mode) else termios.TIOCOUTQ
    poll = select.poll()
    poll.register(number, 0)  # an error is told in any case
    while int.from_bytes(fcntl.ioctl(number, question, bytes(4)), sys.byteorder):
        if poll.poll(POLL_MILLISECONDS):
            raise BrokenPipeError


def _write_index(stream: BinaryIO, listing: Iterable[tuple[bytes, bool]], *, level: int) -> None:
    for path, directory in amanda.with_parents(listing):
        stream.write(amanda.encode_index(path, directory=directory))
    stream.write(amanda.level_line(level))


def _tell_strange(line: Line, unreadable: Sequence[str]) -> None:
    for text in unreadable[:STRANGE_LINES_MAX]:
        line.tell(amanda.strange_line(f"not in this dump: {text}"))
    if len(unreadable) > STRANGE_LINES_MAX:
        line.tell(amanda.strange_line(f"and {len(unreadable) - STRANGE_LINES_MAX} more could not be read"))


def _describe(volume: str, clone: Clone, call: Call, written: actions.Written) -> str:
    revision, dump = hex_short(clone.revision), hex_short(written.dump_id)
    return f"level {call.level} of {volume}@{call.clone_name}, revision {revision}, dump {dump}"


def restore(call: Call, line: Line, doors: Doors) -> int:
    """Bring a directory to the state of an image; Amanda gives the levels one after the other."""
    realm = doors.realm(call)
    target = Path(call.target or os.getcwd())
    place = _place_for(doors.images, target, call)
    actions.keep_image(line.input, place)
    lower = sorted(path for path in place.parent.glob("*.dump") if int(path.stem) < call.level)
    wanted = [path for path in map(amanda.decode_path, call.paths) if path]
    if len(wanted) < len(call.paths):
        wanted = []  # "." is the whole
    house = _house_if_there(call, doors)
    try:
        pool = house.pool if house is not None else None
        result = actions.restore_images([*lower, place], realm, target, paths=wanted, pool=pool)
    finally:
        if house is not None:
            house.__exit__(None, None, None)
    for path, text in result.failed:
        line.say(f"{os.fsdecode(path)}: {amanda.one_line(text)}")
    if result.lost.unexpected():
        line.say(f"could not be set: {count_words(result.lost.unexpected())}")
    return 1 if result.failed else 0


def _house_if_there(call: Call, doors: Doors) -> House | None:
    """Return the house with what an image has not; None when it is away, as servers are that do not answer."""
    try:
        house = doors.house(call)
    except DalError:
        return None
    if house.volumes.merges:
        try:
            actions.state_now(house, amanda.volume_address(call), to_dump=False)
        except DalError as error:
            house.__exit__(type(error), error, None)
            return None
    return house


def _place_for(images: Path, target: Path, call: Call) -> Path:
    """Return where an image of this restore is kept. A full one begins a restore: what was kept for it before goes."""
    words = "\0".join((os.path.realpath(target), call.config, call.host, call.disk))
    directory = images / hashlib.sha256(words.encode(errors="surrogateescape")).hexdigest()[:16]
    with file_errors(images):
        images.mkdir(mode=0o700, exist_ok=True)
        if images.is_symlink() or images.stat().st_uid != os.getuid() or images.stat().st_mode & 0o077:
            raise NoAccess(f"{images}: not ours alone: remove it")
        for old in images.iterdir():
            if old == directory or old.stat().st_mtime_ns < now_ns() - IMAGES_SECONDS_MAX * SECOND_NS:
                for path in old.iterdir():
                    if old != directory or not path.stem.isdecimal() or int(path.stem) >= call.level:
                        path.unlink()
                if old != directory:
                    old.rmdir()
        directory.mkdir(mode=0o700, exist_ok=True)
    return directory / f"{call.level}.dump"


def validate(call: Call, line: Line, doors: Doors) -> int:
    """Read an image to its end and check every byte."""
    note = actions.verify(line.input, doors.realm(call))
    line.say(f"whole: level {note.level} of {note.volume_name}")
    return 0


def index(call: Call, line: Line, doors: Doors) -> int:
    """List what an image holds."""
    realm = doors.realm(call)
    place = _place_for(doors.images, Path("/"), call)
    actions.keep_image(line.input, place)
    house = _house_if_there(call, doors)
    try:
        listing = actions.image_listing(place, realm, pool=house.pool if house is not None else None)
        _write_index(line.output, listing, level=actions.image_note(place, realm).level)
        line.output.flush()
    finally:
        place.unlink()
        if house is not None:
            house.__exit__(None, None, None)
    return 0


def discover(call: Call, line: Line, doors: Doors) -> int:
    """List the volumes that a pattern means."""
    pattern = call.properties.get("volumes") or call.volume or "*"
    with doors.house(call) as house:
        names = amanda.matching([state.name for state in house.volumes.list()], pattern)
    line.say(amanda.discover_text(pattern, names))
    return 0


_COMMANDS: dict[str, Callable[[Call, Line, Doors], int]] = {
    "support": support,
    "selfcheck": selfcheck,
    "estimate": estimate,
    "backup": backup,
    "restore": restore,
    "validate": validate,
    "index": index,
    "discover": discover,
}
assert tuple(_COMMANDS) and set(_COMMANDS) == set(amanda.COMMANDS)


def refuse(words: Sequence[str], line: Line, error: DalError) -> int:
    """Tell of a failure outside a command that has a way of its own; return the exit code."""
    command = words[0] if words else ""
    if command == "backup":
        line.tell(amanda.error_line(error))
    elif command in ("selfcheck", "estimate"):
        line.say(amanda.check_line(False, error))
        return 0
    else:
        raise error
    return FAILED


def forbid_as_other(call: Call) -> None:
    """Refuse what Amanda's user must not have done by the owner of the pool: writing wherever it likes."""
    if call.command == "restore":
        raise BadInput(
            "restore: the pool belongs to another user, so restore as root (amrecover), "
            "or fetch with `amfetchdump -p` and use `dal restore`"
        )
    if call.clone_name != CLONE_NAME and not call.clone_name.startswith(CLONE_NAME + "-"):
        raise BadInput(
            f"property CLONE {call.clone_name!r}: the volume belongs to another user, so name it {CLONE_NAME!r} or "
            f"'{CLONE_NAME}-...'"
        )
    if {"pool", "key-file"} & call.properties.keys():
        raise BadInput("properties POOL and KEY-FILE: `dal amanda install` names pool and key, once for all")
