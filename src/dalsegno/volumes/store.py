"""Volumes in a pool: made, found, changed and removed; every change is one compare-and-swap of one ref."""

import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec
from blake3 import blake3

from dalsegno.chunks.signatures import Sign, leave_unsigned
from dalsegno.formats import objects
from dalsegno.formats.objects import Revision
from dalsegno.pool.pool import Pool, PoolWriter
from dalsegno.pool.swaps import until_swapped
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, DalError, Damaged, NoAccess, NotFound, Refused
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId, hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import SECOND_NS, time_name
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import between, find_revision
from dalsegno.volumes.clones import Clone, Clones
from dalsegno.volumes.leases import require_thawed
from dalsegno.volumes.records import DumpRecords, bases_kept
from dalsegno.volumes.rollback import Seen
from dalsegno.volumes.signed import require_signed
from dalsegno.volumes.state import NATIVE, TRACKED, VolumeState, decode_state, encode_state, state_ref
from dalsegno.world.chance import random_bytes

NAME_BYTES_MAX = 200
PIN_END_BYTES = 8
PIN_SECONDS_MAX = 7 * 24 * 3600
NO_END_NS = 1 << 63
_NAME = re.compile(r"[\w][\w .+,=-]*")
_CLONE_NAME = re.compile(r"[\w][\w :.+,=-]*")
_SHOWN_CHARACTERS_MAX = 80


def check_volume_name(name: str) -> None:
    """Refuse a name that could not be written in an address or a file name."""
    # Where an address may stand, `x.dump` is a file, and `a..b` where a dump's targets stand is a range.
    has_form = _NAME.fullmatch(name) and ".." not in name and not name.endswith((" ", ".dump"))
    if not has_form or len(name.encode()) > NAME_BYTES_MAX:
        raise BadInput(
            f"volume name {_shown(name)}: use letters, digits, spaces and . _ - + , = (no / @ : .. and no .dump at the "
            "end), at most 200 bytes"
        )


def check_clone_name(name: str) -> None:
    """Refuse a clone name that could not be written in an address."""
    if not _CLONE_NAME.fullmatch(name) or len(name.encode()) > NAME_BYTES_MAX or name == "latest" or ".." in name:
        raise BadInput(
            f"clone name {_shown(name)}: use letters, digits, spaces and . _ - + , = : (no / @ .. and not 'latest'), "
            "at most 200 bytes"
        )


def _shown(name: str) -> str:
    return repr(name[:_SHOWN_CHARACTERS_MAX])


@dataclass(frozen=True, slots=True)
class Mended:
    """What a volume's tables hold once they were made anew, and how much could not be read."""

    clones: int
    clones_lost: int
    dumps: int
    dumps_lost: int


