"""Which volumes belong to which set, from the names and directories there are when a run begins. Pure."""

import fnmatch
import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from dalsegno.backup.policy import Policy
from dalsegno.terms.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A volume that the pool has; `source` is empty for a native one."""

    name: str
    source: str = ""
    servers: tuple[str, ...] = ()
    """The servers of its realm that hold it, as far as they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A volume of a set; `source` alone is set for a directory that is not a volume yet."""

    set_name: str
    volume: str
    source: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The sets, filled."""

    members: tuple[Member, ...]
    empty: tuple[str, ...]
    """Words of the policy, as `SET: WORD`, that nothing answers to: named volumes and directories without glob."""


def choose_sets(policy: Policy, names: Sequence[str]) -> list[str]:
    """Return the sets that `names` mean; `all` is every one. BadInput names what there is."""
    known = list(policy.sets)
    for name in names:
        if name != "all" and name not in known:
            raise BadInput(f"no set {name!r} in {policy.path}: there is {', '.join(known)}, and all")
    return known if "all" in names else [name for name in known if name in names]


def find_members(policy: Policy, known: Iterable[Known], directories: Iterable[str]) -> Membership:
    """Return which volume belongs to which set. BadInput when a volume belongs to two.

    `directories` are those that the sets' sources name now. A tracked volume belongs to the set that names its source,
    too; a directory without a volume becomes one when it is backed up.
    """
    owner: dict[str, Member] = {}
    matched: set[tuple[str, str]] = set()

    def claim(member: Member, word: str, key: str) -> None:
        matched.add((member.set_name, word))
        first = owner.setdefault(key, member)
        if first.set_name != member.set_name:
            raise BadInput(
                f"{policy.path}: volume {first.volume!r} belongs to set {first.set_name!r} and to {member.set_name!r} "
                f"by {word!r}: take it out of one of them"
            )

    volumes = sorted(known, key=lambda volume: volume.name)
    servers = {server for volume in volumes for server in volume.servers}
    tracked = {volume.source for volume in volumes if volume.source}
    for chosen in policy.sets.values():
        for volume in volumes:
            member = Member(set_name=chosen.name, volume=volume.name, source=volume.source)
            for word in chosen.volumes:
                if _names(word, volume, servers):
                    claim(member, word, volume.name)
            for word in chosen.sources:
                if volume.source and path_matches(volume.source, word):
                    claim(member, word, volume.name)
        for directory in sorted(set(directories) - tracked):
            for word in chosen.sources:
                if path_matches(directory, word):
                    name = posixpath.basename(directory) or "root"
                    new = Member(set_name=chosen.name, volume=name, source=directory, is_new=True)
                    claim(new, word, directory)
    empty = [
        f"{chosen.name}: {word}"
        for chosen in policy.sets.values()
        for word in (*chosen.volumes, *chosen.sources)
        if (chosen.name, word) not in matched and not re.search(r"[*?\[]", word)
    ]
    ordered = sorted(owner.values(), key=lambda member: (list(policy.sets).index(member.set_name), member.volume))
    return Membership(members=tuple(ordered), empty=tuple(empty))


def _names(word: str, volume: Known, servers: Collection[str]) -> bool:
    """Tell whether a word of a policy means a volume: its name, a glob, or one of these with a server or realm."""
    place, pattern = "", word
    if word.startswith("//"):
        place, _, pattern = word[2:].partition("/")
    if not fnmatch.fnmatchcase(volume.name, pattern):
        return False
    return place not in servers or place in volume.servers or not volume.servers


def path_matches(path: str, pattern: str) -> bool:
    """Tell whether a path fits a glob, part by part: `*` does not cross a slash."""
    parts, patterns = PurePath(path).parts, PurePath(pattern).parts
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))
