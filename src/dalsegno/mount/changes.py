"""All that changed in a volume since it was mounted, over the tree as it was then.

Changed files are Inodes, changed names are Overlays, written bytes wait in the Spool. Who calls a method holds `lock`,
but for `is_ours`, `forget`, and the three of a commit: `freeze` takes everything at one moment; `thaw` follows when it
was stored, `restore` when it was not.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from dalsegno.formats import fuse, objects
from dalsegno.formats.objects import Entry
from dalsegno.host.attributes import OwnerNames
from dalsegno.mount.inodes import SOCKET, STORED, Inode, Overlay
from dalsegno.mount.listing import Kept
from dalsegno.mount.readonly import Folder, ReadOnly
from dalsegno.mount.snapshot import DirectoryJob, Draft, FileJob, Snapshot
from dalsegno.mount.spool import Spool
from dalsegno.terms.errors import Full
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.edit import BASE
from dalsegno.trees.read import entry_xattrs, links_key
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import new_lock

NEW_NODE: Final = 1 << 62
"""Nodes of what is new are numbered from here on; those of what was there are (folder, row)."""
LIST_SECONDS_MAX: Final = 60
"""How long somebody may take between two looks at a directory's list before its names are numbered anew."""
LASTING: Final = 1 << 60
"""Places from here on are in the lasting spool."""
TOTAL_BYTES_MAX: Final = (1 << 64) - 1
"""What a revision can say; files with holes may have more."""


def fail(code: int) -> OSError:
    """Return the error that the caller of a system call gets."""
    return OSError(code, os.strerror(code))


