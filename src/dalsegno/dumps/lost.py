"""Which files a salvaged dump has lost: known by name as far as the lists of names were saved."""

from collections.abc import Callable, Iterable, Iterator

from dalsegno.dumps.chain import DumpChain
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryList, Entry, Reference, Revision, entry_references, references
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.limit import entries_max
from dalsegno.trees.read import iterate_directory, read_revision, resolve_link

LIST_LOST = "its list of names is lost, in whole or in part"
CONTENT_LOST = "its content or its attributes are lost, in whole or in part"

Held = Callable[[bytes], bool]
"""Tells whether the damaged dump is to be blamed for an object: what an increment builds on lies elsewhere."""


def find_lost_files(saved: DumpChain, is_held: Held) -> Iterator[tuple[bytes, str]]:
    """Yield (path, what is lost) for the files of the newest state whose objects were held, and are not in `saved`."""
    try:
        revision = read_revision(saved, saved.target.revision)
    except (NotFound, Damaged):
        if is_held(saved.target.revision):
            yield b"", LIST_LOST
        return
    stack: list[tuple[bytes, bytes]] = [(b"", revision.root.content)]
    left = entries_max(revision)
    while stack and left >= 0:
        path, content = stack.pop()
        try:
            for entry in iterate_directory(saved, content):
                child = path + b"/" + entry.name if path else entry.name
                left -= 1
                if entry.kind == objects.ENTRY_DIRECTORY:
                    stack.append((child, entry.content))
                elif _has_lost(saved, revision, entry, is_held):
                    yield child, CONTENT_LOST
        except (NotFound, Damaged):
            if _lacks_names(saved, content, is_held):
                yield path, LIST_LOST


def _has_lost(saved: DumpChain, revision: Revision, entry: Entry, is_held: Held) -> bool:
    try:
        return _lacks(saved, entry_references(resolve_link(saved, revision.links, entry)), is_held)
    except (NotFound, Damaged):
        return _lacks_names(saved, revision.links, is_held)


def _is_saved(saved: DumpChain, identity: bytes) -> bool:
    return any(reader.find(identity) is not None for reader in saved.readers)


def _lacks(saved: DumpChain, tops: Iterable[Reference], is_held: Held) -> bool:
    """Tell whether any part of a content that was held was not saved."""
    stack = list(tops)
    met = set(stack)
    while stack:
        kind, identity = stack.pop()
        if not _is_saved(saved, identity):
            if is_held(identity):
                return True
        elif kind == objects.KIND_RECIPE:
            below = set(references(kind, saved.get(ObjectId(identity)))) - met
            met |= below
            stack += below
    return False


def _lacks_names(saved: DumpChain, directory: bytes, is_held: Held) -> bool:
    """Tell whether any part of a list of names that was held was not saved."""
    stack, met = [directory], {directory}
    while stack:
        identity = stack.pop()
        if not _is_saved(saved, identity):
            if is_held(identity):
                return True
            continue
        node = objects.decode_directory(saved.get(ObjectId(identity)))
        if isinstance(node, DirectoryList):
            below = {child.id for child in node.children} - met
            met |= below
            stack += below
    return False
