"""One mount from its beginning to its end."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dalsegno.actions import mount as actions
from dalsegno.actions.session import House
from dalsegno.actions.signers import require_own
from dalsegno.formats import fuse, objects
from dalsegno.formats.objects import Entry
from dalsegno.mount import kernel
from dalsegno.mount.changes import Changes
from dalsegno.mount.commit import LOOK_SECONDS, Committer
from dalsegno.mount.evict import InodeEvictor
from dalsegno.mount.gallery import HouseGallery
from dalsegno.mount.kernel import MountOptions
from dalsegno.mount.listing import Listings
from dalsegno.mount.push import Pusher
from dalsegno.mount.readonly import Gallery, Owners, Picture, ReadOnly, Shelf
from dalsegno.mount.session import FileSystem, Session, log_to_stderr
from dalsegno.mount.spool import Spool
from dalsegno.mount.writable import Writable
from dalsegno.terms.errors import Conflict, DalError, Refused
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.state import VolumeState
from dalsegno.world.background import on_stop
from dalsegno.world.chance import random_node
from dalsegno.world.clock import now_ns, pause
from dalsegno.world.control_socket import Listener, Words
from dalsegno.world.files import FileLock, make_directory
from dalsegno.world.memory import keep_freed_memory
from dalsegno.world.workers import Workers

THREADS: Final = 4
THREADS_AHEAD: Final = 2
WRITING_THREADS: Final = 8
"""More, because those that wait for a commit answer nobody."""
NEW_ROOT_MODE: Final = 0o755
SHELF_SECONDS: Final = 1
LOCK_SECONDS_MAX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How the caller wants to see it."""

    allow_other: bool = False
    as_user: bool = False
    devices: bool = False
    is_trusted: bool = True
    """Whether owners, set-id bits, devices and attributes of the namespaces `security` and `trusted` are shown."""
    takes_unsigned: bool = False
    """Whether states are shown that do not count as signed, of volumes that require it."""


def show_read_only(
    top: Picture | Shelf,
    gallery: Gallery | None,
    directory: Path,
    *,
    wishes: Wishes,
    label: str,
    own: Sequence[Path],
    ready: Callable[[], None],
) -> None:
    """Show `top` at `directory` until it is unmounted, or this process is asked to end."""
    shown_as = (os.getuid(), os.getgid()) if wishes.as_user else (None, None)
    owners = Owners(uid=shown_as[0], gid=shown_as[1], is_trusted=wishes.is_trusted)
    file_system = ReadOnly(top, gallery, owners=owners, now_ns=now_ns())
    options = _options(wishes, read_only=True, label=label)
    with Workers(2) as crew, _reading_ahead(top.listings):
        ended: list[bool] = []
        pushers: list[Pusher] = []

        def watch(session: Session) -> None:
            shelves = ShelfWatch(file_system, session)
            while not ended:
                pause(LOOK_SECONDS)
                shelves.look()
                if gallery is not None:
                    gallery.keep()

        def begin(session: Session) -> None:
            crew.submit(watch, session)
            pusher = Pusher(file_system, session.notify, crew)
            pushers.append(pusher)
            file_system.noticed = pusher.noticed
            ready()

        try:
            _serve(file_system, directory, options, begin=begin, thread_count=THREADS, own=own)
        finally:
            ended.append(True)
            for pusher in pushers:
                pusher.ended = True
            if gallery is not None:
                gallery.close()


@contextmanager
def _reading_ahead(listings: Listings) -> Iterator[None]:
    """Let the blocks of files that are read in order be opened before the kernel asks for them."""
    source = listings.source.source
    with Workers(THREADS_AHEAD) as crew:
        source.read_ahead(crew)
        try:
            yield
        finally:
            source.read_ahead(None)


def own_places(house: House) -> list[Path]:
    """Return what a mount needs to go on."""
    return [place for place in (house.pool.backend.directory, house.cache_dir) if place is not None]


