"""Compare the replicas of a volume: heads, clones and replica sets; deep: every object, on every server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dalsegno.chunks.realm import Realm
from dalsegno.formats.object_rows import read_rows, row_ids, row_kinds, row_lengths
from dalsegno.formats.objects import KIND_REVISION
from dalsegno.replicas.clones import identity as identity_of
from dalsegno.replicas.clones import plan_clones
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.filling import missing_of_many
from dalsegno.replicas.group import Group
from dalsegno.replicas.histories import kept
from dalsegno.replicas.sources import unpack
from dalsegno.replicas.transfer import cut_groups, fetch
from dalsegno.replicas.writers import WriterPoll, Writers
from dalsegno.terms.errors import Conflict, DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES, hex_short
from dalsegno.terms.times import show_time
from dalsegno.volumes import leases
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import VolumeState

# What a finding is about.
AWAY: Final = "away"
HEAD: Final = "head"
CLONE: Final = "clone"
REPLICAS: Final = "replicas"
FROZEN: Final = "frozen"
OBJECT: Final = "object"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in which a server differs from the others, or in which it is not whole."""

    server: str
    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check looked at."""

    differences: tuple[Difference, ...]
    servers: tuple[str, ...]
    objects: int = 0
    """Objects that were read and compared with their ids, on all servers together."""
    payload_bytes: int = 0


def check_replicas(group: Group, *, deep: bool = False, report: Report = silent) -> Checked:
    """Compare the writers of a volume and change nothing; `deep` reads every object of heads and clones everywhere."""
    writers = group.writers
    polled = writers.poll(changes=False)
    found = [
        *_compare_answers(polled, now_ns=writers.context.clock()),
        *_compare_heads(writers, polled),
        *_compare_clones(polled),
    ]
    counts = [0, 0]
    if deep:
        for name in polled.states:
            found += _read_all(writers, polled, name, counts, report)
    return Checked(
        differences=tuple(sorted(set(found), key=lambda each: (each.server, each.about, each.text))),
        servers=tuple(polled.replicas.writers),
        objects=counts[0],
        payload_bytes=counts[1],
    )


def _compare_answers(polled: WriterPoll, *, now_ns: int) -> Iterator[Difference]:
    for name, error in polled.errors.items():
        text = str(error).removeprefix(f"{name}: ")
        if isinstance(error, NotFound):
            text = "has no such volume: `dal replica resolve` makes and fills it"
        yield Difference(server=name, about=AWAY, text=text)
    for name, state in polled.states.items():
        own = state.replicas
        if polled.replicas.version and own != polled.replicas:
            version = own.version if own is not None else 0
            yield Difference(
                server=name,
                about=REPLICAS,
                text=f"has replica set {version}, the newest is {polled.replicas.version}",
            )
        lease = leases.held(state, now_ns=now_ns)
        if lease is not None:
            text = f"frozen by {lease.owner} until {show_time(lease.until_ns)}"
            yield Difference(server=name, about=FROZEN, text=text)


def _compare_heads(writers: Writers, polled: WriterPoll) -> Iterator[Difference]:
    if len(polled.heads) <= 1:
        return
    try:
        newest = writers.newest(polled)
    except DalError as error:
        for name, state in polled.states.items():
            yield Difference(
                server=name, about=HEAD, text=f"is at {_short(state.head)}; no history to compare: {error}"
            )
        return
    for name, state in polled.states.items():
        if state.head in newest and len(newest) == 1:
            continue
        others = ", ".join(_short(head) for head in newest if head != state.head)
        how = "diverged from" if state.head in newest else "is behind"
        yield Difference(server=name, about=HEAD, text=f"is at {_short(state.head)} and {how} {others}")


def _compare_clones(polled: WriterPoll) -> Iterator[Difference]:
    plan = plan_clones(polled.states, patterns=polled.replicas.clones, everything=True)
    for name, state in polled.states.items():
        wanted = kept(polled.replicas.clones.get(name), plan.clones)
        for clone in sorted(wanted - state.clones.keys()):
            yield Difference(server=name, about=CLONE, text=f"lacks @{clone} ({_tell(plan.clones[clone])})")
        for clone, own in sorted(state.clones.items()):
            right = plan.clones.get(clone)
            if right is None:
                yield Difference(server=name, about=CLONE, text=f"has @{clone} ({_tell(own)}), which was uncloned")
            elif identity_of(right) != identity_of(own):
                yield Difference(server=name, about=CLONE, text=f"@{clone} is {_tell(own)}, elsewhere {_tell(right)}")
            elif clone not in wanted:
                yield Difference(server=name, about=CLONE, text=f"has @{clone}, which it need not keep any more")
            elif right.held != own.held:
                yield Difference(server=name, about=CLONE, text=f"@{clone} is not held, elsewhere it is")


def _tell(clone: Clone) -> str:
    return f"{hex_short(clone.revision)} of {show_time(clone.created_ns)}"


def _short(head: bytes) -> str:
    return hex_short(head) if head else "nothing"


def _read_all(
    writers: Writers, polled: WriterPoll, name: str, counts: list[int], report: Report
) -> Iterator[Difference]:
    """Read what one server's head and clones reach; then ask the others whether they have it."""
    site, state = writers.site(name), polled.states[name]
    targets = [state.head, *(clone.revision for clone in state.clones.values())]
    targets = [target for target in dict.fromkeys(targets) if target]
    if not targets:
        return
    others = [writers.site(each) for each in polled.states if each != name and _holds(polled.states[each], targets)]
    try:
        for other in others:
            yield from _ask(writers.volume, other, targets)
        rows = read_rows(missing_of_many(writers.volume, targets, [], site), of=name)
        for part in cut_groups(rows):
            ids = row_ids(part)
            yield from _read_group(writers, site, ids, writers.context.realm)
            counts[0] += len(part)
            counts[1] += int(row_lengths(part).sum())
            # A revision of the past may be somewhere without its tree.
            below = _ids(row_ids(part[row_kinds(part) != KIND_REVISION]))
            for other in others:
                yield from _ask(writers.volume, other, below)
            report(Progress(phase=f"check {name}", done_count=counts[0], done_bytes=counts[1]))
    except (NotFound, Damaged, Unavailable, Conflict) as error:
        yield Difference(server=name, about=OBJECT, text=str(error))


