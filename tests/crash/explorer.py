"""Try commands on a machine that loses its power, kills processes or has a disk that cannot sync, and look what is left.

What was acknowledged (exit code 0) before the cut must be there and whole. What was under way may be there or not. And the machine must go
on: the next backup, collection and check succeed.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from disk import Disk, lost_alone
from machine import Beside, Machine, Ran, cut_state, remove, states
from recorder import Fault, Op

SEED = int(os.environ.get("DAL_CRASH_SEED", "20261130"))
STATES = int(os.environ.get("DAL_CRASH_STATES", "160"))

NOT_THERE = (4, 6)
"""How a command ends that does not find what it works on, or may not touch what took its place."""


ALREADY_THERE = 4
"""How a command ends that would make what is there."""
THERE = (" exists already", "there is a holder ")
"""What it says."""


def fingerprint(root: Path) -> str:
    """Return a digest of names and contents below a directory."""
    digest = hashlib.sha256()
    for directory, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(names):
            path = Path(directory, name)
            digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


Contents = frozenset[str]
"""Fingerprints, one of which a tree must have: of what a killed command left nobody knows whether it is the old or the new."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What was acknowledged."""

    clones: dict[str, Contents] = field(default_factory=dict)
    """Address: reads back exactly."""
    dumps: dict[str, Contents] = field(default_factory=dict)
    """Dump or chain, relative to the home: restores exactly."""
    keys: frozenset[str] = frozenset()
    """Exported key files."""
    held: frozenset[str] = frozenset()
    """Clones that nobody may remove."""
    holders: dict[str, bool] = field(default_factory=dict)
    """Whether somebody holds the pool's key."""
    signers: dict[str, bool] = field(default_factory=dict)
    """Whether the pool knows a signer."""
    gone: frozenset[str] = frozenset()
    """Addresses that must not come back."""
    head: Contents = frozenset()
    """What the newest state of the volume may be."""
    facts: dict[str, Contents] = field(default_factory=dict)
    """What else was told, and what it may be."""

    def heard(self, log: Iterable[Op]) -> "Promise":
        """Return what holds once somebody was told what operations tell; of a `tree ADDRESS` that is what it reads back as.

        Of what nobody was told before it does not matter what it may become.
        """
        clones, facts = dict(self.clones), dict(self.facts)
        for op in log:
            if op[0] == "told":
                _, kind, what, value = op
                address = what.removeprefix("tree ")
                known, key = (facts, what) if address == what else (clones, address)
                if kind == "ends":
                    facts = {each: values for each, values in facts.items() if not each.startswith(what)}
                elif kind == "is":
                    known[key] = frozenset({value})
                elif key in known:
                    known[key] |= {value}
        return replace(self, clones=clones, facts=facts)


@dataclass(frozen=True, slots=True)
class Command:
    """A command, what holds once it has ended well, and what changes aside before it."""

    name: str
    words: Sequence[str]
    keeps: Callable[["Explorer", Promise], Promise] = lambda explorer, promise: promise
    takes: frozenset[str] = frozenset()
    """What it may take away while it is under way: addresses, and dumps that it replaces."""
    needs: frozenset[str] = frozenset()
    """What must be there for it to end well."""
    forgets: tuple[str, ...] = ()
    """What of the facts it may make untrue, by how they begin."""
    changes: bool = False
    """The source is changed before."""
    makes_head: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Failure:
    """A state in which something promised was missing, and how it came about."""

    how: str
    what: str


