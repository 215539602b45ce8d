"""One call of a command fails, each in its turn: a sync, a write, a read, an opening, a listing, a question for a file's status.

The command ends with an exit code that says so and one line, what was acknowledged is there, nothing is deleted because
something could not be read, and the next commands go on.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from disk import Disk
from explorer import Command, Explorer, Promise
from recorder import FAULTS

DAMAGED = 5
"""The exit code for a sector that cannot be read, where what lies there is kept."""
Fault = tuple[Command, str, int]


@dataclass
class Faults:
    """Lets calls of commands fail on one explorer. Counts what came of them."""

    explorer: Explorer
    base: Disk
    promise: Promise
    counts: Counter[str] = field(default_factory=Counter)
    """How many calls of each kind failed, and how commands ended."""
    codes: dict[str, int] = field(default_factory=dict)
    """How each command ends when nothing fails."""
    known: int = 0
    """How many calls there are that may fail."""

    def summary(self) -> str:
        """Return what was tried."""
        return f"{self.explorer.tried} of {self.known} calls failed: " + ", ".join(
            f"{count} {what}" for what, count in sorted(self.counts.items())
        )

    def all_faults(self, commands: Sequence[Command]) -> list[Fault]:
        """Return every call of every command that may fail."""
        source = self.explorer.source()
        found = []
        for command in commands:
            ran = self.explorer.record(self.base, command)
            self.codes[command.name] = ran.codes[0]
            found += [(command, kind, number) for kind in FAULTS for number in range(1, ran.counts[kind] + 1)]
        self.explorer.put_source(source)
        self.known = len(found)
        return found

    def fail(self, command: Command, kind: str, number: int) -> None:
        """Let one call fail, and look what is left."""
        explorer = self.explorer
        if command.changes:
            explorer.change()
        ran = explorer.record(self.base, command, fault=(kind, number))
        code, text = ran.done[0][:2]
        how = f"{command.name}, {kind} {number} of {ran.counts[kind]} fails (exit {code})"
        self.counts[kind] += 1
        self.counts[f"exit {code}"] += 1
        is_said = explorer.says_failure(ran) or (code == DAMAGED and kind in ("read", "open"))
        if "internal" in text or not (code == self.codes[command.name] or is_said):
            explorer.note(how, text)
        promise = explorer.under_way(self.promise, command) if code else command.keeps(explorer, self.promise)
        explorer.check(replace(promise, gone=frozenset()) if code else promise, f"{how}: {text[-300:]}")


def explore_faults(
    explorer: Explorer,
    made: Sequence[Command],
    commands: Sequence[Command],
    *,
    states_min: int,
    kinds: Sequence[str] = tuple(FAULTS),
    on: Disk | None = None,
) -> Faults:
    """Let calls fail, in an order by chance, until so many did or all have."""
    chance = random.Random(f"faults {explorer.seed}")
    faults = Faults(explorer, *explorer.prepared(*made, on=on))
    found = [fault for fault in faults.all_faults(commands) if fault[1] in kinds]
    for fault in in_turn(found, chance)[:states_min]:
        faults.fail(*fault)
    return faults


def in_turn(found: Sequence[Fault], chance: random.Random) -> list[Fault]:
    """Return faults in an order by chance in which the kinds take turns: there are many more questions than syncs."""
    by_kind: dict[str, list[Fault]] = {}
    for fault in chance.sample(found, len(found)):
        by_kind.setdefault(fault[1], []).append(fault)
    rounds = zip_longest(*by_kind.values())
    return [fault for each in rounds for fault in each if fault is not None]