class Volumes:
    """The volumes of one pool."""

    merges = False
    """Whether commits of others are merged with one's own, so that a mount goes on with its own line."""

    def __init__(
        self, pool: Pool, *, report: Report = silent, seen: Seen | None = None, sign: Sign = leave_unsigned
    ) -> None:
        self._pool = pool
        self.sign = sign
        """Signs what is committed here."""
        self._report = report
        self.seen = seen
        """What is remembered of the volumes at this place; None: nothing, nor is anything compared."""
        self._told: set[str] = set()

    def _name_ref(self, name: str) -> str:
        # Names are keyed so that a ref's name tells a stranger nothing.
        encoded = name.encode(errors="surrogatepass")  # words of a command line may hold bytes that are no text
        return "names/" + blake3(b"name" + encoded, key=self._pool.realm.id_key).hexdigest()[:32]

    def create(
        self,
        name: str,
        *,
        kind: str,
        now_ns: int,
        source: bytes = b"",
        volume_id: bytes = b"",
        settings: dict[str, str | int | bool | list[str]] | None = None,
    ) -> VolumeState:
        """Make an empty volume. AlreadyThere when the name is taken."""
        check_volume_name(name)
        assert (kind == TRACKED) == bool(source) and kind in (TRACKED, NATIVE)
        volume_id = volume_id or random_bytes(16)
        return self.add(
            VolumeState(id=volume_id, name=name, kind=kind, source=source, created_ns=now_ns, settings=settings or {})
        )

    def add(self, state: VolumeState) -> VolumeState:
        """Make a volume with this state. AlreadyThere when its name is taken, or when it is here already."""
        check_volume_name(state.name)
        volume_id, name = state.id, state.name
        if self._pool.get_ref(state_ref(volume_id)) is not None:
            called = self._decode(self._pool.get_ref(state_ref(volume_id)) or b"").name
            raise AlreadyThere(f"volume {called!r} is this same volume: remove it first, or restore elsewhere")
        taken = self._pool.get_ref(self._name_ref(name))
        if _is_called(self, taken, name):
            raise AlreadyThere(
                f"volume {name!r} exists already: choose another name; `dal volume set {name}` changes what it follows "
                "and leaves out"
            )
        # The name first, then the state: a name without a state is free, so a crash in between loses nothing.
        if not self._pool.swap_ref(self._name_ref(name), taken, volume_id):
            raise AlreadyThere(f"volume {name!r} exists already: choose another name")
        if _is_called(self, taken, name):  # it was renamed to this between our look and our swap
            self._pool.swap_ref(self._name_ref(name), volume_id, taken)
            raise AlreadyThere(f"volume {name!r} exists already: choose another name")
        added = self._swap(state_ref(volume_id), None, msgspec.structs.replace(state, counter=1))
        if added is None:
            raise Conflict(f"volume {name!r}: made by somebody else at the same time")
        if self.seen is not None:
            self.seen.wrote(None, added)
        return added

    def get(self, name: str) -> VolumeState:
        """Return the volume called `name`."""
        if name.startswith("//"):
            raise BadInput(f"{name}: is on a server, not in {self._pool.place}: leave --pool away, or the server")
        volume_id = self._find_id(name)
        try:
            state = self.get_by_id(volume_id) if volume_id else None
        except Damaged as error:
            raise Damaged(f"volume {name!r}: {error}; or let go of it: `dal volume remove {name} --yes`") from None
        if state is None or state.name != name:
            raise NotFound(f"no volume {name!r} in {self._pool.place}: `dal volume list` shows what there is")
        return state

    def get_settled(self, name: str) -> VolumeState:
        """Return a volume for somebody elsewhere, who will rely on its state or on its absence: both are durable then.

        Who made it so may have been killed before it was.
        """
        try:
            state = self.get(name)
        except NotFound:
            self._pool.settle_seen_ref(self._name_ref(name))
            self._pool.settle_seen_ref(state_ref(bytes(16)))
            raise
        self._pool.settle_seen_ref(state_ref(state.id))
        return state

    def list_settled(self) -> list[VolumeState]:
        """Return all volumes as `get_settled` does."""
        states = self.list()
        for state in states:
            self._pool.settle_seen_ref(state_ref(state.id))
        return states

    def _find_id(self, name: str) -> bytes | None:
        """Return the id under a name. A name's ref that is damaged is written anew: the states know their names."""
        with suppress(Damaged):
            return self._pool.get_ref(self._name_ref(name))
        found = [state.id for state in self.list() if state.name == name]
        with suppress(NoAccess):
            self._pool.replace_damaged_ref(self._name_ref(name), found[0] if found else None)
        return found[0] if found else None

    def get_by_id(self, volume_id: bytes) -> VolumeState | None:
        """Return the volume with this id, if the pool has it."""
        data = self._pool.get_ref(state_ref(volume_id))
        return self._looked_at(self._decode(data)) if data is not None else None

    def _looked_at(self, state: VolumeState) -> VolumeState:
        """Return a state that was just read, or what took its place; an older one than was seen here is told."""
        if self.seen is None or self.seen.takes(state, known := self.seen.heads.of(state.id)):
            return state
        # Another thread may have committed, and remembered it, between our reading and our looking: read once more.
        data = self._pool.get_ref(state_ref(state.id))
        state = self._decode(data) if data is not None else state
        if not self.seen.takes(state, known):
            self.seen.tell(state)
        return state

    def known(self, volume_id: bytes) -> VolumeState:
        """Return a volume as it is here, without asking anybody else."""
        data = self._pool.get_ref(state_ref(volume_id))
        if data is None:
            raise NotFound("the volume was removed meanwhile")
        return self._looked_at(self._decode(data))

    def _decode(self, data: bytes) -> VolumeState:
        return decode_state(data, self._pool)

    def continued(self, volume_id: bytes, head: bytes) -> bytes:
        """Return the newest revision of the line that `head` is in, where commits may wait to be acknowledged."""
        return head

    def name_for(self, stem: str) -> str:
        """Return a name like `stem` that a new volume may have."""
        return stem

    def with_waiting(self, state: VolumeState) -> VolumeState:
        """Return a volume with what was committed here and did not get to where it belongs: here nothing waits."""
        return state

    def trim(self) -> None:
        """Let go of what others have, too: nothing, where the pool is all that there is."""

    def list(self) -> list[VolumeState]:
        """Return all volumes by name; those whose refs are damaged are said and passed over."""
        states, damaged = _read_states(self._pool)
        for ref, error in damaged.items():
            if ref not in self._told:
                self._told.add(ref)
                place = self._pool.where_ref(ref)
                text = str(error).removeprefix(f"{place}: ")
                self._report(Note(severity="error", path=os.fsencode(place), text=text, is_damage=True))
        return [self._looked_at(state) for state in states]

    def update(
        self, volume_id: bytes, change: Callable[[VolumeState], VolumeState], *, bytes_max: int | None = None
    ) -> VolumeState:
        """Replace a volume's state by `change(state)`, again on the newest one whenever somebody else was first.

        Refused when it would be larger than `bytes_max`, and larger than it was.
        """
        ref = state_ref(volume_id)

        def attempt() -> VolumeState | None:
            data = self._pool.get_ref(ref)
            if data is None:
                raise NotFound("the volume was removed meanwhile")
            before = self._looked_at(self._decode(data))
            state = change(before)
            if _is_written_alike(state, before):
                self._pool.settle_ref(ref)  # whoever made it so may have been killed before it was durable
                return state
            state = msgspec.structs.replace(state, counter=before.counter + 1)
            # What makes room may use what is kept for that (docs/decisions/014).
            makes_room = state.head == before.head and _names_no_more(state, before)
            swapped = self._swap(ref, data, state, makes_room=makes_room, bytes_max=bytes_max)
            if swapped is not None and self.seen is not None:
                self.seen.wrote(before, swapped)
            return swapped

        return until_swapped(attempt, what="the volume")

    def _swap(
        self,
        ref: str,
        expected: bytes | None,
        state: VolumeState,
        *,
        makes_room: bool = False,
        bytes_max: int | None = None,
    ) -> VolumeState | None:
        """Set a state's ref if it is as expected, and return what stands there; its tables come first."""

        def swap(state: VolumeState) -> VolumeState | None:
            encoded = encode_state(state)
            if bytes_max is not None and len(encoded) > max(bytes_max, len(expected or b"")):
                raise Refused(
                    f"volume {state.name!r}: what is kept of it besides its files would have more than "
                    f"{format_size(bytes_max)}: forget clones or dumps first"
                )
            return state if self._pool.swap_ref(ref, expected, encoded) else None

        def settle() -> VolumeState | None:
            with self._pool.writer(refresh=False) as writer:
                clones = state.clones.settle(self._pool, writer)
                dumps = state.dumps.settle(
                    self._pool, writer, hidden=partial(_blank_below, self._pool.backend.where(""))
                )
                writer.flush()
                writer.commit_guard()
                return swap(msgspec.structs.replace(state, clones=clones, dumps=dumps))

        if state.clones.is_settled and state.dumps.is_settled:
            return swap(state)
        return self._pool.backend.making_room(settle) if makes_room else settle()

    def rename(self, old: str, new: str) -> VolumeState:
        """Give a volume another name; its id and history stay."""
        check_volume_name(new)
        state = self.get(old)
        taken = self._pool.get_ref(self._name_ref(new))
        if _is_called(self, taken, new):
            raise AlreadyThere(f"volume {new!r} exists already: choose another name")
        if not self._pool.swap_ref(self._name_ref(new), taken, state.id):
            raise Conflict(f"volume {new!r}: taken by somebody else at the same time")
        renamed = self.update(state.id, lambda current: msgspec.structs.replace(current, name=new))
        if self._pool.get_ref(self._name_ref(new)) != state.id:
            self.update(state.id, lambda current: msgspec.structs.replace(current, name=old))
            raise Conflict(f"volume {new!r}: taken by somebody else at the same time")
        self._pool.swap_ref(self._name_ref(old), state.id, None)
        return renamed

    def forget_damaged(self, name: str) -> bool:
        """Forget a volume whose ref is damaged; return whether that was so. What it named goes with a collection."""
        volume_id = self._find_id(name)
        if volume_id is None or not self._pool.replace_damaged_ref(state_ref(volume_id), None):
            return False
        self._pool.swap_ref(self._name_ref(name), volume_id, None)
        if self.seen is not None:
            self.seen.forget(volume_id)
        return True

    def remove(self, name: str, *, force: bool = False) -> VolumeState:
        """Forget a volume; its objects go with the next collection. Refused while a clone is held."""
        state = self.get(name)
        held = [clone_name for clone_name, clone in state.clones.salvage()[0] if clone.held]
        if held and not force:
            raise Refused(f"volume {name!r}: clone {held[0]!r} is held; `dal unhold {name}@{held[0]}` first")
        ref = state_ref(state.id)
        data = self._pool.get_ref(ref)
        if data is None or self._decode(data) != state or not self._pool.swap_ref(ref, data, None):
            raise Conflict(f"volume {name!r} changed meanwhile: look again")
        self._pool.swap_ref(self._name_ref(name), state.id, None)
        if self.seen is not None:
            self.seen.forget(state.id)
        return state

    def commit_revision(self, writer: PoolWriter, state: VolumeState, revision: Revision) -> tuple[VolumeState, bytes]:
        """Make `revision` the head: objects durable first, then one swap. It gets a later time than its parents.

        Conflict when the head moved meanwhile, or while the volume is frozen. Refused where the volume takes only
        revisions of signers that the pool knows, and this is none.
        """
        now_ns = revision.created_ns
        parents = [find_revision(self._pool, parent) for parent in revision.parents]
        newest_ns = max((parent.created_ns for parent in parents if parent is not None), default=now_ns - 1)
        revision = self.sign(msgspec.structs.replace(revision, created_ns=max(now_ns, newest_ns + 1)))
        identity = writer.put(objects.KIND_REVISION, objects.encode(revision))
        writer.flush()
        writer.commit_guard()
        expected = state.head

        def change(current: VolumeState) -> VolumeState:
            if current.head != expected:
                raise Conflict(f"volume {current.name!r}: somebody else committed meanwhile; run again")
            require_thawed(current, now_ns=now_ns)
            require_signed(self._pool, current, revision)
            return msgspec.structs.replace(current, head=bytes(identity))

        return self.update(state.id, change), identity

    def add_clone(
        self, name: str, clone_name: str | None, *, now_ns: int, revision: bytes = b"", automatic: bool = False
    ) -> tuple[str, Clone]:
        """Name the head (or `revision`): the work is one swap whatever the volume's size.

        `automatic`: no person chose `clone_name`.
        """
        state = self.get(name)
        if not state.head and not revision:
            raise Refused(f"volume {name!r} is empty: import or back up something first")
        if clone_name is not None:
            check_clone_name(clone_name)
        chosen: list[tuple[str, Clone]] = []

        def change(current: VolumeState) -> VolumeState:
            wanted = clone_name or free_name(time_name(now_ns), current.clones)
            if wanted in current.clones:
                raise AlreadyThere(f"clone {name}@{wanted} exists already: choose another name, or unclone it first")
            target = revision or current.head
            found = find_revision(self._pool, target)
            clone = Clone(
                revision=target,
                created_ns=now_ns,
                automatic=automatic or clone_name is None,
                entry_count=found.entry_count if found is not None else None,
                total_bytes=found.total_bytes if found is not None else None,
            )
            chosen[:] = [(wanted, clone)]
            return msgspec.structs.replace(current, clones=current.clones.put(wanted, clone))

        self.update(state.id, change)
        return chosen[0]

    def unclone(self, name: str, clone_name: str) -> Clone:
        """Forget a clone. Refused while it is held."""
        removed: list[Clone] = []

        def change(current: VolumeState) -> VolumeState:
            clone = _clone_of(current, clone_name)
            _require_loose(name, clone_name, clone)
            removed[:] = [clone]
            return msgspec.structs.replace(current, clones=current.clones.without([clone_name]))

        self.update(self.get(name).id, change)
        return removed[0]

    def unclone_many(self, name: str, clone_names: Iterable[str]) -> dict[str, DalError | None]:
        """Forget clones, many in one write, and return for each why it could not be, or None."""
        wanted = list(dict.fromkeys(clone_names))
        done: dict[str, DalError | None] = {}

        def change(current: VolumeState) -> VolumeState:
            done.clear()
            for each in wanted:
                try:
                    _require_loose(name, each, _clone_of(current, each))
                    done[each] = None
                except (NotFound, Refused, Damaged) as error:
                    done[each] = error
            gone = [each for each, error in done.items() if error is None]
            return msgspec.structs.replace(current, clones=current.clones.without(gone))

        self.update(self.get(name).id, change)
        return done

    def mend_tables(self, name: str, *, let_go: bool) -> Mended:
        """Make damaged tables of clones and dumps anew from what can be read; return what there is, and is lost.

        Refused without `let_go` when something is.
        """
        done: list[Mended] = []

        def change(current: VolumeState) -> VolumeState:
            changed, found = _with_tables_mended(current, let_go=let_go)
            done[:] = [found]
            return changed

        self.update(self.get(name).id, change)
        return done[0]

    def set_held(self, name: str, clone_name: str, *, held: bool) -> Clone:
        """Hold or unhold a clone: a held one is not removed by anybody."""

        def change(current: VolumeState) -> VolumeState:
            clone = msgspec.structs.replace(_clone_of(current, clone_name), held=held)
            return msgspec.structs.replace(current, clones=current.clones.put(clone_name, clone))

        return self.update(self.get(name).id, change).clones[clone_name]

    def log(self, state: VolumeState) -> Iterator[tuple[bytes, Revision]]:
        """Yield (id, revision) from the head along first parents, as far as the pool still has them."""
        identity, before_ns = state.head, NO_END_NS
        while identity:
            try:
                revision = read_revision(self._pool, ObjectId(identity))
            except (Damaged, NotFound) as error:
                # One that no clone names may have been thinned out.
                if isinstance(error, NotFound) and all(each.revision != identity for each in state.clones.values()):
                    return
                label = f"{state.name}#{hex_short(identity)}".encode(errors="surrogateescape")
                text = f"this revision cannot be read; of what is older only clones are listed: {error}"
                self._report(Note(severity="error", path=label, text=text, is_damage=True))
                identity = self._newest_clone(state, before_ns=before_ns)
                continue
            yield identity, revision
            before_ns = revision.created_ns
            identity = revision.parents[0] if revision.parents else b""

    def _newest_clone(self, state: VolumeState, *, before_ns: int) -> bytes:
        """Return the newest revision that can be read of those that clones name, made before `before_ns`, or empty."""
        found = {clone.revision: find_revision(self._pool, clone.revision) for clone in state.clones.values()}
        older = [(each.created_ns, key) for key, each in found.items() if each and each.created_ns < before_ns]
        return max(older)[1] if older else b""

    def _pin_ref(self, volume_id: bytes, holder: str) -> str:
        return f"pins/{volume_id.hex()}-{blake3(holder.encode(errors='surrogateescape')).hexdigest()[:16]}"

    def pin(self, volume_id: bytes, revision: bytes, *, holder: str, until_ns: int = 0) -> None:
        """Keep a revision whole while `holder` works with it; another pin of the same holder takes its place.

        One with an end is a lease: it ends by itself, unless its holder pins again before.
        """
        ref = self._pin_ref(volume_id, holder)
        value = revision + (until_ns.to_bytes(PIN_END_BYTES, "little") if until_ns else b"")
        self._pool.update_ref(ref, lambda _: value, what=f"pin of {holder}:")
        self._pool.settle_seen_ref(ref)

    def unpin(self, volume_id: bytes, *, holder: str) -> None:
        """Let go of a pin."""
        ref = self._pin_ref(volume_id, holder)
        pinned = self._pool.get_ref(ref)
        if pinned is not None:
            self._pool.swap_ref(ref, pinned, None)

    def _pins(self) -> Iterator[tuple[str, bytes]]:
        for ref in self._pool.list_refs("pins/"):
            pinned = self._pool.get_ref(ref)
            if pinned is not None:
                yield ref, pinned

    def drop_ended_pins(self, *, now_ns: int) -> None:
        """Remove the leases of holders that died."""
        for ref, pinned in self._pins():
            if _has_ended(pinned, now_ns):
                self._pool.swap_ref(ref, pinned, None)

    def revisions_kept(self, *, now_ns: int) -> Iterator[bytes]:
        """Yield every revision that a head, a clone, a dump record or a pin names: what collecting must keep.

        A volume that moved to another server is kept there. Damaged when a ref cannot be read: what it names is not
        known.
        """
        _, damaged = _read_states(self._pool)
        for error in damaged.values():
            raise Damaged(
                f"{error} (what that volume names is not known), or let go of it: `dal volume remove NAME --yes`"
            )
        for _, pinned in self._pins():
            if not _has_ended(pinned, now_ns):
                yield pinned[:OBJECT_ID_BYTES]
        for state in self.list():
            if state.replicas is not None and state.replicas.moved_to:
                continue
            if state.head:
                yield state.head
            try:
                yield from {clone.revision for clone in state.clones.values()}
                yield from {record.revision for record in bases_kept(state.dumps)}
            except Damaged as error:
                raise Damaged(f"{error} (not all clones and dumps of volume {state.name!r} are known)") from None

    def tables_kept(self) -> Iterator[bytes]:
        """Yield the roots of the trees of older clones and dumps: directories that collecting must keep."""
        for state in self.list():
            yield from table_roots(state)

    def history_kept(self) -> Iterator[bytes]:
        """Yield what collecting must keep as far as it is here: some of these revisions came without their trees.

        Of a replicated volume: all from the head back to what all writers have, from which diverged heads are merged,
        and what was released.
        """
        for state in self.list():
            if state.replicas is None or state.replicas.moved_to:
                continue
            if state.head:
                yield from between(self._pool, state.head, [state.common] if state.common else [])
            if state.common:
                yield state.common
            if state.released is not None:
                yield state.released.revision