@dataclass
class Explorer:
    """Explores one machine. Counts what it tried."""

    machine: Machine
    seed: int
    doc: Path = field(init=False)
    tried: int = 0
    failures: list[Failure] = field(default_factory=list)
    covered: set[tuple[str, str, str]] = field(default_factory=set)
    """What was tried: "cut", "kill" or "fail", and two commands."""
    _generation: int = 0

    def __post_init__(self) -> None:
        self.doc = self.machine.aside / "doc"
        self.doc.mkdir(exist_ok=True)
        self.change()

    # -- the source

    def change(self) -> None:
        """Change the source: one file is new, one other than before, one stays."""
        chance = random.Random(f"{self.seed} {self._generation}")
        self._generation += 1
        (self.doc / "sub").mkdir(exist_ok=True)
        (self.doc / "same").write_bytes(random.Random(self.seed).randbytes(3000))
        (self.doc / "plan").write_bytes(chance.randbytes(2000))
        (self.doc / "sub" / f"new{self._generation % 3}").write_bytes(chance.randbytes(500))

    def source(self) -> dict[str, bytes]:
        """Return the files of the source."""
        return {str(path.relative_to(self.doc)): path.read_bytes() for path in self.doc.rglob("*") if path.is_file()}

    def put_source(self, files: dict[str, bytes]) -> None:
        """Make the source what it was."""
        for name in self.source().keys() - files:
            (self.doc / name).unlink()
        for name, data in files.items():
            (self.doc / name).write_bytes(data)

    def now(self) -> str:
        """Return what the source holds."""
        return fingerprint(self.doc)

    # -- checks

    def note(self, how: str, what: str) -> None:
        """Note a failure, and say it at once."""
        self.failures.append(Failure(how, what))
        print(f"FAILURE {how}\n    {what}", flush=True)

    def check(self, promise: Promise, how: str) -> bool:
        """Look whether the home that is there keeps a promise and goes on; note a failure."""
        self.tried += 1
        what = self._broken(promise)
        if what:
            self.note(how, what)
        return not what

    def _broken(self, promise: Promise) -> str:
        out = self.machine.place / "out-tree"
        remove(out)
        out.mkdir()
        trees = [*promise.clones.items(), *((self._dump(name), wanted) for name, wanted in promise.dumps.items())]
        commands: list[Sequence[str]] = [("verify", "--pool")] if promise.clones else []
        commands += [("restore", name, "--to", str(out / str(number))) for number, (name, _) in enumerate(trees)]
        self.change()
        last = f"after{self._generation}"
        commands += [
            ("backup", str(self.doc), "--name", last),
            ("gc", "--grace", "0s"),
            ("verify", "--pool"),
            ("restore", f"doc@{last}", "--to", str(out / "after")),
        ]
        ran = self.machine.run(*commands)
        code, text, _ = ran.done[-1]
        if code != 0:
            return f"{' '.join(commands[len(ran.done) - 1])}: exit {code}: {text[-600:]}"
        for number, (name, wanted) in enumerate(trees):
            if fingerprint(out / str(number)) not in wanted:
                return f"{name} is not what it was"
        if fingerprint(out / "after") != self.now():
            return "the backup afterwards is not what the source is"
        for key in promise.keys:
            path = self.machine.home / key
            if not path.is_file() or path.stat().st_size < 100:
                return f"key file {key} is not there or not whole"
        for address in promise.held:
            if self.machine.run(("unclone", address), codes=range(256)).codes != [4]:
                return f"{address} is not held"
        for name, is_there in promise.holders.items():
            if self.machine.run(("key", "remove", name), codes=range(256)).codes != [0 if is_there else 6]:
                return f"holder {name} is {'not there' if is_there else 'there again'}"
        for name, is_there in promise.signers.items():
            if self.machine.run(("key", "remove-signer", name), codes=range(256)).codes != [0 if is_there else 6]:
                return f"signer {name} is {'not there' if is_there else 'there again'}"
        addresses = sorted(promise.gone)
        listed = self.machine.run(*[("ls", address) for address in addresses], stop=False)
        for address, code in zip(addresses, listed.codes, strict=True):
            if code == 0:
                return f"{address} came back"
        return ""

    def _dump(self, chain: str) -> str:
        return "+".join(str(self.machine.home / name) for name in chain.split("+"))

    # -- scenarios

    def words(self, command: Command) -> list[str]:
        """Return the words of a command on this machine."""
        return [word.format(doc=self.doc, home=self.machine.home) for word in command.words]

    def _prepare(self, command: Command) -> None:
        if command.changes:
            self.change()

    def under_way(self, promise: Promise, command: Command) -> Promise:
        """Return what holds while a command is under way, or after it was killed."""
        return replace(
            promise,
            clones={name: wanted for name, wanted in promise.clones.items() if name not in command.takes},
            dumps={name: wanted for name, wanted in promise.dumps.items() if name not in command.takes},
            gone=frozenset(),
            holders={name: there for name, there in promise.holders.items() if name not in command.takes},
            signers={name: there for name, there in promise.signers.items() if name not in command.takes},
            facts={what: wanted for what, wanted in promise.facts.items() if not what.startswith(command.forgets)},
            head=promise.head | {self.now()} if command.makes_head else promise.head,
        )

    def prepared(self, *commands: Command, on: Disk | None = None) -> tuple[Disk, Promise]:
        """Run commands that end well on an empty home, or on one; return the disk, all of it durable, and what was promised."""
        self.machine.put(on or Disk())
        promise = Promise()
        for each in commands:
            self._prepare(each)
            ran = self.machine.run(self.words(each), record=each.words[0].startswith("@"), **each.environment)
            assert ran.codes == [0], (each.name, ran.done)
            promise = each.keeps(self, promise).heard(ran.log)
        return self.machine.read(), promise

    def record(self, disk: Disk, command: Command, *, fault: Fault | None = None, beside: Beside | None = None) -> Ran:
        """Run a command on a disk and record what it does, with the numbers that files have on that disk."""
        self.machine.put(disk)
        ran = self.machine.run(
            self.words(command),
            record=True,
            codes=range(256),
            fault=fault,
            beside=beside,
            **command.environment,
        )
        numbers = {number: disk.number_at(path) for number, path in ran.known.items()}
        offset = max(disk.files, default=0) + 1000
        ran.log = [_renumbered(op, numbers, offset) for op in ran.log]
        return ran

    def cut_one(self, base: Disk, promise: Promise, command: Command, chance: random.Random, count: int) -> None:
        """Power cuts during and after one command."""
        self._prepare(command)
        ran = self.record(base, command)
        assert ran.codes == [0], (command.name, ran.done)
        made, under_way = command.keeps(self, promise), self.under_way(promise, command)
        for choice in states(ran.log, chance, count=count):
            self.machine.put(cut_state(base, ran.log, choice))
            expected = (made if choice[0] == len(ran.log) else under_way).heard(ran.log[: choice[0]])
            self.check(expected, f"{command.name}; power cut {choice}")

    def kill_then(
        self, base: Disk, promise: Promise, first: Command, second: Command, chance: random.Random, count: int
    ) -> None:
        """The first is killed at some operation, the second runs, then the power goes while it runs or after it."""
        self._prepare(first)
        whole = self.record(base, first)
        under_way = self.under_way(promise, first)  # of the source as it is now
        done = first.keeps(self, promise) if first.name == second.name else None
        lacks = bool((first.takes | first.needs) & second.needs)
        for _ in range(count):
            killed = chance.randrange(len(whole.log) + 1)
            how = f"{first.name} killed at {killed}"
            log = whole.log[:killed]
            self._second(base, log, under_way.heard(log), second, chance, how, lacks=lacks, done=done)

    def fail_then(
        self, base: Disk, promise: Promise, first: Command, second: Command, chance: random.Random, count: int
    ) -> None:
        """One sync of the first fails, or one write finds no room; the second runs, then the power goes."""
        self._prepare(first)
        whole = self.record(base, first)
        for _ in range(count):
            kind = chance.choice(("sync", "full", "write"))
            failing = chance.randrange(1, whole.counts[kind] + 1) if whole.counts[kind] else 0
            ran = self.record(base, first, fault=(kind, failing))
            how = f"{first.name}, {kind} {failing} fails (exit {ran.codes[0]})"
            if not self.says_failure(ran):
                self.note(how, ran.done[0][1])
            # What it acknowledged all the same is promised: it did without what failed.
            promised = first.keeps(self, promise) if ran.codes == [0] else self.under_way(promise, first)
            lacks = bool((first.takes | first.needs) & second.needs)
            # The second may make anew what the first removed.
            promised = replace(promised, gone=frozenset()).heard(ran.log)
            done = first.keeps(self, promise) if first.name == second.name else None
            self._second(base, ran.log, promised, second, chance, how, lacks=lacks, done=done)

    def says_failure(self, ran: Ran) -> bool:
        """Tell whether a command whose disk failed ended as it should."""
        return ran.codes[0] in (0, 3, 9, 10)

    def is_excused(self, ran: Ran) -> bool:
        """Tell whether a command may end so behind another that failed: it acknowledges nothing then."""
        return False

    def then(
        self,
        base: Disk,
        log: list[Op],
        promise: Promise,
        second: Command,
        how: str,
        *,
        lacks: bool = False,
        done: Promise | None = None,
    ) -> tuple[list[Op], Promise, Promise]:
        """Run a second command on what the first, whose operations are `log`, left in memory: none of that has to last.

        Return what both did, what holds after the second, and what holds when it begins. `lacks`: what the second needs may
        be gone, or be there no more when it looks again. `done`: what holds if the first was done all the same, and the
        second is the same command: that it is refused because what it makes exists already tells that it was, and whoever
        was told so relies on it.
        """
        half = base.copy()
        for op in log:
            half.apply(op)
        self._prepare(second)
        ran = self.record(half, second)
        under_way = self.under_way(promise, second)
        made = under_way.heard(ran.log)
        if ran.codes == [0]:
            made = second.keeps(self, promise).heard(ran.log)
        elif done is not None and ran.codes == [ALREADY_THERE] and any(text in ran.done[0][1] for text in THERE):
            made = replace(done, gone=frozenset()).heard(ran.log)
        elif not self.is_excused(ran) and not (lacks and ran.codes[0] in NOT_THERE):
            self.note(how, f"then {second.name}: exit {ran.codes[0]}: {ran.done[0][1][-500:]}")
        return [*log, *ran.log], made, under_way

    def _second(
        self,
        base: Disk,
        log: list[Op],
        promise: Promise,
        second: Command,
        chance: random.Random,
        how: str,
        *,
        lacks: bool,
        done: Promise | None,
    ) -> None:
        both, made, under_way = self.then(base, log, promise, second, how, lacks=lacks, done=done)
        for choice in states(both, chance, count=2, first=len(log)):
            if chance.random() < 0.5:
                choice = (len(both), *choice[1:])
            self.machine.put(cut_state(base, both, choice))
            expected = made if choice[0] == len(both) else under_way.heard(both[len(log) : choice[0]])
            self.check(expected, f"{how}; then {second.name}; power cut {choice}")

    def killed_where(
        self, base: Disk, promise: Promise, first: Command, second: Command, last: Callable[[Op], bool]
    ) -> None:
        """The first is killed right behind the last operation that fits, the second runs; then the power goes.

        What was not synced is lost: all of it, or that operation alone.
        """
        self._prepare(first)
        log = self.record(base, first).log
        killed = max(position for position, op in enumerate(log) if last(op)) + 1
        how = f"{first.name} killed at {killed}"
        under_way = self.under_way(promise, first).heard(log[:killed])
        done = first.keeps(self, promise) if first.name == second.name else None
        both, made, _ = self.then(base, log[:killed], under_way, second, how, done=done)
        self.machine.put(cut_state(base, both, (len(both), 0.0, 0)))
        self.check(made, f"{how}; then {second.name}; power cut")
        self.machine.put(lost_alone(base, both, killed - 1))
        self.check(made, f"{how}; then {second.name}; power cut, and it alone is lost")


