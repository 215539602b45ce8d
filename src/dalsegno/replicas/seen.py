"""Whether the servers of a realm show volumes as new as this client saw or made them.

A server that is merely behind shows what it always had, and another one has the newer state; what was put back shows
less than it showed itself. So of each volume the newest state is remembered for each server
(docs/decisions/020-what-was-seen-of-a-place-is-remembered.md), and those that answer are compared together.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from blake3 import blake3

from dalsegno.chunks.realm import Realm
from dalsegno.pool.contract import Source
from dalsegno.pool.known import Differs, KnownHead, KnownHeads, KnownPlace
from dalsegno.replicas.replica_sets import set_version
from dalsegno.replicas.writers import States
from dalsegno.terms.errors import Damaged, NoAccess, NotFound, Unavailable
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import show_time
from dalsegno.trees.read import read_revision
from dalsegno.volumes.rollback import line_between
from dalsegno.volumes.state import READER, VolumeState
from dalsegno.world.clock import now_ns

STEPS_MAX: Final = 64
"""Revisions that are asked for to find a known one behind a head; longer lines are believed."""
LINE_BYTES: Final = 6
NAME_BYTES: Final = 16


def line_of(server: str) -> int:
    """Return the line in which what a server showed is remembered."""
    return int.from_bytes(blake3(server.encode()).digest(length=LINE_BYTES), "little")


class SeenOnServers:
    """What was seen of a realm's volumes on each of its servers, and what happens when they show less."""

    def __init__(
        self,
        realm_name: str,
        realm: Realm,
        source: Source,
        *,
        place: KnownPlace,
        differs: Differs,
        tell: Callable[[str, str], None],
    ) -> None:
        """`differs` is called when all that answers is older than was seen; `tell`, with a volume, when one server is.

        `source` reads revisions of whichever volume is looked at.
        """
        self._realm_name = realm_name
        self._realm = realm
        self._source = source
        self._place = place
        self._differs = differs
        self._tell = tell
        self._heads: KnownHeads | None = None
        self._told: set[bytes] = set()

    @property
    def heads(self) -> KnownHeads:
        """What is remembered; read when it is asked for first."""
        if self._heads is None:
            self._heads = self._place.heads(self._realm.realm_id)
        return self._heads

    def _name_of(self, volume: str) -> str:
        # Who finds the memory learns no names of it.
        return blake3(b"name" + volume.encode(), key=self._realm.id_key).hexdigest(NAME_BYTES)

    # Looking

    def look(self, states: States, again: Callable[[], States], *, one: bool = False) -> States:
        """Compare what servers showed of one volume with what was seen, and return what there is to go on with.

        That is `states`, or what `again` answers: another thread may have committed between the question and now.
        `differs` is called when it is less, and a server that alone shows less is told. `one`: a single server was
        asked for, which may be behind the others.
        """
        if not states:
            return states
        volume = next(iter(states.values()))
        known = dict(self.heads.of(volume.id))
        other = self.heads.named(self._name_of(volume.name))
        if other not in (None, volume.id):
            before = hex_short(other or b"")
            self._differ(volume, f"is another volume than it was (#{hex_short(volume.id)}, before #{before})")
            return states
        removed_ns = self.heads.removed_ns(volume.id) if not known else None
        if removed_ns is not None:
            self._differ(volume, f"was removed on {show_time(removed_ns)}, and is there again")
            return states
        text = self._compare(states, known, one=one)
        if text is not None:
            states = {name: state for name, state in again().items() if state.id == volume.id} or states
            text = self._compare(states, known, one=one)
        if text is not None:
            self._differ(volume, text)
        return states

    def look_listed(self, states: States) -> None:
        """Compare how often states were written, which servers listed: no revision is asked for, nothing remembered."""
        volume = next(iter(states.values()))
        known = self.heads.of(volume.id)
        put_back = [name for name, state in states.items() if not _counts_on(state, known.get(line_of(name)))]
        if len(put_back) == len(states):
            self._differ(volume, self._put_back(put_back, states, known))

    def _differ(self, volume: VolumeState, text: str) -> None:
        if volume.id not in self._told:
            how = f"`dal realm trust {self._realm_name}` accepts it, --trust-pool takes it for one command alone"
            self._differs(f"realm {self._realm_name}: volume {volume.name!r} {text}: {how}")
            self._told.add(volume.id)

    def _compare(self, states: States, known: Mapping[int, KnownHead], *, one: bool) -> str | None:
        """Remember states that are as new as the known ones, and return None; else what is wrong with them."""
        shown = {name: known.get(line_of(name)) for name in states}
        if all(each is not None and _is_same(states[name], each) for name, each in shown.items()) and (
            one or self._newest(known).head in {state.head for state in states.values()}
        ):
            return None
        good = [name for name, state in states.items() if self._goes_on(state, shown[name])]
        heads = {name: state for name, state in states.items() if state.role != READER}
        newest = self._newest(known)
        whole = [name for name in good if one or name not in heads or self._covers(states[name], newest)]
        put_back = [name for name in states if name not in good]
        if any(name in heads for name in whole) or (whole and not heads) or not known:
            for name in put_back:
                text = self._put_back([name], states, known)
                self._tell(states[name].name, f"{text}; other servers have the newer one")
            self._remember(states)
            return None
        away = newest.head not in {each.head for each in shown.values() if each is not None}
        if good and away:
            was = f" of {show_time(newest.created_ns)}" if newest.created_ns else ""
            text = f"the newest state{was}, seen on {show_time(newest.at_ns)}, is on a server that does not answer now"
            self._tell(states[good[0]].name, f"{', '.join(sorted(good))} has not all: {text}")
            self._remember({name: states[name] for name in good})
            return None
        return self._put_back(put_back or sorted(states), states, known)

    def _newest(self, known: Mapping[int, KnownHead]) -> KnownHead:
        none = KnownHead(head=b"", created_ns=0, at_ns=0)
        return max(known.values(), key=lambda each: (each.created_ns, each.at_ns), default=none)

    def _goes_on(self, state: VolumeState, known: KnownHead | None) -> bool:
        """Tell whether a server shows what it did, or what comes after that."""
        return known is None or (_counts_on(state, known) and (state.role == READER or self._covers(state, known)))

    def _covers(self, state: VolumeState, known: KnownHead) -> bool:
        try:
            return line_between(self._source, known, state.head, steps_max=STEPS_MAX) is not False
        except (NoAccess, Unavailable):
            return True  # nobody can tell who may not read; how often it was written was compared

    def _put_back(self, names: Iterable[str], states: States, known: Mapping[int, KnownHead]) -> str:
        newest = self._newest(known)
        seen = f"the one that was seen on {show_time(newest.at_ns)}"
        texts = []
        for name in sorted(names):
            state, own = states[name], known.get(line_of(name))
            made_ns = self._made_ns(state.head)
            if own is not None and own.head == state.head and not _counts_on(state, own):
                texts.append(
                    f"{name} shows its state number {state.counter}, number {own.counter} was seen on "
                    f"{show_time(own.at_ns)}: clones, holds or settings are those of before"
                )
            elif made_ns is None:
                texts.append(f"{name} shows no state that can be read; {seen} was of {show_time(newest.created_ns)}")
            elif made_ns > newest.created_ns:
                texts.append(
                    f"{name} was put back and went another way: {show_time(made_ns)} does not come after {seen}"
                )
            else:
                texts.append(f"{name} shows one of {show_time(made_ns)}, {seen} was of {show_time(newest.created_ns)}")
        return "is older than it was: " + "; ".join(texts)

    def _made_ns(self, head: bytes) -> int | None:
        with suppress(NotFound, Damaged, NoAccess, Unavailable):
            return read_revision(self._source, head).created_ns if head else None
        return None

    # Remembering

    def _remember(self, states: States) -> None:
        """Remember what servers showed; a head that cannot be read does not take the place of one that could."""
        volume = next(iter(states.values()))
        known = self.heads.of(volume.id)
        times = {each.head: each.created_ns for each in known.values() if each.head}
        found: dict[int, KnownHead] = {}
        for name, state in states.items():
            line = line_of(name)
            before = known.get(line)
            head = b"" if state.role == READER else state.head
            made_ns = times.get(head) if head in times or not head else self._made_ns(head)
            if made_ns is None and head:
                if before is not None and not self._realm.only_writes:
                    continue
                head, made_ns = (before.head, before.created_ns) if before is not None else (b"", 0)
            new = self._known_head(state, head, made_ns or 0)
            if before is None or replace(new, at_ns=before.at_ns) != before:
                found[line] = new
        self.heads.put_lines(volume.id, found)

    def _known_head(self, state: VolumeState, head: bytes, created_ns: int) -> KnownHead:
        return KnownHead(
            head=head,
            created_ns=created_ns,
            counter=state.counter,
            version=set_version(state),
            name=self._name_of(state.name),
            at_ns=now_ns(),
        )

    def committed(self, servers: Iterable[str], state: VolumeState, *, revision: bytes, created_ns: int) -> None:
        """Remember a revision that this client committed, and that these servers took."""
        known = self.heads.of(state.id)
        found = {}
        for line in map(line_of, servers):
            before = known.get(line)
            counter = before.counter if before is not None else 0
            found[line] = replace(self._known_head(state, revision, created_ns), counter=counter)
        self.heads.put_lines(state.id, found)

    def accept(self, states: States) -> None:
        """Remember what servers show of one volume now, and nothing of what was seen before."""
        volume = next(iter(states.values()))
        other = self.heads.named(self._name_of(volume.name))
        if other is not None and other != volume.id:
            self.heads.forget(other, removed=False)
        found = {}
        for name, state in states.items():
            head = b"" if state.role == READER else state.head
            made_ns = self._made_ns(head)
            found[line_of(name)] = self._known_head(state, head if made_ns is not None else b"", made_ns or 0)
        self.heads.put_lines(volume.id, found, alone=True)

    def forget(self, volume_id: bytes) -> None:
        """Forget a volume that this client removed."""
        self.heads.forget(volume_id)


def _is_same(state: VolumeState, known: KnownHead) -> bool:
    head = b"" if state.role == READER else state.head
    return (known.head, known.counter) == (head, state.counter)


def _counts_on(state: VolumeState, known: KnownHead | None) -> bool:
    """Tell whether a server wrote a state at least as often as it had; a replica that was made anew begins anew."""
    return known is None or state.counter >= known.counter or set_version(state) > known.version
