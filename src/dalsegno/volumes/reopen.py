"""Reopen a volume that was ended: its head is of a far future, and each commit must be later than the one before.

The content of the head, or of another of its revisions, becomes a revision of today whose parent is the newest one that
is not of the future. Everybody who reopens the same head to the same content at the same time makes the same revision.
"""

import msgspec

from dalsegno.chunks.signatures import Sign, leave_unsigned
from dalsegno.formats import objects
from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Source
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import Conflict, Damaged, NotFound, Refused
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.times import format_time, show_time, time_name
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import between
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.dates import is_future
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import Volumes, free_name
from dalsegno.world.workers import Workers

AUTHOR = "dal volume reopen"
KEPT_STEM = "before-reopening-"


def newest_past(source: Source, head: bytes, *, now_ns: int) -> bytes:
    """Return the newest revision at or behind `head` that is not of the future; empty when there is none here."""
    for identity in between(source, head, ()):
        if not is_future(read_revision(source, identity).created_ns, now_ns=now_ns):
            return identity
    return b""


def plan_reopened(source: Source, state: VolumeState, *, content: bytes, now_ns: int) -> Revision:
    """Return the revision that takes the head's place. Refused when the head is not of the future."""
    if not state.head:
        raise Refused(f"volume {state.name!r} is empty: there is nothing to reopen")
    head = read_revision(source, state.head)
    if not is_future(head.created_ns, now_ns=now_ns):
        raise Refused(f"volume {state.name!r} is not ended: its newest state is of {show_time(head.created_ns)}")
    last = newest_past(source, state.head, now_ns=now_ns)
    wanted = read_revision(source, content) if content else head
    earliest_ns = read_revision(source, last).created_ns + 1 if last else 0
    return msgspec.structs.replace(
        wanted,
        volume=state.id,
        parents=[last] if last else [],
        created_ns=max(now_ns, earliest_ns),
        author=AUTHOR,
        message=f"in place of #{hex_short(state.head)}, which was dated {format_time(head.created_ns)}",
        signature=b"",
    )


def reopen(
    pool: Pool,
    volumes: Volumes,
    name: str,
    *,
    content: bytes = b"",
    now_ns: int,
    workers: Workers | None = None,
    sign: Sign = leave_unsigned,
) -> VolumeState:
    """Put a revision of `now_ns` in the place of a head of the future, and return the state.

    With `content`, another revision of the volume, that one's files; a clone keeps the head which was. Without `sign`
    everybody who does this makes the same revision.
    """
    state = volumes.get(name)
    revision = sign(plan_reopened(pool, state, content=content, now_ns=now_ns))
    with pool.writer(workers) as writer:
        # What is relied on is looked at again, and stored again if a collection passes.
        for kind, identity in objects.references(objects.KIND_REVISION, objects.encode(revision)):
            if not writer.has(ObjectId(identity)):
                what = objects.KIND_NAMES[kind]
                raise NotFound(f"volume {name!r}: {what} {hex_short(identity)} of its newest state is not here")
        made = bytes(writer.put(objects.KIND_REVISION, objects.encode(revision)))
        writer.flush()
        writer.commit_guard()

        def change(current: VolumeState) -> VolumeState:
            if current.head != state.head:
                raise Conflict(f"volume {name!r}: its head moved meanwhile; look again")
            return _with_head(pool, current, made, keep=bool(content), now_ns=now_ns)

        return volumes.update(state.id, change)


def _with_head(source: Source, state: VolumeState, head: bytes, *, keep: bool, now_ns: int) -> VolumeState:
    clones = state.clones
    if keep:
        name = free_name(KEPT_STEM + time_name(now_ns), clones)
        clones = clones.put(name, Clone(revision=state.head, created_ns=now_ns))
    common = state.common if state.common and not _is_future(source, state.common, now_ns) else b""
    return msgspec.structs.replace(state, head=head, common=common, clones=clones)


def _is_future(source: Source, identity: bytes, now_ns: int) -> bool:
    try:
        return is_future(read_revision(source, identity).created_ns, now_ns=now_ns)
    except (NotFound, Damaged):
        return True
