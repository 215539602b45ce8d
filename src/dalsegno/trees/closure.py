"""What a revision is made of, and the transfer of just what another revision has not."""

from collections.abc import Callable, Iterable

from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, Entry, Reference, Revision, entry_references, references
from dalsegno.pool.contract import Source
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.diff import differing_nodes


def visit_reachable(source: Source, tops: Iterable[Reference], visit: Callable[[int, bytes], bool]) -> None:
    """Call `visit(kind, id)` for every object under `tops`; what it answers False to is not entered."""
    stack = [reference for reference in tops if visit(*reference)]
    stack.reverse()
    while stack:
        kind, identity = stack.pop()
        if kind == objects.KIND_CHUNK:
            continue
        below = [reference for reference in references(kind, source.get(ObjectId(identity))) if visit(*reference)]
        below.reverse()
        stack += [reference for reference in below if reference[0] != objects.KIND_CHUNK]


def new_objects(source: Source, target: bytes, base: bytes | None, *, visit: Callable[[int, bytes], bool]) -> None:
    """Call `visit` for the objects that revision `target` has and revision `base` has not.

    Directories are compared by path, so the work follows the change; what was renamed is found among the names that
    went away. `visit` answers False to an object that it has met before. An object that the base has at a place which
    did not change may be visited all the same: a superset is right, if not the smallest.
    """
    if base is None:
        visit_reachable(source, [(objects.KIND_REVISION, target)], visit)
        return
    if not visit(objects.KIND_REVISION, target):
        return
    new = objects.decode_revision(source.get(ObjectId(target)))
    old = objects.decode_revision(source.get(ObjectId(base)))
    appeared: list[Reference] = []
    vanished: list[Reference] = []
    _compare_directories(source, old.root.content, new.root.content, appeared, vanished, visit)
    if old.links or new.links:
        _compare_directories(source, old.links, new.links, appeared, vanished, visit)
    appeared += [reference for reference in entry_references(new.root) if reference[0] == objects.KIND_CHUNK]
    vanished += [reference for reference in entry_references(old.root) if reference[0] == objects.KIND_CHUNK]
    gone = set(vanished)
    appeared = [reference for reference in appeared if reference not in gone]
    if any(kind != objects.KIND_CHUNK for kind, _ in appeared):
        # Something moved and changed at once: see what its old place held.
        entered: set[Reference] = set()
        visit_reachable(source, vanished, lambda kind, identity: _add_new(entered, (kind, identity)))
        gone |= entered
    visit_reachable(source, appeared, lambda kind, identity: (kind, identity) not in gone and visit(kind, identity))


def _add_new(known: set[Reference], reference: Reference) -> bool:
    if reference in known:
        return False
    known.add(reference)
    return True


def _compare_directories(
    source: Source,
    old: bytes,
    new: bytes,
    appeared: list[Reference],
    vanished: list[Reference],
    visit: Callable[[int, bytes], bool],
) -> None:
    stack = [(old, new)]
    met: set[tuple[bytes, bytes]] = set()  # one directory may stand at very many places
    while stack:
        old_id, new_id = pair = stack.pop()
        if old_id == new_id or pair in met:
            continue
        met.add(pair)
        nodes, old_entries, new_entries = differing_nodes(source, old_id, new_id)
        for identity, _ in nodes:
            visit(objects.KIND_DIRECTORY, identity)
        for name, before in old_entries.items():
            after = new_entries.get(name)
            if after is None or after.kind != before.kind:
                vanished += entry_references(before)
        for name, after in new_entries.items():
            previous = old_entries.get(name)
            if previous is None or previous.kind != after.kind:
                appeared += entry_references(after)
            elif after.kind == ENTRY_DIRECTORY:
                stack.append((previous.content, after.content))
                appeared += [r for r in entry_references(after) if r[0] == objects.KIND_CHUNK]
                vanished += [r for r in entry_references(previous) if r[0] == objects.KIND_CHUNK]
            else:
                _compare_content(source, previous, after, appeared, vanished, visit)


def _compare_content(
    source: Source,
    old: Entry,
    new: Entry,
    appeared: list[Reference],
    vanished: list[Reference],
    visit: Callable[[int, bytes], bool],
) -> None:
    before, after = list(entry_references(old)), list(entry_references(new))
    if old.content_kind != objects.CONTENT_RECIPE or new.content_kind != objects.CONTENT_RECIPE:
        vanished += before
        appeared += after
        return
    known: set[bytes] = set()
    fronts = [[reference] for reference in (before[0], after[0])]
    # Two versions of one large file: nodes that both have are not entered.
    while fronts[1]:
        shared = {identity for _, identity in fronts[0]} & {identity for _, identity in fronts[1]}
        known |= shared
        old_below: list[Reference] = []
        for kind, identity in fronts[0]:
            if identity not in shared and kind == objects.KIND_RECIPE:
                old_below += references(kind, source.get(ObjectId(identity)))
        known |= {identity for kind, identity in old_below if kind == objects.KIND_CHUNK}
        new_below: list[Reference] = []
        for kind, identity in fronts[1]:
            if identity in known:
                continue
            if kind == objects.KIND_CHUNK:
                appeared.append((kind, identity))
            elif visit(kind, identity):
                new_below += references(kind, source.get(ObjectId(identity)))
        fronts = [[r for r in old_below if r[0] != objects.KIND_CHUNK], new_below]
    vanished += before[1:]
    appeared += after[1:]


def revision_of(source: Source, identity: bytes) -> Revision:
    """Return a revision by its id."""
    return objects.decode_revision(source.get(ObjectId(identity)))