class Changes:
    """The changes of one mounted volume."""

    def __init__(self, still: ReadOnly, *, spool: Spool, lasting: Spool) -> None:
        layer = still.root.layer
        assert layer is not None
        self.lock = new_lock()
        self.dirty_since_ns = 0
        """When the first change was made that no commit has; 0 when there is none."""
        self.change_count = 0
        """How many changes were made since the mount began."""
        self.hot: dict[int, Inode] = {}
        self.dirty_files: dict[int, Inode] = {}
        self.removed_folders: set[int] = set()
        self.entry_count = layer.picture.entry_count
        self.total_bytes = layer.picture.total_bytes
        self._still = still
        self._layer = layer
        self._listings = layer.listings
        self._spool = spool
        self._lasting = lasting
        """The bytes of files that have lost their last name and are still open: no commit empties it."""
        self._owners = OwnerNames()
        self._overlays: dict[int, Overlay] = {}
        self._links_stored = layer.picture.links
        self._dirty_links: dict[int, Inode] = {}
        self._orphans: dict[int, Inode] = {}
        self._kept: dict[int, tuple[int, bytes | int]] = {}
        """Nodes whose changes are stored, and where to find them: (folder, name), or of hard links (number, names)."""
        self._gone_folders: list[Folder] = []
        self._next_node = NEW_NODE
        self._committing = False

    @property
    def source(self) -> Kept:
        """What the tree is read from."""
        return self._listings.source

    def new_node(self) -> int:
        """Return a node for something new."""
        self._next_node += 1
        return self._next_node - 1

    def is_ours(self, node: int) -> bool:
        """Tell whether a node belongs to the tree that is written."""
        folder = self._still.known_folder(node)
        if folder is not None:
            return folder.layer is self._layer
        if node in self.hot or node >= NEW_NODE:
            return True
        return self._still.place(node)[0].layer is self._layer

    def folder(self, node: int) -> Folder:
        """Return the folder of a directory of ours; ENOTDIR when it is none."""
        folder = self._still.known_folder(node)
        if folder is None:
            if node in self.hot and self.hot[node].kind != objects.ENTRY_DIRECTORY:
                raise fail(errno.ENOTDIR)
            folder = self._still.folder(node)
        return folder

    def known_overlay(self, folder: Folder) -> Overlay | None:
        """Return what changed of a directory's names, if something did."""
        return self._overlays.get(folder.number)

    def overlay(self, folder: Folder) -> Overlay:
        """Return what changed of a directory's names, to change more."""
        overlay = self._overlays.get(folder.number)
        if overlay is None:
            overlay = self._overlays[folder.number] = Overlay(folder.content)
        return overlay

    def child(self, folder: Folder, name: bytes) -> int | None:
        """Return the node that a name leads to, or None."""
        overlay = self._overlays.get(folder.number)
        if overlay is not None and name in overlay.changes:
            node = overlay.changes[name]
            if node == STORED:
                return self.revive(folder, overlay, name).node
        else:
            node = self.base_child(folder, name)
        if node in self._kept:
            self.wake(node)
        return node

    def revive(self, folder: Folder, overlay: Overlay, name: bytes) -> Inode:
        """Return a name that is STORED as an inode again, with a new node."""
        found = self._listings.find(overlay.stored, name)
        assert found is not None, "what is stored was stored"
        inode = Inode(self.new_node(), found[1], xattrs=dict(entry_xattrs(self.source, found[1])))
        inode.places = {(folder.number, name)}
        self.hot[inode.node] = inode
        overlay.changes[name] = inode.node
        if inode.kind == objects.ENTRY_DIRECTORY:
            made = Folder(folder, name, layer=self._layer, content=found[1].content, ino=found[1].node)
            self._still.add_folder(inode.node, made)
        return inode

    def is_kept(self, node: int) -> bool:
        """Tell whether a node has to be woken before it is used; may be asked without the lock."""
        return node in self._kept

    def wake(self, node: int) -> None:
        """Make an inode again of what `evict` dropped, if it did."""
        place = self._kept.pop(node, None)
        if place is None:
            return
        number, what = place
        if isinstance(what, bytes):
            found = self._listings.find(self._overlays[number].stored, what)
        else:
            found = self._listings.find(self._links_stored, links_key(number))
        assert found is not None, "what is put away is stored"
        inode = self.hot[node] = Inode(node, found[1], xattrs=dict(entry_xattrs(self.source, found[1])))
        if isinstance(what, bytes):
            inode.places = {(number, what)}
        else:
            inode.linked, inode.places, inode.link_count = True, None, what

    def base_child(self, folder: Folder, name: bytes) -> int | None:
        """Return the node that a name led to when the mount began, or None."""
        if not folder.content:
            return None
        found = self._listings.find(folder.content, name)
        return None if found is None else self._still.resolve_row(folder, *found)[0]

    def inode(self, node: int) -> Inode:
        """Return a node as something that can be changed."""
        self.wake(node)
        inode = self.hot.get(node)
        if inode is not None:
            return inode
        if node >= NEW_NODE:
            raise fail(errno.ESTALE)
        entry, layer = self._still.entry(node)
        if entry is None or layer is not self._layer or entry.kind == objects.ENTRY_MOUNT:
            raise fail(errno.EROFS)
        xattrs = dict(entry_xattrs(self._listings.source, entry))
        inode = Inode(node, entry, xattrs=xattrs)
        if node != fuse.ROOT_NODE:
            above, _ = self._still.place(node)
            if self._layer.links is not None and above is self._layer.links:
                inode.linked, inode.places = True, None
                inode.link_count = self._layer.link_counts.count(entry.node, exact=True)
            else:
                inode.places = {(above.number, entry.name)}
        self.hot[node] = inode
        return inode

    def touched(self, inode: Inode) -> None:
        """Remember that the next commit must store an inode's entry."""
        self.changed()
        if inode.link_count == 0:
            return
        if inode.linked:
            self._dirty_links[inode.node] = inode
        elif inode.kind == objects.ENTRY_DIRECTORY:
            folder = self.folder(inode.node)
            if folder.parent is not None and folder.number not in self.removed_folders:
                self.overlay(folder.parent).dirty.add(folder.name)
        else:
            for number, name in inode.places or ():
                self.overlay(self._still.folder_by_number(number)).dirty.add(name)

    def changed(self) -> None:
        """Count a change; a commit is due some seconds after the first."""
        self.change_count += 1
        if not self.dirty_since_ns:
            self.dirty_since_ns = now_ns() or 1

    def touch_directory(self, folder: Folder, at_ns: int) -> None:
        """Set the times of a directory in which a name changed."""
        inode = self.inode(folder.node)
        inode.mtime_ns = inode.ctime_ns = at_ns
        self.touched(inode)

    def forget(self, node: int, count: int) -> None:
        """Count what the kernel forgets, and drop a file without names: its last user has closed it then."""
        inode = self.hot.get(node)
        if inode is not None:
            with self.lock:
                inode.lookup_count -= count
        if node in self._orphans:
            with self.lock:
                self._orphans.pop(node, None)
                self.hot.pop(node, None)
                self.dirty_files.pop(node, None)
                if not self._orphans and self._lasting.tail:
                    self._lasting.free(self._lasting.tail)
                folder = self._still.known_folder(node)
                if folder is not None and folder.number in self.removed_folders:
                    self._gone_folders.append(folder)
                    self._drop_gone_folders()

    def _drop_gone_folders(self) -> None:
        """Let go of removed directories that nobody can name any more; a commit may still speak of them."""
        if self._committing:
            return
        for folder in self._gone_folders:
            self.removed_folders.discard(folder.number)
            self._still.drop_folder(folder)
        self._gone_folders = []

    def set_name(self, folder: Folder, name: bytes, node: int) -> None:
        """Let a name lead to a node."""
        self.overlay(folder).set(name, node, in_base=self._has_row(folder, name))

    def drop_name(self, folder: Folder, name: bytes) -> None:
        """Let a name be gone."""
        self.overlay(folder).remove(name, in_base=self._has_row(folder, name))

    def _has_row(self, folder: Folder, name: bytes) -> bool:
        return bool(folder.content) and self._listings.find(folder.content, name) is not None

    def drop_inode(self, inode: Inode, folder: Folder, name: bytes, at_ns: int) -> None:
        """Take one name from a file, and with the last one the file."""
        inode.ctime_ns = at_ns
        inode.link_count -= 1
        self.entry_count -= inode.kind != SOCKET
        if inode.places is not None:
            inode.places.discard((folder.number, name))
        if inode.linked:
            self._dirty_links[inode.node] = inode
            if inode.link_count == 1 and inode.places is not None:
                inode.linked = False
                self.touched(inode)
        if inode.link_count == 0:
            self.total_bytes -= inode.counted_bytes
            inode.counted_bytes = 0
            self._orphans[inode.node] = inode

    def is_empty(self, folder: Folder) -> bool:
        """Tell whether a directory has no names."""
        overlay = self._overlays.get(folder.number)
        if overlay is None:
            return not folder.content or self._listings.count(folder.content) == 0
        if overlay.positions:
            return False
        if not folder.content:
            return True
        return all(
            overlay.changes.get(entry.name, STORED) is None for entry in self._listings.iterate(folder.content, 0)
        )

    def remove_directory(self, inode: Inode) -> None:
        """Let an empty directory be gone whose name was dropped."""
        folder = self.folder(inode.node)
        inode.link_count = 0
        self.removed_folders.add(folder.number)
        self._overlays.pop(folder.number, None)
        self.entry_count -= 1
        self._orphans[inode.node] = inode

    def move(self, inode: Inode, source: Folder, name: bytes, target: Folder, new_name: bytes, at_ns: int) -> None:
        """Let a name at `target` lead to an inode that had a name at `source`."""
        self.set_name(target, new_name, inode.node)
        if inode.places is not None:
            inode.places.discard((source.number, name))
            inode.places.add((target.number, new_name))
        if inode.kind == objects.ENTRY_DIRECTORY:
            folder = self.folder(inode.node)
            folder.parent, folder.name = target, new_name
        inode.ctime_ns = at_ns
        self.changed()

    def pieces(self, inode: Inode, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, place) of a file's bytes: written now, over what is being stored, over the base."""
        upper = inode.patches
        lower = inode.frozen
        if upper is None:
            upper, lower = lower, None
        if upper is None:
            if start < min(end, inode.base.size):
                yield start, min(end, inode.base.size), BASE
            return
        for piece in upper.pieces(start, end):
            if piece.place != BASE or lower is None:
                yield piece.start, piece.end, piece.place
                continue
            for under in lower.pieces(piece.start, piece.end):
                yield under.start, under.end, under.place

    def append(self, inode: Inode, data: bytes | memoryview) -> int:
        """Put bytes that are written to a file into the spool and return their place."""
        if not inode.link_count:
            return self._lasting.append(data) + LASTING
        try:
            return self._spool.append(data)
        except Full:
            if not self.trim_spool():
                raise
            return self._spool.append(data)

    def trim_spool(self) -> bool:
        """Give back written bytes that nobody needs any more, and tell whether there were any.

        Mostly the next commit does so; but it needs room itself, and may wait for what they take.
        """
        if self._committing:
            return False
        kept = []
        for inode in self.hot.values():
            if inode.patches is not None:
                kept += [(place, place + end - start) for start, end, place in inode.patches.places()]
        return self._spool.trim(piece for piece in kept if piece[0] < LASTING)

    def spooled(self, place: int, length: int) -> bytes:
        """Return written bytes."""
        return self._lasting.read(place - LASTING, length) if place >= LASTING else self._spool.read(place, length)

    @property
    def spooled_bytes(self) -> int:
        """How many written bytes wait for a commit."""
        return self._spool.held_bytes

    def freeze(self) -> Snapshot | None:
        """Take everything that changed, at this moment; None when nothing did. `thaw` or `restore` must follow."""
        with self.lock:
            if not self.dirty_since_ns:
                return None
            began_ns = self.dirty_since_ns
            self._save_orphans()
            self._committing = True
            files: dict[int, FileJob] = {}
            for node, inode in self.dirty_files.items():
                if inode.link_count == 0 or inode.patches is None:
                    continue
                assert inode.frozen is None
                inode.frozen, inode.patches = inode.patches, None
                self.total_bytes += inode.frozen.size - inode.counted_bytes
                inode.counted_bytes = inode.frozen.size
                files[node] = FileJob(inode, inode.base, inode.frozen)
                self.touched(inode)
            self.dirty_files = {node: inode for node, inode in self.dirty_files.items() if inode.link_count == 0}
            directories = self._freeze_directories(files)
            snapshot = Snapshot(
                files=list(files.values()),
                directories=directories,
                links=self._freeze_links(files),
                linked=self._dirty_links,
                links_before=self._links_stored,
                root=self._draft_root(),
                root_number=self._still.root.number,
                root_before=self.overlay(self._still.root).stored,
                entry_count=self.entry_count,
                total_bytes=min(self.total_bytes, TOTAL_BYTES_MAX),
                spool_end=self._spool.tail,
                began_ns=began_ns,
            )
            self._dirty_links = {}
            self.dirty_since_ns = 0
            return snapshot

    def _save_orphans(self) -> None:
        """Move what files without names wrote to where no commit empties it."""
        for inode in self._orphans.values():
            if inode.patches is None:
                continue
            for start, end, place in list(inode.patches.places()):
                if place < LASTING:
                    at = self._lasting.append(self._spool.read(place, end - start))
                    inode.patches.put(start, end, at + LASTING)

    def _freeze_directories(self, files: dict[int, FileJob]) -> list[DirectoryJob]:
        pending = [number for number, overlay in self._overlays.items() if overlay.dirty]
        depths: dict[int, int] = {}
        for number in pending:
            chain = []
            folder: Folder | None = self._still.folder_by_number(number)
            while folder is not None and folder.number not in depths:
                chain.append(folder)
                if folder.parent is not None:
                    self.overlay(folder.parent).dirty.add(folder.name)
                folder = folder.parent
            depth = depths[folder.number] if folder is not None else -1
            for each in reversed(chain):
                depth += 1
                depths[each.number] = depth
        jobs = []
        for number, depth in sorted(depths.items(), key=lambda item: -item[1]):
            folder = self._still.folder_by_number(number)
            overlay = self.overlay(folder)
            drafts = {name: self._draft(folder, name, files, depths) for name in overlay.dirty}
            overlay.dirty = set()
            if now_ns() - overlay.listed_ns > LIST_SECONDS_MAX * SECOND_NS:
                overlay.compact()
            jobs.append(DirectoryJob(number, overlay.stored, drafts, depth))
        return jobs

    def _draft(self, folder: Folder, name: bytes, files: dict[int, FileJob], stored: Mapping[int, int]) -> Draft | None:
        node = self.child(folder, name)
        if node is None:
            return None
        inode = self.hot.get(node)
        if inode is None:
            base = self._listings.find(folder.content, name)
            assert base is not None
            if base[1].kind != objects.ENTRY_DIRECTORY:
                return Draft(base[1])
            return self._draft_directory(base[1], node, stored)
        if inode.kind == SOCKET:
            return None
        if inode.linked:
            return Draft(Entry(name=name, kind=objects.ENTRY_LINK, link=inode.number))
        entry = self._entry_of(inode, name)
        if inode.kind == objects.ENTRY_DIRECTORY:
            return self._draft_directory(entry, node, stored)
        return Draft(entry, job=files.get(node))

    def _draft_directory(self, entry: Entry, node: int, stored: Mapping[int, int]) -> Draft:
        folder = self.folder(node)
        entry = msgspec.structs.replace(entry, content_kind=objects.CONTENT_DIRECTORY, name=folder.name)
        if folder.number in stored:
            return Draft(entry, folder=folder.number)
        overlay = self._overlays.get(folder.number)
        content = overlay.stored if overlay is not None else folder.content
        # A directory that was made and never written into is stored by its own job, without changes.
        return Draft(msgspec.structs.replace(entry, content=content), folder=0 if content else folder.number)

    def _entry_of(self, inode: Inode, name: bytes) -> Entry:
        return inode.entry(
            name,
            owner=self._owners.user(inode.uid),
            group=self._owners.group(inode.gid),
            xattrs=b"\x01" + objects.encode_xattrs(list(inode.xattrs.items())) if inode.xattrs else b"",
        )

    def _draft_root(self) -> Entry:
        inode = self.hot.get(fuse.ROOT_NODE)
        return self._entry_of(inode, b"") if inode is not None else self._layer.picture.root

    def _freeze_links(self, files: dict[int, FileJob]) -> DirectoryJob | None:
        if not self._dirty_links:
            return None
        drafts: dict[bytes, Draft | None] = {}
        for node, inode in self._dirty_links.items():
            key = links_key(inode.number)
            if inode.linked and inode.link_count:
                drafts[key] = Draft(self._entry_of(inode, key), job=files.get(node))
            else:
                drafts[key] = None
        return DirectoryJob(0, self._links_stored, drafts, 0)

    def thaw(self, snapshot: Snapshot) -> None:
        """Let what a commit stored be the base of what comes."""
        with self.lock:
            self._committing = False
            for job in snapshot.files:
                inode = job.inode
                inode.base = msgspec.structs.replace(
                    inode.base, content_kind=job.content_kind, content=job.content, size=job.patches.size
                )
                inode.frozen = None
            for directory in snapshot.directories:
                overlay = self._overlays.get(directory.number)
                if overlay is not None:
                    overlay.stored = directory.result
            if snapshot.links is not None:
                self._links_stored = snapshot.links.result
            self._spool.free(snapshot.spool_end)
            self._drop_gone_folders()

    def restore(self, snapshot: Snapshot) -> None:
        """Take back what could not be stored, so that the next commit tries again."""
        with self.lock:
            self._committing = False
            for job in snapshot.files:
                inode = job.inode
                assert inode.frozen is not None
                inode.patches = inode.patches.over(inode.frozen) if inode.patches is not None else inode.frozen
                inode.frozen = None
                if inode.node in self.hot:
                    self.dirty_files[inode.node] = inode
            for directory in snapshot.directories:
                if directory.number not in self.removed_folders:
                    self.overlay(self._still.folder_by_number(directory.number)).dirty.update(directory.drafts)
            if snapshot.links is not None:
                self._dirty_links.update(snapshot.linked)
            self.dirty_since_ns = snapshot.began_ns
            self._drop_gone_folders()

    # Memory

    def evict(self, kept_max: int) -> None:
        """Drop what is new in this mount, stored, and forgotten by the kernel: it is found by its name again.

        A directory that was made in this mount becomes as those that were there before, once nothing of it is left.
        What was there before, and hard links, are put away however well the kernel knows them, but for the newest
        `kept_max`: of those only where their changes are stored is remembered, some 250 bytes each.
        """
        with self.lock:
            if self._committing:
                return
            for inode in list(self.hot.values()):
                if inode.lookup_count == 0 and self._is_settled(inode) and inode.kind != objects.ENTRY_DIRECTORY:
                    self._drop(inode)
            above = self._folders_above_overlays()
            # Those below others were made after them.
            for inode in reversed([each for each in self.hot.values() if each.kind == objects.ENTRY_DIRECTORY]):
                folder = self._still.known_folder(inode.node)
                if inode.node < NEW_NODE or folder is None or not inode.link_count:
                    continue
                self._settle_folder(folder)
                used = folder.number in self._overlays or folder.number in above
                if inode.lookup_count == 0 and self._is_settled(inode) and not used:
                    self._still.drop_folder(folder)
                    self._drop(inode)
            for inode in list(self.hot.values())[: max(0, len(self.hot) - kept_max)]:
                if inode.node < NEW_NODE or inode.linked:
                    self._put_away(inode)

    def _put_away(self, inode: Inode) -> None:
        """Remember of an inode only where its changes are stored, if they are."""
        is_plain = inode.link_count and inode.patches is None and inode.frozen is None
        if not is_plain or inode.kind in (SOCKET, objects.ENTRY_MOUNT) or inode.node == fuse.ROOT_NODE:
            return
        if inode.linked:
            if inode.node not in self._dirty_links:
                self._kept[inode.node] = inode.number, inode.link_count
                del self.hot[inode.node]
            return
        if inode.places is None or len(inode.places) != 1:
            return
        ((number, name),) = inode.places
        overlay = self._overlays.get(number)
        if overlay is not None and overlay.stored and name not in overlay.dirty:
            self._kept[inode.node] = number, name
            del self.hot[inode.node]

    def _folders_above_overlays(self) -> set[int]:
        above: set[int] = set()
        for number in self._overlays:
            if number in self.removed_folders:
                continue
            folder = self._still.folder_by_number(number).parent
            while folder is not None and folder.number not in above:
                above.add(folder.number)
                folder = folder.parent
        return above

    def evictable(self, kept_max: int) -> list[tuple[int, int, bytes]]:
        """Return (node, parent's node, name) of what could be dropped if the kernel forgot it, the newest first.

        The newest `kept_max` are left out. Those below others come before them. A directory has no name here: to tell
        older kernels to forget it would hide it from who is in it.
        """
        with self.lock:
            settled = [inode for inode in self.hot.values() if inode.lookup_count and self._is_settled(inode)]
            found = []
            for inode in reversed(settled[: max(0, len(settled) - kept_max)]):
                assert inode.places is not None
                ((number, name),) = inode.places
                is_directory = inode.kind == objects.ENTRY_DIRECTORY
                parent = self._still.folder_by_number(number).node
                found.append((inode.node, parent, b"" if is_directory else name))
            return found

    def _is_settled(self, inode: Inode) -> bool:
        """Tell whether everything that is known of an inode is in the newest commit, under its one name."""
        if (
            inode.node < NEW_NODE
            or inode.linked
            or not inode.link_count
            or inode.patches is not None
            or inode.frozen is not None
            or inode.kind in (SOCKET, objects.ENTRY_MOUNT)
            or not inode.places
        ):
            return False
        (number, name), *more = inode.places
        overlay = self._overlays.get(number)
        return not more and overlay is not None and name not in overlay.dirty and overlay.changes[name] == inode.node

    def _drop(self, inode: Inode) -> None:
        assert inode.places is not None
        ((number, name),) = inode.places
        self._overlays[number].changes[name] = STORED
        del self.hot[inode.node]

    def _settle_folder(self, folder: Folder) -> None:
        """Let a directory that was made in this mount be read from what is stored: no row of it was ever given out."""
        overlay = self._overlays.get(folder.number)
        if (
            overlay is not None
            and not folder.content
            and overlay.stored
            and not overlay.dirty
            and now_ns() - overlay.listed_ns > LIST_SECONDS_MAX * SECOND_NS
            and all(node == STORED for node in overlay.changes.values())
        ):
            folder.content = overlay.stored
            del self._overlays[folder.number]
