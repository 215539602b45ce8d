"""What one server can do with the volumes it holds. Every step of replication is made of these calls and no others.

`Keeper` (keeper.py) does them over a pool; `RemoteSite` (remote.py) asks a server to. Each call may be repeated: done
again after a lost answer, it changes nothing more.

Errors: NotFound (no such volume, clone or object), NoAccess (rights), Refused and BadInput (never right), Conflict
(frozen, or somebody was faster), Diverged (merge first), Damaged (what was sent is not what its ids say), Full, and
Unavailable (no answer: it may or may not have been done).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from dalsegno.formats.object_records import Record
from dalsegno.terms.ids import ObjectId
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import Release, ReplicaSet, VolumeState

LEASE_SECONDS: Final = 30
"""How long a volume stays frozen when who froze it dies."""
STATE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a volume's state: it is read and written as a whole, for each call and for every token that may see it."""
BATCH_IDS_MAX: Final = 20_000
"""Ids in one `have` or `objects` call."""
BLOCK_ANSWER_BYTES_MAX: Final = 2 * 1024 * 1024
"""Payload bytes in one answer of `block`, about."""
BATCH_BYTES_TARGET: Final = 64 * 1024 * 1024
"""Payload bytes in one `objects` call, about."""


@runtime_checkable
class Reopener(Protocol):
    """A server whose volumes can be reopened."""

    def reopen(self, volume: str, *, at_ns: int, content: bytes = b"") -> VolumeState:
        """Put a revision of `at_ns`, which is now, in the place of a head that is of the future, and return the state.

        It has the files of the head, or of the revision `content` of this volume. Its parent is the newest revision
        behind the head that is not of the future. Refused when the head is not of the future.
        """
        ...


class Site(Protocol):
    """One server, or one pool, as seen by whoever replicates."""

    @property
    def name(self) -> str:
        """The server's name in its realm."""
        ...

    # What is there

    def states(self) -> list[VolumeState]:
        """Return the volumes that the caller may read, by name."""
        ...

    def state(self, volume: str) -> VolumeState:
        """Return a volume's state, by name."""
        ...

    # Objects out

    def block(self, volume: str, identity: ObjectId, *, bytes_max: int = BLOCK_ANSWER_BYTES_MAX) -> list[Record]:
        """Return an object and those stored beside it, about `bytes_max` bytes, and of a list of directory nodes some
        that are below it. Whoever asks checks each payload against its id."""
        ...

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        """Yield rows (many joined at a time) for what `targets` reach and the newest fitting one of `bases` does not.

        With it come the revisions, without their trees, between a target and the bases. Bases that are not here are
        passed over. The rows stand in the order in which the objects are stored.
        """
        ...

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Yield the bytes of a pack (kind pool) that holds exactly the objects with these joined ids."""
        ...

    # Objects in

    def have(self, volume: str, ids: bytes) -> bytes:
        """Return one byte for each of the joined ids: 1 when the object, with all that it names, is there to stay."""
        ...

    def upload_size(self, volume: str, upload: bytes) -> int:
        """Return how many bytes of an upload (named by its pack id) are there; 0 for one never begun."""
        ...

    def upload(self, volume: str, upload: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        """Add bytes to an upload at `offset`, which must be at most its size, and return its size, durable."""
        ...

    def adopt(self, volume: str, uploads: Sequence[bytes]) -> None:
        """Check whole uploads (every id against its payload, that nothing they name is missing) and keep them.

        What they hold is in the pool afterwards, under no name yet: a collection leaves it alone for its grace period.
        NotFound when they name an object that is neither in them nor here; chunks name nothing.
        """
        ...

    def commit(
        self,
        volume: str,
        revision: bytes,
        upload: bytes,
        pieces: Iterable[bytes],
        *,
        common: bytes = b"",
        owner: str = "",
    ) -> VolumeState:
        """Do upload (whole, from 0), adopt, advance to `revision` and, with `common`, agree on that: in one call.

        What one of these refuses ends it; `upload` may be empty when nothing is missing.
        """
        ...

    # What moves

    def create(self, state: VolumeState) -> VolumeState:
        """Make an empty volume with this id, name, role, replica set and settings; the same again is no error.

        It is a native one: what a tracked volume follows is on another machine.
        """
        ...

    def remove(self, volume: str) -> None:
        """Forget a volume on this server."""
        ...

    def advance(self, volume: str, revision: bytes, *, owner: str = "") -> VolumeState:
        """Move the head of a WRITER or STANDBY forward to `revision`, which is here whole, and return the state.

        A revision that the head has already behind it changes nothing. Diverged when neither is behind the other.
        Conflict while somebody else than `owner` has the volume frozen. Refused on a READER.
        """
        ...

    def agree(self, volume: str, revision: bytes, *, uncloned: Mapping[str, Sequence[Clone]] = {}) -> None:
        """Note that every writer has `revision`, which must lie at or behind the head; empty: nothing of that.

        Forget that these `uncloned` were: every writer knows.
        """
        ...

    def freeze(self, volume: str, *, owner: str, seconds: int = LEASE_SECONDS) -> VolumeState:
        """Freeze, or freeze on, for `owner`, and return the state; nobody else's commit goes through meanwhile."""
        ...

    def thaw(self, volume: str, *, owner: str) -> None:
        """End the lease of `owner`; one that ended by itself is no error."""
        ...

    def clone(self, volume: str, name: str, clone: Clone) -> VolumeState:
        """Name a revision that is here whole; the same again is no error, and holds it when `clone` is held.

        AlreadyThere when the name means another (revision and time tell). One that was uncloned stays so.
        """
        ...

    def unclone(self, volume: str, name: str, clone: Clone, *, here_only: bool = False) -> VolumeState:
        """Forget the clone `name` when it is this one (revision and time tell) and, without `here_only`, remember that.

        Remembered even where there is no such clone. The time tells it from a clone of the same name made later.
        Refused while it is held, unless `clone` is, too: who says so knows, and has given it another name, say.
        """
        ...

    def arrange(self, volume: str, replicas: ReplicaSet) -> VolumeState:
        """Take a replica set with a larger version, and this server's role in it; another changes nothing."""
        ...

    def switch(self, volume: str, release: Release) -> VolumeState:
        """Show a release, whose revision is here whole, on a READER; note it elsewhere. An older one is no error."""
        ...

    def watch(self, volume: str, head: bytes, *, seconds: float, follower: str = "") -> VolumeState:
        """Return the state as soon as the head is not `head`, or after `seconds`; note how far `follower` is."""
        ...
