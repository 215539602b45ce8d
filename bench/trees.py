"""The trees that are backed up: copies of what the system has, and changes of them."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

TREE_FILE_BYTES_MAX = 16_000_000
TREE_SOURCES = ("/usr/share", "/usr/lib", "/usr/include", "/usr/local")


def build_tree(target: Path, *, files_min: int, bytes_min: int, file_bytes_max: int | None) -> None:
    """Copy system directories, in name order, until both minimums are reached; larger files are left out."""
    count = size = 0
    for source in TREE_SOURCES:
        for place, directories, names in os.walk(source):
            directories.sort()
            goal = target / place.lstrip("/")
            goal.mkdir(parents=True, exist_ok=True)
            for name in sorted(names):
                path = os.path.join(place, name)
                with contextlib.suppress(OSError):
                    if os.path.islink(path):
                        os.symlink(os.readlink(path), goal / name)
                    elif os.path.isfile(path) and os.path.getsize(path) <= (file_bytes_max or sys.maxsize):
                        shutil.copy2(path, goal / name)
                        count += 1
                        size += os.path.getsize(path)
            if count >= files_min and size >= bytes_min:
                return
    raise SystemExit(f"bench: {TREE_SOURCES} hold only {count} files, {size} bytes: give a tree with --tree")


def regular_files(tree: Path) -> list[Path]:
    """Return all regular files, in one fixed order."""
    found = []
    for place, directories, names in os.walk(tree):
        directories.sort()
        found += [path for name in sorted(names) if (path := Path(place, name)).is_file() and not path.is_symlink()]
    return found


def change_one_percent(files: list[Path], *, seed: int) -> int:
    """Overwrite up to 64 bytes in the middle of one file in a hundred, the same ones for the same seed."""
    chance = random.Random(seed)
    chosen = chance.sample(files, max(1, len(files) // 100))
    for path in chosen:
        size = path.stat().st_size
        with path.open("r+b") as stream:
            stream.seek(size // 2)
            stream.write(chance.randbytes(64))
    return len(chosen)


def differences(first: Path, second: Path) -> str:
    """Return what `diff` finds between two trees, at most a few lines."""
    found = subprocess.run(
        ["diff", "-r", "-q", "--no-dereference", str(first), str(second)], capture_output=True, text=True, check=False
    )
    return found.stdout[:400] + found.stderr[:400]
