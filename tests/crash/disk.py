"""A disk as weak as POSIX allows: what it may hold after the power was cut, given what was done and what was synced.

A sync of a file makes its bytes and size durable, and says nothing of its name. A sync of a directory makes the names in it durable, and
says nothing of the name of the directory itself, nor of what is in the files. Whatever was not synced may be there or not, each thing by
itself, with two exceptions: what happened to one name happens in order, and a rename is one step. Bytes that were not synced may be there
in part, cut at a multiple of 512 or 4,096 bytes, and in their place may be a hole, zeros or noise.
"""

import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recorder import DIRECTORY, Op

TORN_BYTES = (512, 4096)


@dataclass(slots=True)
class Disk:
    """Files by number, and directories by path with what their names mean."""

    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, dict[str, int | str]] = field(default_factory=lambda: {"": {}})

    @classmethod
    def read(cls, root: Path) -> "Disk":
        """Return what is below `root`."""
        disk = cls()
        numbers: dict[tuple[int, int], int] = {}
        for directory, directories, names in os.walk(root):
            below = os.path.relpath(directory, root)
            below = "" if below == "." else below
            here = disk.names.setdefault(below, {})
            here.update((name, DIRECTORY) for name in directories)
            for name in names:
                path = Path(directory, name)
                status = path.stat()
                number = numbers.setdefault((status.st_dev, status.st_ino), len(numbers) + 1)
                here[name] = number
                if number not in disk.files:
                    disk.files[number] = bytearray(path.read_bytes())
        return disk

    def copy(self) -> "Disk":
        """Return another disk with the same on it."""
        return Disk({n: bytearray(data) for n, data in self.files.items()}, {d: dict(e) for d, e in self.names.items()})

    def number_at(self, path: str) -> int:
        """Return the number of a file."""
        directory, _, name = path.rpartition("/")
        number = self.names[directory][name]
        assert isinstance(number, int)
        return number

    def tree(self) -> dict[str, dict[str, bytes | None]]:
        """Return names and contents by directory, None for a directory."""
        return {
            directory: {name: None if isinstance(n, str) else bytes(self.files[n]) for name, n in names.items()}
            for directory, names in self.names.items()
        }

    def apply(self, op: Op) -> None:
        """Do one thing."""
        match op:
            case ("name", directory, name, value):
                self._name(directory, name, value)
            case ("move", directory, name, other, new):
                value = self.names.get(directory, {}).pop(name, None)
                if value is not None:
                    self._name(other, new, value)
            case ("landed", number, other, new):  # a move whose old name did not last
                self._name(other, new, number)
            case ("write", number, offset, data):
                file = self.files.setdefault(number, bytearray())
                if len(file) < offset:
                    file += bytes(offset - len(file))
                file[offset : offset + len(data)] = data
            case ("size", number, size):
                file = self.files.setdefault(number, bytearray())
                del file[size:]
                file += bytes(size - len(file))
            case ("databases", changed):
                for path, data in changed:
                    directory, _, name = path.rpartition("/")
                    number = -1 - hash(path) % 10**9
                    self._name(directory, name, None if data is None else number)
                    if data is not None:
                        self.files[number] = bytearray(data)

    def _name(self, directory: str, name: str, value: int | str | None) -> None:
        names = self.names.setdefault(directory, {})
        if value is None:
            if names.pop(name, None) == DIRECTORY:
                self.names.pop(f"{directory}/{name}" if directory else name, None)
            return
        names[name] = value
        if value == DIRECTORY:
            self.names.setdefault(f"{directory}/{name}" if directory else name, {})
        else:
            assert isinstance(value, int)
            self.files.setdefault(value, bytearray())

    def write(self, root: Path) -> None:
        """Make `root` hold what can be reached by name."""
        shutil.rmtree(root, ignore_errors=True)
        written: dict[int, Path] = {}

        def make(directory: str, path: Path) -> None:
            path.mkdir()
            for name, value in self.names.get(directory, {}).items():
                below = path / name
                if isinstance(value, str):
                    make(f"{directory}/{name}" if directory else name, below)
                elif value in written:
                    os.link(written[value], below)
                else:
                    below.touch(mode=0o600)  # as its owner made what is his alone
                    below.write_bytes(self.files[value])
                    below.chmod(0o600)  # as secrets are, which nobody reads otherwise
                    written[value] = below

        make("", root)


def is_settled(ops: Sequence[Op], position: int, cut: int) -> bool:
    """Tell whether what was done at `position` was made durable before `cut`."""
    op = ops[position]
    after = ops[position + 1 : cut]
    match op:
        case ("write" | "size", number, *_):
            return ("sync", number) in after
        case ("name", directory, *_):
            return ("sync-names", directory) in after
        case ("move", _, _, other, _):
            return ("sync-names", other) in after
    return True


def after_cut(base: Disk, ops: Sequence[Op], cut: int, chance: random.Random, *, keep: float) -> Disk:
    """Return what the disk may hold when the power goes before the op number `cut`; each thing that was not synced is there with
    the probability `keep`."""
    disk = base.copy()
    numbers: dict[tuple[str, str], int | str | None] = {
        (directory, name): value for directory, names in base.names.items() for name, value in names.items()
    }
    for position in range(cut):
        op = ops[position]
        lasts = is_settled(ops, position, cut) or chance.random() < keep
        match op:
            case ("name", directory, name, value):
                numbers[directory, name] = value
            case ("move", directory, name, other, new):
                value = numbers.pop((directory, name), None)
                numbers[other, new] = value
                if lasts:
                    disk.apply(("name", directory, name, None))
                    op = ("landed", value, other, new)
        if lasts:
            disk.apply(op)
        elif op[0] == "write":
            for part in _torn(op, chance, keep):
                disk.apply(part)
    return disk


def lost_alone(base: Disk, ops: Sequence[Op], position: int) -> Disk:
    """Return what the disk may hold behind all `ops`: everything but that at `position`, unless it was made durable."""
    disk = base.copy()
    for number, op in enumerate(ops):
        if number != position or is_settled(ops, position, len(ops)):
            disk.apply(op)
    return disk


def _torn(op: Op, chance: random.Random, keep: float) -> Iterable[Op]:
    """Yield what may be there of a write that was not synced: a part, or something else in its place, or nothing."""
    _, number, offset, data = op
    what = chance.choice(("nothing", "nothing", "torn", "size", "noise"))
    if not keep or what == "nothing":
        return
    unit = chance.choice(TORN_BYTES)
    end = max(0, (offset + chance.randrange(len(data) + 1)) // unit * unit - offset)
    if what == "torn":
        yield ("write", number, offset, data[:end])
    elif what == "size":
        yield ("write", number, offset, data[:end] + bytes(len(data) - end))
    else:
        yield ("write", number, offset, data[:end] + chance.randbytes(len(data) - end))