def _is_called(volumes: Volumes, volume_id: bytes | None, name: str) -> bool:
    """Tell whether there is a volume with this id and name: who was killed while he renamed left a name behind."""
    state = volumes.get_by_id(volume_id) if volume_id is not None else None
    return state is not None and state.name == name


def _read_states(pool: Pool) -> tuple[list[VolumeState], dict[str, Damaged]]:
    """Return all volumes by name, and what is wrong with the refs that cannot be read."""
    states: list[VolumeState] = []
    damaged: dict[str, Damaged] = {}
    for ref in pool.list_refs("volumes/"):
        try:
            data = pool.get_ref(ref)
            if data is not None:
                states.append(decode_state(data, pool))
        except Damaged as error:
            damaged[ref] = error
    return sorted(states, key=lambda state: state.name), damaged


def damaged_refs(pool: Pool) -> Iterator[Damaged]:
    """Yield what is wrong with the refs of a pool: of volumes, their names, and pins."""
    for ref in pool.list_refs(""):
        try:
            data = pool.get_ref(ref)
            if data is not None and ref.startswith("volumes/"):
                decode_state(data, pool)
        except Damaged as error:
            if ref.startswith("names/"):
                text = "a volume's name is damaged: the next command about that volume makes it anew"
                yield Damaged(f"{pool.where_ref(ref)}: {text}")
            else:
                yield error