class ShelfWatch:
    """Lets the kernel forget the lists of clones and volumes that have changed."""

    def __init__(self, still: ReadOnly, session: Session) -> None:
        self._still = still
        self._session = session
        self._looked_ns = 0

    def look(self) -> None:
        """Look, unless it was done a moment ago."""
        at_ns = now_ns()
        if at_ns - self._looked_ns < SHELF_SECONDS * SECOND_NS:
            return
        for node in self._still.changed_shelves():
            self._session.notify(fuse.encode_inval_inode(node, 0, 0))
        self._looked_ns = at_ns


def _options(wishes: Wishes, *, read_only: bool, label: str) -> MountOptions:
    return MountOptions(
        read_only=read_only,
        allow_other=wishes.allow_other,
        default_permissions=True,
        label=label,
        devices=wishes.devices,
    )


def _serve(
    file_system: FileSystem,
    directory: Path,
    options: MountOptions,
    *,
    begin: Callable[[Session], None],
    thread_count: int,
    own: Sequence[Path],
) -> None:
    path = os.path.realpath(directory)
    for place in own:
        if os.path.realpath(place).startswith(path.rstrip("/") + "/"):
            raise Refused(f"{directory}: a mount there would hide {place}, which it needs: choose another directory")
    keep_freed_memory()
    session = Session(kernel.mount(directory, options), file_system, log=log_to_stderr)
    try:
        session.negotiate()
        kernel.set_read_ahead(path)
        on_stop(lambda: _leave(path))
        begin(session)
        session.serve(thread_count=thread_count)
    finally:
        session.close()


