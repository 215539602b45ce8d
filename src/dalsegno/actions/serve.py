"""What a server does besides replication: dumps out, dumps in, tokens."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from dalsegno.actions.session import House
from dalsegno.dumps.admission import check_sent
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.load import load_chain
from dalsegno.dumps.plan import forget_dump, plan_dump, record_dump
from dalsegno.dumps.write import write_dump
from dalsegno.pool.pack_write import SENT_PENDING_MAX
from dalsegno.replicas.contract import STATE_BYTES_MAX
from dalsegno.terms.errors import BadInput, Damaged, NotFound, Refused
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import KIB, format_size
from dalsegno.volumes.address import Address, resolve
from dalsegno.volumes.dates import require_past
from dalsegno.volumes.ownership import require_own
from dalsegno.volumes.records import RECORDS_MAX, DumpRecord
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import SECOND_NS, now_ns
from dalsegno.world.files import ResumedFile, file_errors, make_directory, remove_durable

INCOMING: Final = "incoming"
"""Where uploaded dumps wait for their `load`, in the pool's directory: on the disk that they will be loaded into."""
INCOMING_SUFFIX: Final = ".dump"
INCOMING_FILE_BYTES_MIN: Final = 64 * KIB
"""What a file counts for at least: names take room, too."""
INCOMING_KEPT_NS: Final = 7 * 86400 * SECOND_NS


class Output(Protocol):
    """What a dump is written to."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Add bytes."""
        ...


def stream_dump(
    house: House,
    volume: str,
    output: Output | BinaryIO,
    *,
    clone: str = "",
    level: int = 0,
    base: bytes = b"",
    taken_at_ns: int = 0,
    recipients: Sequence[str] = (),
    sees_all: bool = True,
) -> None:
    """Write a dump of a clone, or of the newest state, and do not record it; `base` names a recorded dump.

    It bears the time `taken_at_ns`, or now: who asks several servers in turn has one clock for all. Unless `sees_all`,
    who asks may not read every volume. Each of `recipients` opens the dump, too, with his own key.
    """
    state = house.volumes.get(volume)
    now, recorder = now_ns(), ""
    named = resolve(house.pool, house.volumes, Address(volume=state.name, selector=clone), now_ns=now)
    if not sees_all:
        require_own(house.pool, house.volumes, state, named.revision)
    if base:
        found = state.dumps.find(base)
        if found is None:
            raise NotFound(f"volume {volume!r}: no dump {hex_short(base)} is recorded: `dal volume show` lists them")
        # A base of one's own choice: the level is one above it, whatever was recorded since.
        state, recorder = msgspec.structs.replace(state, dumps=[found]), found.recorder
        level = max(level, min(9, found.level + 1))
    targets = [(named.clone or "", named.revision)]
    plan = plan_dump(house.pool, state, targets=targets, level=level, now_ns=taken_at_ns or now, recorder=recorder)
    write_dump(
        house.pool,
        plan,
        output.write,
        realm=house.pool.realm,
        sealed=bool(recipients) or house.pool.encryption != "none",
        recipients=recipients,
        workers=house.workers,
        pending_max=SENT_PENDING_MAX,
    )


def record(house: House, volume: str, made: DumpRecord, *, sees_all: bool = True) -> VolumeState:
    """Note that a dump of a volume is durable, wherever it is."""
    state = house.volumes.get(volume)
    if not sees_all:
        require_own(house.pool, house.volumes, state, made.revision)
    require_past(f"dump {hex_short(made.dump_id)}", made.taken_at_ns, now_ns=now_ns())
    if not house.pool.has(ObjectId(made.revision)):
        raise Refused(f"volume {volume!r}: revision {hex_short(made.revision)} of the dump is not here")
    if made.base_dump and state.dumps.find(made.base_dump) is None:
        raise Refused(f"volume {volume!r}: dump {hex_short(made.base_dump)}, which it builds on, is not recorded here")
    if len(state.dumps) >= RECORDS_MAX and made not in state.dumps:
        raise Refused(f"volume {volume!r} has {RECORDS_MAX:,} recorded dumps: forget some first (`dal mark --forget`)")
    return house.volumes.update(state.id, lambda current: record_dump(current, made), bytes_max=STATE_BYTES_MAX)


def _without_paths(text: str, paths: Iterable[Path]) -> str:
    """Return a message without the places of uploaded dumps, which are the server's own affair."""
    for number, path in enumerate(paths, 1):
        text = text.replace(str(path), f"dump {number}")
    return text


def forget(house: House, volume: str, dump_id: bytes) -> VolumeState:
    """Let no later dump build on this one: it is gone."""
    state = house.volumes.get(volume)
    return house.volumes.update(state.id, lambda current: forget_dump(current, dump_id))