def _is_written_alike(state: VolumeState, before: VolumeState) -> bool:
    same_tables = state.clones.is_same(before.clones) and state.dumps.is_same(before.dumps)
    return same_tables and msgspec.structs.replace(state, clones=before.clones, dumps=before.dumps) == before


def _names_no_more(state: VolumeState, before: VolumeState) -> bool:
    return len(state.clones) <= len(before.clones) and len(state.dumps) <= len(before.dumps)


def _blank_below(place: str, path: str) -> str:
    """Return a dump's path without what it says of the pool's disks: a table is read as it is stored."""
    return "" if path.startswith(place) else path


def _with_tables_mended(state: VolumeState, *, let_go: bool) -> tuple[VolumeState, Mended]:
    clones, clone_errors = state.clones.salvage()
    dumps, dump_errors = state.dumps.salvage()
    found = Mended(len(clones), len(state.clones) - len(clones), len(dumps), len(state.dumps) - len(dumps))
    for lost, count, what, errors in (
        (found.clones_lost, len(state.clones), "clones", clone_errors),
        (found.dumps_lost, len(state.dumps), "recorded dumps", dump_errors),
    ):
        if lost and not let_go:
            raise Refused(
                f"volume {state.name!r}: {lost:,} of {count:,} {what} cannot be read ({errors[0]}): "
                "put back a copy of what was lost, or say --yes to let go of them"
            )
    mended = msgspec.structs.replace(
        state,
        clones=Clones(dict(clones)) if clone_errors else state.clones,
        dumps=DumpRecords(dumps) if dump_errors else state.dumps,
    )
    return mended, found


