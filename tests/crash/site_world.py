"""A site with a policy on a recorded disk: its commands, and what each promises.

What was acknowledged comes back from the media of any one target, when the pool does not have it any more.
"""

import random
from dataclasses import dataclass, field, replace

from disk import Disk
from explorer import Command, Contents, Explorer, Promise, fingerprint
from machine import Ran, remove

from dalsegno.archive.labels import write_label

MEDIA = {"disks": ("disk",), "parts": ("part",), "grid": ("a", "b", "c")}
"""The targets, and the directories of each below the home."""
NEW = "new"
"""A medium without a label."""
NOT_IN_CATALOG = "`dal catalog rebuild --add` takes it in"
"""What a killed run left on a medium: no harm."""
POLICY = """
timezone = "UTC"
pool = "HOME/pool"
state = "HOME/state"
[targets.disks]
kind = "directory"
paths = ["HOME/disk", "HOME/new"]
[targets.parts]
kind = "directory"
paths = ["HOME/part"]
slice = "5K"
[targets.grid]
kind = "shares"
paths = ["HOME/a", "HOME/b", "HOME/c"]
n = 3
k = 2
[sets.docs]
sources = ["DOC"]
targets = ["disks", "parts", "grid"]
cycle_days = 7
program = { monday = 0, tuesday = 1, wednesday = 0, thursday = 0, friday = 1, saturday = 2, sunday = 3 }
"""
LAST_DAY = 8
"""The night of the run that looks whether all goes on: after all that may be under way."""
KEEP = "[sets.docs.keep]\narchive = { last = 1 }\nclones = { last = 2 }\n"


def at_night(day: int) -> dict[str, str]:
    """Return the environment of the night `day` days after a Monday."""
    return {"DAL_NOW": f"2026-11-{16 + day:02}T02:00:00Z"}


def clone_of(day: int) -> str:
    """Return the clone that the cycle makes in a night."""
    return f"doc@2026-11-{16 + day:02}T020000Z"