def _holds(state: VolumeState, targets: Sequence[bytes]) -> bool:
    own = {state.head, *(clone.revision for clone in state.clones.values())}
    return own.issuperset(targets)


def _read_group(writers: Writers, site: Site, ids: bytes, realm: Realm) -> Iterator[Difference]:
    wanted = set(_ids(ids))
    try:
        with fetch(site, writers.volume, ids) as spool:
            for name, kind, payload in unpack(spool, realm):
                wanted.discard(name)
                if realm.identify(kind, payload) != name:
                    text = f"object {hex_short(name)}: its content and its id disagree"
                    yield Difference(server=site.name, about=OBJECT, text=text)
    except (NotFound, Damaged) as error:
        yield from _read_each(writers, site, sorted(wanted), error)
        return
    for name in sorted(wanted):
        yield Difference(server=site.name, about=OBJECT, text=f"object {hex_short(name)} was not sent")


def _read_each(writers: Writers, site: Site, ids: Sequence[bytes], error: DalError) -> Iterator[Difference]:
    """Find out which objects of a group are damaged or gone: halve it until it is one."""
    if len(ids) == 1:
        text = str(error).removeprefix(f"{site.name}: ")
        yield Difference(server=site.name, about=OBJECT, text=f"object {hex_short(ids[0])}: {text}")
        return
    for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
        try:
            with fetch(site, writers.volume, b"".join(half)) as spool:
                for _ in unpack(spool, writers.context.realm):
                    pass
        except (NotFound, Damaged) as below:
            yield from _read_each(writers, site, half, below)


def _ids(joined: bytes) -> list[bytes]:
    return [joined[start : start + OBJECT_ID_BYTES] for start in range(0, len(joined), OBJECT_ID_BYTES)]


def _ask(volume: str, site: Site, ids: Sequence[bytes]) -> Iterator[Difference]:
    for start in range(0, len(ids), BATCH_IDS_MAX):
        batch = ids[start : start + BATCH_IDS_MAX]
        for identity, there in zip(batch, site.have(volume, b"".join(batch)), strict=True):
            if not there:
                yield Difference(server=site.name, about=OBJECT, text=f"lacks object {hex_short(identity)}")