def table_roots(state: VolumeState) -> list[bytes]:
    """Return the roots of the trees that hold a volume's older clones and dumps."""
    clones, dumps = state.clones.table, state.dumps.table
    return [
        *((clones.by_name, clones.by_time) if clones is not None else ()),
        *((dumps.by_time,) if dumps is not None else ()),
    ]


def _has_ended(pinned: bytes, now_ns: int) -> bool:
    """Tell whether a pin was a lease that is over; one that ends absurdly late is of a clock that was wrong."""
    until_ns = int.from_bytes(pinned[OBJECT_ID_BYTES:], "little")
    return until_ns != 0 and not now_ns < until_ns <= now_ns + PIN_SECONDS_MAX * SECOND_NS


def free_name(wanted: str, taken: Container[str]) -> str:
    """Return a name that nobody has: `wanted`, or one like it with a number."""
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name


def _require_loose(volume: str, name: str, clone: Clone) -> None:
    if clone.held:
        raise Refused(f"clone {volume}@{name} is held: `dal unhold {volume}@{name}` first")


def _clone_of(state: VolumeState, clone_name: str) -> Clone:
    clone = state.clones.get(clone_name)
    if clone is None:
        raise NotFound(f"no clone {state.name}@{clone_name}: `dal clones {state.name}` shows what there is")
    return clone