@dataclass
class SiteExplorer(Explorer):
    """Explores a site. Every check hides all targets but one, and the pool's clones."""

    spooled: bool = False
    """No targets: the spool is the archive."""
    alone: str = ""
    """The only target that is there for restores; else one by chance."""
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._chance = random.Random(f"site {self.seed}")
        home = self.machine.home
        self.machine.environment = {"DAL_POLICY": f"{home}/site.toml", "DAL_POOL": f"{home}/pool", **at_night(0)}

    def empty(self) -> Disk:
        """Return a disk with policies and labelled media, and nothing else."""
        self.machine.put(Disk())
        home = self.machine.home
        policy = POLICY.replace("HOME", str(home)).replace("DOC", str(self.doc))
        if self.spooled:
            policy = policy.replace('targets = ["disks", "parts", "grid"]', "")
        (home / "site.toml").write_text(policy)
        (home / "keep.toml").write_text(policy + KEEP)
        (home / NEW).mkdir()
        for target, names in MEDIA.items():
            for name in names:
                (home / name).mkdir()
                kind = "shares" if target == "grid" else "directory"
                write_label(home / name, label=name, target=target, kind=kind, now_ns=1)
        return self.machine.read()

    def says_failure(self, ran: Ran) -> bool:
        """Tell whether a command whose disk failed ended as it should: a set of which a volume failed ends with 1.

        A drill finds what it restored to be wrong, whichever disk failed.
        """
        is_found = ran.codes[0] == 5 and "things are wrong: " in ran.done[0][1]
        return is_found or (ran.codes[0] in (0, 1, 3, 9, 10) and "internal" not in ran.done[0][1])

    def is_excused(self, ran: Ran) -> bool:
        """Tell whether a run says of an earlier dump that shares are missing: `dal archive` makes them."""
        return ran.codes[0] == 3 and "of 3 shares)" in ran.done[0][1]

    def _broken(self, promise: Promise) -> str:
        """Back up the next night, look whether the site says that all is well, then restore everything from one target alone."""
        self.change()
        night, last_clone = at_night(LAST_DAY), clone_of(LAST_DAY)
        wanted = {**promise.clones, last_clone: frozenset({self.now()})}
        ran = self.machine.run(("backup", "--set", "all"), codes=range(256), **night)
        if ran.codes != [0] and not self.is_excused(ran):
            return f"backup --set all: exit {ran.codes[0]}: {ran.done[0][1][-800:]}"
        commands: list[tuple[str, ...]] = [("prune",), ("status",), ("verify", "--pool")]
        if ran.codes != [0]:
            commands = [("archive",), ("backup", "--set", "all"), *commands]
        what = self._first_bad(commands, night)
        if what:
            return what
        days = {name.removeprefix("doc@") for name in wanted}
        checked = self.machine.run(("catalog", "check"), codes=(0, 5), **night).done[0][1]
        for line in checked.splitlines():
            if not line.endswith(NOT_IN_CATALOG) and any(day in line for day in days):
                return f"catalog check: {line}"
        unclone = self.machine.run(*[("unclone", name) for name in sorted(wanted)], codes=(0, 6), **night)
        if set(unclone.codes) - {0, 6}:
            return f"unclone: {unclone.done}"
        for name in promise.dumps:
            if not (self.machine.home / name).is_file():
                return f"{name} is not there"
        return self._restored(wanted, night)

    def _restored(self, wanted: dict[str, Contents], night: dict[str, str]) -> str:
        """Restore from one target alone."""
        out = self.machine.place / "out-tree"
        remove(out)
        out.mkdir()
        alone = "spool" if self.spooled else self.alone or self._chance.choice(sorted(MEDIA))
        for target, names in MEDIA.items():
            gone = names if target != alone else self._chance.sample(names, len(names) // 2)
            for name in (*gone, *((NEW,) if "disk" in gone else ())):
                (self.machine.home / name).rename(self.machine.home / f"{name}.away")
        names = sorted(wanted)
        what = self._first_bad(
            [("restore", name, "--to", str(out / str(number))) for number, name in enumerate(names)], night
        )
        if what:
            return f"only {alone} is there: {what}"
        for number, name in enumerate(names):
            if fingerprint(out / str(number)) not in wanted[name]:
                return f"only {alone} is there: {name} is not what it was"
        return ""

    def _first_bad(self, commands: list[tuple[str, ...]], environment: dict[str, str]) -> str:
        ran = self.machine.run(*commands, **environment)
        code, text, _ = ran.done[-1]
        return "" if code == 0 else f"{' '.join(commands[len(ran.done) - 1])}: exit {code}: {text[-800:]}"


def night(day: int) -> Command:
    """Run the cycle; what a killed run of the same night cloned may be what it finishes."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        made = promise.head | {explorer.now()}
        return replace(promise, clones={**promise.clones, clone_of(day): made}, head=frozenset())

    return Command(
        f"night {day}", ("backup", "--set", "all"), keeps, changes=True, makes_head=True, environment=at_night(day)
    )


def site_command(*words: str, day: int) -> Command:
    """Run a command that promises nothing new, in the night `day`."""
    return Command(" ".join(words), words, environment=at_night(day))


def retrieve(day: int) -> Command:
    """Bring the dumps of a night back from media into a directory."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        back = sorted((explorer.machine.home / "back").glob("*.dump"))
        return replace(promise, dumps={f"back/{path.name}": frozenset() for path in back})

    words = ("retrieve", clone_of(day), "--to", "{home}/back")
    return Command("retrieve", words, keeps, needs=frozenset({clone_of(day)}), environment=at_night(3))


def prune(day: int) -> Command:
    """Remove all but the newest chain."""

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(promise, clones={name: each for name, each in promise.clones.items() if name not in takes})

    takes = frozenset({clone_of(0), clone_of(1)})
    return Command("prune", ("prune", "--policy", "{home}/keep.toml"), keeps, takes=takes, environment=at_night(day))


SITE_MADE = (
    Command("init", ("init", "{home}/pool", "--encryption", "none")),
    night(0),
    night(1),
    night(2),
)
SITE_READERS = tuple(
    site_command(*words, day=3)
    for words in (("verify", "--pool"), ("status",), ("history",), ("catalog", "check"), ("doctor",), ("plan",))
)
"""What is run beside commands that write."""
SITE_COMMANDS = (
    night(3),
    night(3),
    night(4),
    prune(3),
    site_command("archive", day=3),
    site_command("media", "label", "{home}/new", "new", "--target", "disks", day=3),
    site_command("catalog", "rebuild", day=3),
    site_command("drill", day=3),
    retrieve(1),
)