def _leave(path: str) -> None:
    try:
        kernel.unmount(path, lazy=True)
    except DalError as error:
        log_to_stderr(str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A native volume that this process holds for writing."""

    still: ReadOnly
    gallery: HouseGallery
    changes: Changes
    writable: Writable
    committer: Committer


@contextmanager
def open_writable(
    house: House, state: VolumeState, *, as_user: bool = False, takes_unsigned: bool = False
) -> Iterator[Opened]:
    """Hold a native volume for writing; what was changed and not committed is when the block ends, however it ends."""
    require_own(house, state)
    place = actions.mounts_directory(house)
    make_directory(place)
    with FileLock(actions.mount_lock(house, state.id)) as lock, ExitStack() as stack:
        # A mount that was killed a moment ago may not have let go yet.
        for _ in range(int(LOCK_SECONDS_MAX / LOOK_SECONDS)):
            if lock.acquire(wait=False):
                break
            pause(LOOK_SECONDS)
        else:
            raise Conflict(f"volume {state.name!r} is mounted for writing already: `dal mount --list` shows where")
        state = actions.volume_by_id(house, state.id)
        # This swaps a ref, so that the head that is shown is durable, whoever set it.
        actions.pin_base(house, state.id, state.head)
        gallery = HouseGallery(house, takes_unsigned=takes_unsigned)
        stack.callback(gallery.close)
        picture = gallery.head(state) if state.head else _empty_picture(gallery, state)
        owners = Owners(uid=os.getuid(), gid=os.getgid()) if as_user else Owners()
        still = ReadOnly(picture, gallery, owners=owners, now_ns=now_ns())
        spool, lasting = Spool(place), Spool(place)
        stack.callback(spool.close)
        stack.callback(lasting.close)
        changes = Changes(still, spool=spool, lasting=lasting)
        writable = Writable(still, changes, disk=lambda: os.statvfs(house.pool.backend.directory or house.cache_dir))
        committer = Committer(house, state.id, changes, writable.methods, head=state.head, log=log_to_stderr)
        try:
            yield Opened(still=still, gallery=gallery, changes=changes, writable=writable, committer=committer)
        finally:
            committer.commit()
            actions.unpin_base(house, state.id)


def show_writable(
    house: House, state: VolumeState, directory: Path, *, wishes: Wishes, ready: Callable[[], None]
) -> None:
    """Show a native volume for reading and writing, and commit what is written, until the end."""
    with (
        open_writable(house, state, as_user=wishes.as_user, takes_unsigned=wishes.takes_unsigned) as opened,
        Workers(2) as crew,
    ):
        committer, gallery = opened.committer, opened.gallery
        control = Control(opened.writable, opened.changes, committer, os.path.realpath(directory))
        listener = Listener(actions.mount_socket(house, state.id))
        runs = []

        def begin(session: Session) -> None:
            control.notify = session.notify
            shelves, evictor = ShelfWatch(opened.still, session), InodeEvictor(opened.changes, session.notify)

            def besides() -> None:
                shelves.look()
                evictor.look()
                gallery.keep()

            runs.append(crew.submit(committer.run, besides))
            runs.append(crew.submit(listener.serve, control.answer, ended=lambda: committer.ended))
            ready()

        try:
            with _reading_ahead(gallery.listings):
                options = _options(wishes, read_only=False, label=state.name)
                own = own_places(house)
                _serve(opened.writable, directory, options, begin=begin, thread_count=WRITING_THREADS, own=own)
        finally:
            committer.ended = True
            for run in runs:
                run.result()
            # Who unmounts waits until the socket is gone: not before all that was written is stored.
            committer.commit()
            listener.close()


def _empty_picture(gallery: HouseGallery, state: VolumeState) -> Picture:
    root = Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        mode=NEW_ROOT_MODE,
        uid=os.getuid(),
        gid=os.getgid(),
        mtime_ns=now_ns(),
        btime_ns=now_ns(),
        node=random_node(),
    )
    return Picture(
        listings=gallery.listings,
        root=root,
        tree=b"",
        links=b"",
        identity=state.id,
        volume_id=state.id,
        label=state.name,
        total_bytes=0,
        entry_count=0,
    )


class Control:
    """What other commands of the same user may ask of a running mount."""

    def __init__(self, writable: Writable, changes: Changes, committer: Committer, path: str) -> None:
        self.notify: Callable[[bytes], object] = lambda message: None
        """Tells the kernel, once there is a session."""
        self._writable = writable
        self._changes = changes
        self._committer = committer
        self._path = path

    def answer(self, words: Words) -> Words:
        """Do what is asked and say how it went."""
        acts = {"where": self._where, "commit": self._commit, "mkmount": self._mkmount, "rmmount": self._rmmount}
        act = acts.get(str(words.get("do")))
        if act is None:
            return {"error": "bad-input", "message": f"unknown wish {words.get('do')!r}"}
        try:
            return act(words)
        except DalError as error:
            return {"error": error.code, "message": str(error)}
        except OSError as error:
            return {"error": _CODES.get(error.errno or 0, "failed"), "message": error.strerror or str(error)}

    def _where(self, words: Words) -> Words:
        return {"at": self._path}

    def _commit(self, words: Words) -> Words:
        kernel.flush_pages(self._path, lambda: self._changes.change_count)
        self._committer.commit()
        return {"head": self._committer.head.hex()}

    def _mkmount(self, words: Words) -> Words:
        path = str(words["path"]).encode(errors="surrogateescape")
        target = str(words["target"]).encode(errors="surrogateescape")
        self._look_again(*self._writable.make_point(path, target, uid=int(words["uid"]), gid=int(words["gid"])))
        self._committer.commit()
        return {"nowhere": self._writable.why_nowhere(target)}

    def _rmmount(self, words: Words) -> Words:
        self._look_again(*self._writable.remove_point(str(words["path"]).encode(errors="surrogateescape")))
        self._committer.commit()
        return {}

    def _look_again(self, parent: int, name: bytes) -> None:
        """Let the kernel forget what it knew of a name and of the directory that holds it."""
        self.notify(fuse.encode_inval_entry(parent, name))
        self.notify(fuse.encode_inval_inode(parent, 0, 0))


_CODES: Final = {
    errno.ENOENT: "not-found",
    errno.EEXIST: "already-there",
    errno.EINVAL: "bad-input",
    errno.EROFS: "refused",
    errno.ENOSPC: "full",
}
