"""A chain of dumps read as one source: `full.dump+incr1.dump+incr2.dump`, its lineage checked when it is opened."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.plan import describe
from dalsegno.formats import pack
from dalsegno.formats.pack_header import DumpNote, DumpTarget
from dalsegno.pool.pack_read import PackFile, PackReader, open_note
from dalsegno.pool.sources import PacksSource
from dalsegno.terms.errors import Damaged, NotFound, Refused
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.world.workers import Workers


class DumpChain:
    """Dumps in the order in which they were made. A Source: the newest dump that has an object answers."""

    def __init__(self, readers: Sequence[PackReader], notes: Sequence[DumpNote], stack: ExitStack) -> None:
        self.readers = list(readers)
        self.notes = list(notes)
        self._stack = stack
        self._packs = PacksSource(self.readers[::-1], absent=lambda: f"in none of the dumps: {self.missing_hint()}")

    @classmethod
    def open(cls, places: Sequence[Path | PackFile], realm: Realm) -> "DumpChain":
        """Open the dumps; Refused names both lineages when one does not continue those before it."""
        assert places
        with ExitStack() as stack:
            for place in places:
                if not isinstance(place, Path):
                    stack.callback(place.close)
            readers = [stack.enter_context(PackReader.open(place, realm)) for place in places]
            notes = []
            for reader in readers:
                try:
                    notes.append(open_note(reader.header, realm))
                except (Damaged, Refused) as error:
                    raise type(error)(f"{reader.path}: {error}") from None
            _check_lineage(readers, notes)
            return cls(readers, notes, stack.pop_all())

    def close(self) -> None:
        """Close every dump."""
        self._stack.close()

    def __enter__(self) -> "DumpChain":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def is_for_readers(self) -> bool:
        """Tell whether some dump was made for single readers: each of them has its key, so he can have written it."""
        return any(reader.header.keys_of(pack.KEY_AGE) for reader in self.readers)

    @property
    def bases(self) -> list[bytes]:
        """Revisions that the chain needs from elsewhere; empty when it starts with a full dump."""
        return self.notes[0].bases

    @property
    def target(self) -> DumpTarget:
        """The state that the chain brings a volume to."""
        return self.notes[-1].targets[-1]

    def targets(self) -> list[DumpTarget]:
        """Return every clone (and unnamed revision) that the chain carries, oldest first, each once."""
        found = {(target.clone, target.revision): target for note in self.notes for target in note.targets}
        return list(found.values())

    def find_target(self, clone: str) -> DumpTarget:
        """Return the carried revision of a clone name, `latest`, or `#` and the beginning of its id."""
        if clone in ("", "latest"):
            return self.target
        for target in reversed(self.targets()):
            if target.clone == clone or (clone.startswith("#") and target.revision.hex().startswith(clone[1:])):
                return target
        names = ", ".join(target.clone or "#" + hex_short(target.revision) for target in self.targets())
        raise NotFound(f"no clone {clone!r} in this dump: it carries {names}")

    def get(self, identity: ObjectId, /) -> bytes:
        """Return an object from the newest dump that has it."""
        return self.get_kind(identity)[1]

    def get_kind(self, identity: bytes) -> tuple[int, bytes]:
        """Return kind and payload of an object."""
        kind, payload = self.view_kind(identity)
        return kind, bytes(payload)

    def read_ahead(self, workers: Workers | None) -> None:
        """Let `workers` open the next blocks of dumps that are read in order; None, before they end, ends it."""
        for reader in self.readers:
            reader.read_ahead(workers)

    def view_kind(self, identity: bytes) -> tuple[int, bytes | memoryview]:
        """Return the same without a copy: a view keeps its whole block in memory, so it is not for keeping."""
        return self._packs.view_kind(identity)

    def missing_hint(self) -> str:
        """Return what to do about an object that the chain lacks."""
        if self.bases:
            return f"the chain starts from revision {hex_short(self.bases[0])}; put the dump that carries it in front"
        return "verify the dumps"

    def require_full(self) -> None:
        """Refuse a chain that starts with an increment."""
        if self.bases:
            raise Refused(
                f"{self.readers[0].path}: is an increment: put dump {hex_short(self.notes[0].base_dump)}, which it was "
                f"made against, in front (BASE+INCREMENT). It is {describe(self.notes[0], self.readers[0].pack_id)}"
            )


def _check_lineage(readers: Sequence[PackReader], notes: Sequence[DumpNote]) -> None:
    carried = {target.revision for target in notes[0].targets}
    for position in range(1, len(notes)):
        note, reader = notes[position], readers[position]
        previous_note, previous = notes[position - 1], readers[position - 1]
        here = f"{reader.path} ({describe(note, reader.pack_id)})"
        there = f"{previous.path} ({describe(previous_note, previous.pack_id)})"
        if not note.bases:
            raise Refused(f"{here} is a full dump: it comes first, not after {there}")
        if note.bases[0] not in carried:
            other = "it is of another volume" if note.volume != previous_note.volume else "a dump between is missing"
            raise Refused(
                f"{reader.path}: dump {hex_short(note.base_dump)}, which it was made against, must come before it, and "
                f"{previous.path} is another ({other}). It is {describe(note, reader.pack_id)}; "
                f"{previous.path} is {describe(previous_note, previous.pack_id)}"
            )
        if note.taken_at_ns < previous_note.taken_at_ns:
            raise Refused(f"{here} is older than {there}: give the dumps in the order in which they were made")
        carried |= {target.revision for target in note.targets}
