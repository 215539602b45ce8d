"""The spool: where dumps are written before they go to media, and where they come back to for a restore."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dalsegno.backup.records import DUMP_SUFFIX
from dalsegno.terms.errors import Full
from dalsegno.terms.names import file_name
from dalsegno.terms.sizes import format_size
from dalsegno.world.files import PRIVATE_DIRECTORY, file_errors, make_directory, remove_durable

FETCHED: Final = "fetched"
"""Directory within the spool for what came back from media."""
RESERVE_BYTES: Final = 16 * 1024 * 1024


class Spool:
    """A directory with a bound. Dumps lie in it; what was fetched from media lies in `fetched/`."""

    def __init__(self, path: Path, *, bytes_max: int | None = None) -> None:
        self.path = path
        self.bytes_max = bytes_max

    def prepare(self) -> None:
        """Make the directory if it is not there."""
        make_directory(self.path, mode=PRIVATE_DIRECTORY)

    def place(self, name: str) -> Path:
        """Return where a dump of this name lies; Refused for a name that would lie elsewhere."""
        return self.path / file_name(name, of=f"spool {self.path}")

    def fetched(self, dump_id: bytes) -> Path:
        """Return where a dump lies that was fetched from media."""
        return self.path / FETCHED / f"{dump_id.hex()}{DUMP_SUFFIX}"

    def files(self) -> Iterator[tuple[Path, int]]:
        """Yield every file and its size, half ones too."""
        for directory in (self.path, self.path / FETCHED):
            with file_errors(directory):
                if directory.is_dir():
                    for entry in sorted(os.scandir(directory), key=lambda each: each.name):
                        if entry.is_file(follow_symlinks=False):
                            yield Path(entry.path), entry.stat(follow_symlinks=False).st_size

    def used_bytes(self) -> int:
        """Return how much lies in the spool."""
        return sum(size for _, size in self.files())

    def room_bytes(self) -> int:
        """Return how much more may be put in: what the file system has, or the policy allows, whichever is less."""
        self.prepare()
        with file_errors(self.path):
            status = os.statvfs(self.path)
        free = max(0, status.f_bavail * status.f_frsize - RESERVE_BYTES)
        return free if self.bytes_max is None else max(0, min(free, self.bytes_max - self.used_bytes()))

    def require_room(self, wanted_bytes: int, *, purpose: str) -> None:
        """Refuse, as Full, what would not fit: said before it begins."""
        room = self.room_bytes()
        if wanted_bytes > room:
            raise Full(
                f"spool {self.path}: {purpose} needs {format_size(wanted_bytes)}, there is room for "
                f"{format_size(room)}: free some space, or give it another place in the policy"
            )

    def forget_old(self, *, before_ns: int) -> int:
        """Remove what was fetched before an instant and never given back; return how many files went."""
        count = 0
        for path, _ in list(self.files()):
            if path.parent.name == FETCHED and path.stat().st_mtime_ns < before_ns:
                count += remove_durable(path)
        return count

    def forget_fetched(self, dump_ids: Iterator[bytes] | list[bytes] | None = None) -> int:
        """Remove what was fetched (only these dumps, when named); return how many files went."""
        count = 0
        wanted = None if dump_ids is None else {dump_id.hex() for dump_id in dump_ids}
        for path, _ in list(self.files()):
            if path.parent.name == FETCHED and (wanted is None or path.name.partition(".")[0] in wanted):
                count += remove_durable(path)
        return count
