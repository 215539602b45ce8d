"""Hours of random work leave a mount small and right: DAL_SOAK_OPERATIONS=10000000 for some hours, DAL_SOAK_SEED to repeat."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User

pytestmark = [needs_fuse, pytest.mark.slow]

SEED = int(os.environ.get("DAL_SOAK_SEED", "20261130"))
OPERATIONS = int(os.environ.get("DAL_SOAK_OPERATIONS", "40000"))
LOOK_EVERY = 2_000
RESIDENT_MIB_MAX = 160 if OPERATIONS <= 40_000 else 300
"""300 are promised. Some 130 are caches with bounds, which fill in the first 300,000 operations."""
SMALL = """
import dalsegno.mount.commit as commit
import dalsegno.mount.shed as shed

commit.COMMIT_SECONDS = 1
shed.INODES_KEPT_MAX = 500
"""
NAMES_MAX = 1_500


class Work:
    """The same random operations on a mount and on a plain directory."""

    def __init__(self, roots: tuple[Path, Path], chance: random.Random) -> None:
        self.roots = roots
        self.chance = chance
        self.files: list[str] = []
        self.directories = ["."]
        self.number = 0
        self.operations: list[Callable[[], None]] = [
            *[self.write] * 4,
            *[self.change] * 3,
            *[self.rename] * 2,
            *[self.unlink] * 3,
            *[self.look] * 2,
            self.link,
            self.symlink,
            self.attributes,
            self.make_directory,
            self.remove_directory,
            self.move_directory,
        ]

    def both(self, do: Callable[[Path], object]) -> None:
        """Do the same at both places; what one refuses the other refuses alike."""
        answers = []
        for root in self.roots:
            try:
                answers.append((0, do(root)))
            except OSError as error:
                answers.append((error.errno or -1, None))
        assert answers[0] == answers[1], (self.number, answers)

    def new_name(self, word: str) -> str:
        self.number += 1
        return os.path.normpath(f"{self.chance.choice(self.directories)}/{word}{self.number}")

    def pop(self, names: list[str]) -> str:
        position = self.chance.randrange(len(names))
        names[position], names[-1] = names[-1], names[position]
        return names.pop()

    def write(self) -> None:
        if len(self.files) > NAMES_MAX:
            return self.unlink()
        name, data = self.new_name("f"), self.chance.randbytes(self.chance.choice((0, 10, 3_000)))
        self.both(lambda root: (root / name).write_bytes(data))
        self.files.append(name)
        return None

    def change(self) -> None:
        if self.files:
            name, data = self.chance.choice(self.files), self.chance.randbytes(50)
            size = self.chance.randrange(4_000)

            def edit(root: Path) -> None:
                descriptor = os.open(root / name, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    os.pwrite(descriptor, data, size)
                    if size % 3 == 0:
                        os.ftruncate(descriptor, size // 2)
                finally:
                    os.close(descriptor)

            self.both(edit)

    def link(self) -> None:
        if self.files and len(self.files) < NAMES_MAX:
            name, new = self.chance.choice(self.files), self.new_name("l")
            self.both(lambda root: os.link(root / name, root / new, follow_symlinks=False))
            self.files.append(new)

    def symlink(self) -> None:
        if len(self.files) < NAMES_MAX:
            name = self.new_name("s")
            self.both(lambda root: os.symlink("somewhere", root / name))
            self.files.append(name)

    def rename(self) -> None:
        if self.files:
            name = self.pop(self.files)
            new = self.chance.choice(self.files) if self.files and self.chance.random() < 0.2 else self.new_name("r")
            self.both(lambda root: os.rename(root / name, root / new))
            if new not in self.files:
                self.files.append(new)
            if all(os.path.lexists(root / name) for root in self.roots):
                self.files.append(name)  # two names of one file: rename does nothing

    def unlink(self) -> None:
        if self.files:
            name = self.pop(self.files)
            self.both(lambda root: (root / name).unlink())

    def attributes(self) -> None:
        if self.files:
            name, mode = self.chance.choice(self.files), self.chance.choice((0o600, 0o644, 0o755))
            if not (self.roots[1] / name).is_symlink():
                self.both(lambda root: os.chmod(root / name, mode))
                self.both(lambda root: os.utime(root / name, ns=(1, 1_000_000_000 + mode)))

    def look(self) -> None:
        if self.files:
            name = self.chance.choice(self.files)

            def see(root: Path) -> object:
                status = os.lstat(root / name)
                content = os.readlink(root / name) if (root / name).is_symlink() else (root / name).read_bytes()
                return status.st_mode, status.st_nlink, status.st_size, content

            self.both(see)
        directory = self.chance.choice(self.directories)
        self.both(lambda root: sorted(os.listdir(root / directory)))

    def make_directory(self) -> None:
        if len(self.directories) < 200:
            name = self.new_name("d")
            self.both(lambda root: (root / name).mkdir())
            self.directories.append(name)

    def remove_directory(self) -> None:
        if len(self.directories) > 100:
            name = self.chance.choice(self.directories[1:])
            self.both(lambda root: (root / name).rmdir())
            if not (self.roots[1] / name).exists():
                self.directories.remove(name)

    def move_directory(self) -> None:
        if len(self.directories) > 2:
            name, new = self.chance.choice(self.directories[1:]), self.new_name("m")
            if f"{new}/".startswith(f"{name}/"):
                return
            self.both(lambda root: os.rename(root / name, root / new))
            for names in (self.files, self.directories):
                names[:] = [new + each[len(name) :] if f"{each}/".startswith(f"{name}/") else each for each in names]


def resident_mib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


def shape(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, names and content of everything below `root`: times are those of two different moments."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (status.st_mode, 0 if path.is_dir() else status.st_nlink, data)
    return found


def test_random_work_leaves_a_mount_small_and_is_as_on_a_plain_directory(user: User) -> None:
    print(f"seed {SEED}: DAL_SOAK_SEED={SEED} repeats this run")
    plain = user.home / "plain"
    plain.mkdir()
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    peak = 0
    with mounted(user, "v", before=SMALL) as mount:
        work = Work((mount.path, plain), random.Random(SEED))
        for number in range(OPERATIONS):
            work.chance.choice(work.operations)()
            if number % LOOK_EVERY == 0:
                peak = max(peak, resident_mib(mount.process))
                assert peak < RESIDENT_MIB_MAX, f"{peak} MiB after {number} operations"
        print(f"peak {peak} MiB after {OPERATIONS} operations")
        mount.end()
    user.quick("restore", "v", "--to", "back")
    assert shape(user.home / "back") == shape(plain)