def explore(
    explorer: Explorer,
    made: Sequence[Command],
    commands: Sequence[Command],
    *,
    states_min: int,
    on: Disk | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Try single commands, and pairs of which the first is killed or meets a sync that fails, until so many states were tried.

    All of them are tried before one is tried again. `on`: the disk on which all begins, for commands that want more than an
    empty one. `part` and `parts`: which share of them is tried.
    """
    chance = random.Random(explorer.seed)
    base, promise = explorer.prepared(*made, on=on)
    for kind, first, second in turns_of(commands, part, parts, random.Random(explorer.seed - part)):
        if explorer.tried >= states_min:
            break
        explorer.covered.add((kind, first.name, second.name))
        if on is None and chance.random() < 0.1:
            explorer.cut_one(Disk(), Promise(), made[0], chance, 2)
            explorer.kill_then(Disk(), Promise(), made[0], made[2], chance, 2)
        match kind:
            case "cut":
                explorer.cut_one(base, promise, first, chance, 3)
            case "kill":
                explorer.kill_then(base, promise, first, second, chance, 1)
            case "fail":
                explorer.fail_then(base, promise, first, second, chance, 1)
    pairs = {kind: sum(each[0] == kind for each in explorer.covered) for kind in ("kill", "fail")}
    print(
        f"{explorer.tried} states; part {part + 1} of {parts} of {len(commands) ** 2} ordered pairs: "
        f"{pairs['kill']} with a kill, {pairs['fail']} with a failing disk"
    )


def turns_of(
    commands: Sequence[Command], part: int, parts: int, chance: random.Random
) -> Iterator[tuple[str, Command, Command]]:
    """Yield what to try: each command alone, and all ordered pairs with a kill and with a failing disk, in an order by chance."""
    pairs = [(kind, first, second) for kind in ("kill", "fail") for first in commands for second in commands]
    work = [*pairs, *(("cut", each, each) for each in commands for _ in commands)]
    chance.shuffle(work)
    while True:
        yield from work[part::parts]


def _renumbered(op: Op, numbers: dict[int, int], offset: int) -> Op:
    """Return an operation with other numbers of files: those of files that are new get `offset` added."""
    match op:
        case ("name", directory, name, int(number)):
            return ("name", directory, name, numbers.get(number, number + offset))
        case ("write" | "size" | "sync", number, *rest):
            return (op[0], numbers.get(number, number + offset), *rest)
    return op


def shown(failures: Iterator[Failure] | list[Failure]) -> str:
    """Return failures as text."""
    return "\n".join(f"{each.how}\n    {each.what}" for each in failures)
