"""The labelled media of one target: which of them are here, and how to get one that is not."""

import os
import stat
from collections.abc import Collection
from pathlib import Path

from dalsegno.archive.labels import BadLabel, Looked, Mounted, look, wrong_medium
from dalsegno.archive.targets import Ask
from dalsegno.backup.policy import DirectoryPolicy, SharesPolicy
from dalsegno.backup.records import DUMPS_DIRECTORY, Medium
from dalsegno.terms.errors import Refused, Unavailable
from dalsegno.world.files import file_errors


class MediaSet:
    """The media of a target, in the places that its policy names; looked at anew with every call."""

    def __init__(
        self, policy: DirectoryPolicy | SharesPolicy, *, ask: Ask | None = None, lost: Collection[str] = ()
    ) -> None:
        self.policy = policy
        self.name = policy.name
        self.has_person = ask is not None
        """True when somebody can be asked for a medium."""
        self._ask = ask
        self._lost = lost

    def look(self) -> Looked:
        """Return what is in the places now. Refused: two media have one label."""
        policy = self.policy
        return look(policy.paths, target=policy.name, kind=policy.kind, patterns=policy.labels, lost=self._lost)

    def here(self) -> dict[str, Mounted]:
        """Return the media that are here now, by label."""
        return {each.label.label: each for each in self.look().ours}

    def present(self) -> list[Medium]:
        """Return the media that are here now, as the catalog describes them."""
        found = []
        for label, mounted in sorted(self.here().items()):
            with file_errors(mounted.path):
                status = os.statvfs(mounted.path)
            capacity = status.f_blocks * status.f_frsize
            found.append(
                Medium(
                    label=label,
                    target=self.name,
                    kind=self.policy.kind,
                    id=bytes.fromhex(mounted.label.id),
                    capacity_bytes=capacity,
                    used_bytes=capacity - status.f_bavail * status.f_frsize,
                )
            )
        return found

    def bad_labels(self) -> list[BadLabel]:
        """Return the places whose label cannot be read."""
        return list(self.look().bad)

    @property
    def places(self) -> str:
        """Where media are looked for, in words."""
        return " or ".join(map(str, self.policy.paths))

    def ask(self, question: str) -> bool:
        """Ask for a medium, when there is somebody; True when they say that it is there now."""
        return self._ask is not None and self._ask(question)

    def require(self, label: str) -> Mounted:
        """Return the medium with this label, asking for it when somebody is there to ask.

        Unavailable: it is not here. Refused: every place holds another medium. Damaged: a label cannot be read.
        """
        while True:
            looked = self.look()
            ours = {each.label.label: each for each in looked.ours}
            if label in ours:
                return ours[label]
            if self.ask(f"insert medium {label!r} of target {self.name} at {self.places}"):
                continue
            looked.require_readable()
            others = [*looked.strangers, *looked.ours]
            if others and len(self.policy.paths) == len(others):
                raise wrong_medium(others, wanted=f"{label!r} of target {self.name!r}")
            raise Unavailable(f"medium {label!r} of target {self.name} is not here: insert it at {self.places}")


def free_bytes(path: Path) -> int:
    """Return how many bytes the file system at a path has for us."""
    with file_errors(path):
        status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def dumps_directory(root: Path) -> Path:
    """Return where dumps lie on a medium. Refused when something there leads elsewhere: we write and remove as root."""
    place = root / DUMPS_DIRECTORY
    try:
        mode = os.lstat(place).st_mode
    except OSError:
        return place  # not made yet, or who opens it says what is wrong
    if not stat.S_ISDIR(mode):
        raise Refused(f"{place}: is no directory: remove it from the medium, dumps are stored in one of that name")
    return place
