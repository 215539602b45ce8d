"""Two commands at once: one stands still at any of its steps while the other runs, whole or up to a step of its own.

What both acknowledged must be what one of the two orders would have given, and must outlast a power cut at any point.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from disk import Disk
from explorer import Command, Explorer, Promise
from machine import Beside, Ran, cut_state, states

CONFLICT = 7
BUSY = ("database is locked", "meanwhile")
"""What a command says when the catalog is written by another that does not go on, and when another took away what it works on."""


def either(one: Promise, other: Promise) -> Promise:
    """Return what holds if one of two promises does."""
    return Promise(
        clones={name: one.clones[name] | other.clones[name] for name in one.clones.keys() & other.clones},
        dumps={name: one.dumps[name] | other.dumps[name] for name in one.dumps.keys() & other.dumps},
        keys=one.keys & other.keys,
        held=one.held & other.held,
        gone=one.gone & other.gone,
        head=one.head | other.head,
    )


@dataclass
class Pairs:
    """Runs pairs of commands on one explorer. Counts what came of them."""

    explorer: Explorer
    base: Disk
    promise: Promise
    counts: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str]] = field(default_factory=set)
    """Pairs that were tried."""

    def summary(self) -> str:
        """Return what was tried."""
        return ", ".join(f"{count} {what}" for what, count in {"ordered pairs": len(self.seen), **self.counts}.items())

    def tried(self, first: Command, second: Command, chance: random.Random, count: int) -> None:
        """Interrupt the first at some of its calls for the second, then cut the power at some points."""
        explorer = self.explorer
        if first.changes or second.changes:
            explorer.change()
        source = explorer.source()
        allowed = self._in_turn(first, second), self._in_turn(second, first)[::-1]
        alone, other = explorer.record(self.base, first), explorer.record(self.base, second)
        self.seen.add((first.name, second.name))
        for at in places(alone, chance, count):
            explorer.put_source(source)
            until = chance.randrange(1, other.calls + 1) if chance.random() < 0.4 else 0
            beside = Beside(explorer.words(second), second.environment, at, until)
            ran = explorer.record(self.base, first, beside=beside)
            how = f"{first.name} at call {at} of {alone.calls}, {second.name} beside it up to call {until or 'the end'}"
            self._count(ran)
            wrong = judged(ran, allowed)
            if wrong:
                explorer.note(how, wrong)
            self._cut(ran, first, second, chance, how)
        explorer.put_source(source)

    def _in_turn(self, first: Command, second: Command) -> tuple[int, int]:
        """Return how both end when one runs after the other."""
        explorer = self.explorer
        explorer.machine.put(self.base)
        codes = [
            explorer.machine.run(explorer.words(each), codes=range(256), **each.environment).codes[0]
            for each in (first, second)
        ]
        return codes[0], codes[1]

    def _count(self, ran: Ran) -> None:
        self.counts["interleavings"] += 1
        self.counts["waited for a lock"] += bool(ran.waits or ran.done[1][3])
        self.counts["refused as another is at work"] += CONFLICT in ran.codes

    def _cut(self, ran: Ran, first: Command, second: Command, chance: random.Random, how: str) -> None:
        chosen = states(ran.log, chance, count=2)
        if chance.random() < 0.5:
            chosen[0] = (len(ran.log), *chosen[0][1:])
        expected = [self._expected(ran, first, second, choice[0]) for choice in chosen]
        for choice, promise in zip(chosen, expected, strict=True):
            self.explorer.machine.put(cut_state(self.base, ran.log, choice))
            self.explorer.check(promise, f"{how}; power cut {choice}")

    def _expected(self, ran: Ran, first: Command, second: Command, cut: int) -> Promise:
        """Return what was acknowledged before the power went."""
        explorer = self.explorer
        ended = [
            command for command, each in zip((first, second), ran.done, strict=True) if not each[0] and each[2] <= cut
        ]
        if len(ended) == 2:
            one = second.keeps(explorer, first.keeps(explorer, self.promise))
            other = first.keeps(explorer, second.keeps(explorer, self.promise))
            return either(one, other)
        promise = self.promise
        under_way = [command for command in (first, second) if command not in ended]
        for each in under_way:
            promise = explorer.under_way(promise, each)
        for each in ended:
            promise = each.keeps(explorer, promise)
        for each in under_way:  # it may take what the other made
            promise = explorer.under_way(promise, each)
        return replace(promise, held=promise.held & self.promise.held if under_way else promise.held)


def places(alone: Ran, chance: random.Random, count: int) -> Sequence[int]:
    """Return some calls at which to interrupt a command: most before or behind one that does something to the disk."""
    steps = sorted({call + more for call in alone.logged_at for more in (0, 1)})
    return [
        chance.choice(steps) if steps and chance.random() < 0.7 else chance.randrange(1, alone.calls + 1)
        for _ in range(count)
    ]


def judged(ran: Ran, allowed: Iterable[tuple[int, int]]) -> str:
    """Return what is wrong with how two commands ended, or nothing: as in one of both orders, or one was told to try again."""
    text = "".join(each[1] for each in ran.done)
    words = "\n".join(f"exit {each[0]}: {each[1][-400:]}" for each in ran.done)
    if "internal" in text or "Traceback" in text:
        return words
    codes = ran.codes[0], ran.codes[1]
    busy = [each[0] == CONFLICT or any(words in each[1] for words in BUSY) for each in ran.done]
    for order in allowed:
        if all(one == other or is_busy for one, other, is_busy in zip(codes, order, busy, strict=True)):
            return ""
    return f"neither order ends so {sorted(set(allowed))}: {words}"


def all_pairs(commands: Sequence[Command], chance: random.Random) -> Iterator[tuple[Command, Command]]:
    """Yield all ordered pairs of commands in an order by chance, again and again."""
    pairs = [(first, second) for first in commands for second in commands]
    while True:
        chance.shuffle(pairs)
        yield from pairs


def explore_pairs(
    explorer: Explorer, made: Sequence[Command], commands: Sequence[Command], *, states_min: int, on: Disk | None = None
) -> Pairs:
    """Try pairs until so many states were tried."""
    chance = random.Random(f"pairs {explorer.seed}")
    pairs = Pairs(explorer, *explorer.prepared(*made, on=on))
    for first, second in all_pairs(commands, chance):
        if explorer.tried >= states_min:
            break
        pairs.tried(first, second, chance, 2)
    return pairs