def incoming_path(house: House, owner: str, dump_id: bytes) -> Path:
    """Return where an uploaded dump waits; each owner has his own."""
    return house.pool.backend.scratch(INCOMING) / f"{owner}-{dump_id.hex()}{INCOMING_SUFFIX}"


def incoming_size(house: House, owner: str, dump_id: bytes) -> int:
    """Return how many bytes of an uploaded dump are there; 0 for one never begun."""
    path = incoming_path(house, owner, dump_id)
    partial = path.with_name(path.name + ".partial")
    with file_errors(partial):
        try:
            return partial.stat().st_size
        except FileNotFoundError:
            return 0


def waiting_bytes(house: House, owner: str) -> int:
    """Return how many bytes of uploaded dumps of one owner wait to be loaded."""
    total = 0
    for path in house.pool.backend.scratch(INCOMING).glob(f"{owner}-*"):
        with suppress(OSError):  # loaded meanwhile
            total += max(path.stat().st_size, INCOMING_FILE_BYTES_MIN)
    return total


def receive_dump(
    house: House, owner: str, dump_id: bytes, offset: int, *, bytes_max: int | None = None
) -> Generator[None, bytes, int]:
    """Add bytes, until an empty piece, to an uploaded dump at `offset`, at most its size; return its size, durable.

    Refused when more than `bytes_max` of this owner's dumps would wait.
    """
    path = incoming_path(house, owner, dump_id)
    make_directory(path.parent)
    with ResumedFile(path) as file:
        if offset > file.offset:
            raise Refused(f"dump {hex_short(dump_id)}: {file.offset} bytes are there: go on at most from there")
        file.truncate(offset)
        left = bytes_max - waiting_bytes(house, owner) if bytes_max is not None else None
        if left is not None and left < 0 and not file.offset:
            raise Refused(_too_many(bytes_max))
        while piece := (yield):
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise Refused(_too_many(bytes_max))
            file.write(piece)
        file.sync()
        return file.offset


def _too_many(bytes_max: int | None) -> str:
    return (
        f"dumps that were sent with this token and not loaded: at most {format_size(bytes_max or 0)}; load them, or "
        "have one forgotten (DELETE)"
    )


def drop_dump(house: House, owner: str, dump_id: bytes) -> None:
    """Forget an uploaded dump."""
    path = incoming_path(house, owner, dump_id)
    remove_durable(path.with_name(path.name + ".partial"))


def drop_old_dumps(house: House) -> None:
    """Forget uploaded dumps that nobody loaded for a week."""
    folder = house.pool.backend.scratch(INCOMING)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        with file_errors(path):
            if path.stat().st_mtime_ns < now_ns() - INCOMING_KEPT_NS:
                remove_durable(path)


def load_dumps(
    house: House, owner: str, dumps: Sequence[bytes], name: str, *, may_administer: bool, sees_all: bool
) -> VolumeState:
    """Make a volume of uploaded dumps, or bring one forward by increments that continue it; then forget the uploads.

    Damaged forgets them, too.
    Who may administer the volume may make it, and take it where nothing tells that this is forward; `sees_all`: who
    sent the dumps may read every volume.
    """
    try:
        state: VolumeState | None = house.volumes.get(name)
    except NotFound:
        state = None
    if state is None and not may_administer:
        raise NotFound(f"no volume {name!r} here: making one needs the right to administer it")
    if state is not None and state.replicas is not None:
        raise Refused(f"volume {name!r} is replicated: seed a replica instead (`dal replica add --seed`)")
    if len(set(dumps)) != len(dumps):
        raise BadInput("a dump stands twice in the list")
    paths = []
    for dump_id in dumps:
        path = incoming_path(house, owner, dump_id)
        partial = path.with_name(path.name + ".partial")
        if not partial.is_file():
            raise NotFound(f"dump {hex_short(dump_id)} was not uploaded with this token")
        paths.append(partial)
    try:
        with DumpChain.open(paths, house.pool.realm) as chain:
            loaded = load_chain(
                chain,
                house.pool,
                house.volumes,
                name,
                now_ns=now_ns(),
                workers=house.workers,
                admit=lambda state: check_sent(
                    chain, house.pool, state, now_ns=now_ns(), may_jump=may_administer, sees_all=sees_all
                ),
                keep_paths=False,
            )
    except (BadInput, Damaged, NotFound, Refused) as error:
        if isinstance(error, Damaged):  # after a power cut, say: who sends it again begins anew
            for path in paths:
                remove_durable(path)
        raise type(error)(_without_paths(str(error), paths)) from error
    for path in paths:
        remove_durable(path)
    return loaded
