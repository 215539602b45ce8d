"""Whose restored files become: by name, by number, or by a map."""

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

from dalsegno.formats.objects import Entry
from dalsegno.terms.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerMap:
    """Whose the restored files are: by `name` (number when the host lacks the name), by `number`, or by a `map`."""

    mode: str = "name"
    users: Mapping[bytes, int] = field(default_factory=dict)
    """For `map`: from a name or a decimal number to the number here; what is not in it goes by name."""
    groups: Mapping[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in ("name", "number", "map"):
            raise BadInput(f"owners {self.mode!r}: expected name, number or map")


class Owners:
    """Numbers of owners, each decided once."""

    def __init__(self, rule: OwnerMap) -> None:
        self._rule = rule
        self._known: dict[tuple[int, int, bytes, bytes], tuple[int, int]] = {}

    def of(self, entry: Entry) -> tuple[int, int]:
        mark = (entry.uid, entry.gid, entry.owner, entry.group)
        found = self._known.get(mark)
        if found is None:
            found = self._known[mark] = (self._user(entry), self._group(entry))
        return found

    def _user(self, entry: Entry) -> int:
        rule = self._rule
        if rule.mode == "number":
            return entry.uid
        for key in (entry.owner, b"%d" % entry.uid):
            if rule.mode == "map" and key and key in rule.users:
                return rule.users[key]
        try:
            return pwd.getpwnam(os.fsdecode(entry.owner)).pw_uid if entry.owner else entry.uid
        except (KeyError, ValueError):
            return entry.uid

    def _group(self, entry: Entry) -> int:
        rule = self._rule
        if rule.mode == "number":
            return entry.gid
        for key in (entry.group, b"%d" % entry.gid):
            if rule.mode == "map" and key and key in rule.groups:
                return rule.groups[key]
        try:
            return grp.getgrnam(os.fsdecode(entry.group)).gr_gid if entry.group else entry.gid
        except (KeyError, ValueError):
            return entry.gid
