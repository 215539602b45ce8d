"""What a restore could not give back of a file that is there: its owner, an access control list, its flags."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from dalsegno.terms.counts import count_of

LISTED_MAX: Final = 10_000

OWNER: Final = "owner"
GROUP: Final = "group"
MODE: Final = "mode"
SET_ID: Final = "set-id bit"
TIME: Final = "modification time"
ACL: Final = "access control list"
XATTR: Final = "extended attribute"
FLAGS: Final = "inode flags"
LINK: Final = "hard link"
_COUNTED: Final = {FLAGS: ("set of inode flags", "sets of inode flags")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One attribute of one file."""

    path: bytes
    attribute: str
    """One of the words above."""
    text: str
    """Which one, and why."""


@dataclass(slots=True)
class Losses:
    """All of them counted, the first LISTED_MAX listed."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[Loss] = field(default_factory=list)
    expected: Counter[str] = field(default_factory=Counter)
    """Of `counts`: owners and groups that only root can give, with the set-id bits that are for them, restored by
    somebody else, as tar and rsync do."""

    def add(self, loss: Loss, *, is_expected: bool = False) -> None:
        """Count one and list it."""
        self.counts[loss.attribute] += 1
        if is_expected:
            self.expected[loss.attribute] += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append(loss)

    def unexpected(self) -> Counter[str]:
        """Return the counts of what the user had reason to expect."""
        return self.counts - self.expected


def count_words(counts: Counter[str]) -> str:
    """Return counts as words: `3 owners, 1 access control list`."""
    return ", ".join(
        count_of(count, *_COUNTED.get(attribute, (attribute,))) for attribute, count in sorted(counts.items())
    )
