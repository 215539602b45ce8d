"""Three-way merges: cases in both directions, and random trees and edits against what must never be lost."""

import random
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, ENTRY_LINK, Entry, Revision, is_conflict
from dalsegno.terms.errors import Refused
from dalsegno.trees.build import store_directory
from dalsegno.trees.count import count_more
from dalsegno.trees.merge import Merged, merge_trees
from dalsegno.trees.read import iterate_directory, links_key
from dalsegno.trees.walk import walk
from kit import DictStore

NAMES = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
Model = dict  # name: bytes (a file), (node, bytes), {…} (a directory), or an Entry


def node_of(path: str) -> int:
    return int.from_bytes(path.encode()[-7:].rjust(7, b"\1"), "big")


def store(dag: DictStore, model: Model, path: str = "", *, node: int = 0) -> Entry:
    entries = []
    for name, value in sorted(model.items()):
        here = f"{path}/{name}" if path else name
        encoded = name.encode()
        if isinstance(value, Entry):
            entries.append(msgspec.structs.replace(value, name=encoded))
        elif isinstance(value, dict):
            value = dict(value)
            number = value.pop("#", node_of(here))
            entries.append(msgspec.structs.replace(store(dag, value, here, node=number), name=encoded))
        else:
            number, data = value if isinstance(value, tuple) else (node_of(here), value)
            entries.append(
                Entry(
                    name=encoded,
                    kind=ENTRY_FILE,
                    mode=0o644,
                    size=len(data),
                    node=number,
                    content_kind=objects.CONTENT_INLINE,
                    content=data,
                )
            )
    entries.sort(key=lambda entry: entry.name)
    return Entry(
        name=b"",
        kind=ENTRY_DIRECTORY,
        mode=0o755,
        node=node,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_directory(dag, entries),
    )


def revision(dag: DictStore, model: Model, links: bytes = b"") -> Revision:
    return Revision(
        volume=bytes(16),
        parents=[],
        root=store(dag, model),
        links=links,
        created_ns=1,
        author="",
        message="",
        entry_count=0,
        total_bytes=0,
    )


def load(dag: DictStore, content: bytes) -> Model:
    model: Model = {}
    for entry in iterate_directory(dag, content):
        name = entry.name.decode()
        if entry.kind == ENTRY_DIRECTORY and not is_conflict(entry):
            model[name] = load(dag, entry.content)
        elif is_conflict(entry):
            model[name] = {"?": {e.name.decode(): _value(dag, e) for e in iterate_directory(dag, entry.content)}}
        else:
            model[name] = _value(dag, entry)
    return model


def _value(dag: DictStore, entry: Entry) -> object:
    return load(dag, entry.content) if entry.kind == ENTRY_DIRECTORY else entry.content


def merge(base: Model | None, a: Model, b: Model) -> Model:
    """Merge both ways round, which must give one tree, and return it."""
    dag = DictStore()
    before = revision(dag, base) if base is not None else None
    one, other = revision(dag, a), revision(dag, b)
    merged = merge_trees(dag, dag, before, one, other, names=NAMES)
    again = merge_trees(dag, dag, before, other, one, names=(NAMES[1], NAMES[0]))
    assert merged == again, "the order of the sides shows"
    return load(dag, merged.root.content)


def both(a: object, b: object) -> Model:
    return {"?": {NAMES[0]: a, NAMES[1]: b}}


CASES = {
    "nothing": ({"x": b"1"}, {"x": b"1"}, {"x": b"1"}, {"x": b"1"}),
    "one changed": ({"x": b"1"}, {"x": b"2"}, {"x": b"1"}, {"x": b"2"}),
    "both alike": ({"x": b"1"}, {"x": b"2"}, {"x": b"2"}, {"x": b"2"}),
    "both changed": ({"x": b"1"}, {"x": b"2"}, {"x": b"3"}, {"x": both(b"2", b"3")}),
    "union": ({}, {"x": b"1"}, {"y": b"2"}, {"x": b"1", "y": b"2"}),
    "both added": ({}, {"x": b"1"}, {"x": b"2"}, {"x": both(b"1", b"2")}),
    "deleted": ({"x": b"1", "y": b"1"}, {"y": b"1"}, {"x": b"1", "y": b"1"}, {"y": b"1"}),
    "deleted and changed": ({"x": b"1"}, {}, {"x": b"2"}, {"x": b"2"}),
    "both deleted": ({"x": b"1"}, {}, {}, {}),
    "directory deleted, changed inside": (
        {"d": {"x": b"1", "y": b"1"}},
        {},
        {"d": {"x": b"2", "y": b"1"}},
        {"d": {"x": b"2"}},
    ),
    "directory deleted, nothing changed inside": ({"d": {"x": b"1"}}, {}, {"d": {"x": b"1"}, "z": b"1"}, {"z": b"1"}),
    "both made a directory": ({}, {"d": {"x": b"1"}}, {"d": {"y": b"2"}}, {"d": {"x": b"1", "y": b"2"}}),
    "file against directory": ({}, {"x": b"1"}, {"x": {"y": b"2"}}, {"x": both(b"1", {"y": b"2"})}),
    "deep": (
        {"d": {"e": {"x": b"1", "y": b"1"}}},
        {"d": {"e": {"x": b"2", "y": b"1"}}},
        {"d": {"e": {"x": b"1", "y": b"3"}}},
        {"d": {"e": {"x": b"2", "y": b"3"}}},
    ),
    "renamed and changed": ({"x": (7, b"1")}, {"y": (7, b"1")}, {"x": (7, b"2")}, {"y": b"2"}),
    "renamed into a new directory and changed": (
        {"x": (7, b"1")},
        {"new": {"y": (7, b"1"), "z": b"z"}},
        {"x": (7, b"2")},
        {"new": {"y": b"2", "z": b"z"}},
    ),
    "directory renamed, changed inside": (
        {"d": {"#": 5, "x": (7, b"1"), "y": (8, b"1")}},
        {"e": {"#": 5, "x": (7, b"1"), "y": (8, b"1")}},
        {"d": {"#": 5, "x": (7, b"2"), "y": (8, b"1"), "z": (9, b"z")}},
        {"e": {"x": b"2", "y": b"1", "z": b"z"}},
    ),
    "directory renamed, file in it renamed by the other": (
        {"d": {"#": 5, "x": (7, b"1")}},
        {"e": {"#": 5, "x": (7, b"1")}},
        {"d": {"#": 5, "y": (7, b"2")}},
        {"e": {"y": b"2"}},
    ),
    "renamed by both alike": ({"x": (7, b"1")}, {"y": (7, b"1")}, {"y": (7, b"2")}, {"y": b"2"}),
    "renamed by both": (
        {"x": (7, b"1")},
        {"y": (7, b"1")},
        {"z": (7, b"2")},
        {"y": {"?": {f"{NAMES[0]}.y": b"2", f"{NAMES[1]}.z": b"2"}}},
    ),
    "renamed by both, changed by none": (
        {"x": (7, b"1")},
        {"d": {"#": 4, "y": (7, b"1")}},
        {"z": (7, b"1")},
        {"d": {"y": {"?": {f"{NAMES[0]}.y": b"1", f"{NAMES[1]}.z": b"1"}}}},
    ),
    "renamed and changed by both": (
        {"x": (7, b"1")},
        {"y": (7, b"2")},
        {"z": (7, b"3")},
        {"y": both(b"2", b"3")},
    ),
    "directory renamed by both, changed inside": (
        {"d": {"#": 5, "x": (7, b"1")}},
        {"e": {"#": 5, "x": (7, b"2")}},
        {"f": {"#": 5, "x": (7, b"1"), "y": (8, b"y")}},
        {"e": {"?": {f"{NAMES[0]}.e": {"x": b"2", "y": b"y"}, f"{NAMES[1]}.f": {"x": b"2", "y": b"y"}}}},
    ),
    "saved by an editor and renamed": (
        {"x": (7, b"1")},
        {"x": (99, b"2")},
        {"y": (7, b"1")},
        {"y": b"2"},
    ),
    "renamed directory deleted": (
        {"d": {"#": 5, "x": (7, b"1"), "y": (8, b"1")}},
        {"e": {"#": 5, "x": (7, b"1"), "y": (8, b"1")}},
        {},
        {"e": {"x": b"1", "y": b"1"}},
    ),
    "moved out of a directory that was deleted": (
        {"d": {"#": 5, "e": {"#": 6, "x": (7, b"1"), "y": (8, b"1")}}},
        {"x": (7, b"1")},
        {"d": {"#": 5, "e": {"#": 6, "x": (7, b"2"), "y": (8, b"1")}}},
        {"x": b"2"},
    ),
    "moved by both into new directories of one name": (
        {"x": (7, b"1")},
        {"n": {"#": 50, "x": (7, b"2"), "a": b"a"}},
        {"n": {"#": 60, "x": (7, b"1"), "b": b"b"}},
        {"n": {"x": b"2", "a": b"a", "b": b"b"}},
    ),
    "directory replaced by a file, changed inside": (
        {"d": {"#": 5, "x": (7, b"1"), "y": (8, b"1")}},
        {"d": (9, b"file")},
        {"d": {"#": 5, "x": (7, b"2"), "y": (8, b"1")}},
        {"d": both(b"file", {"x": b"2", "y": b"1"})},
    ),
    "file moved over one that was changed": (
        {"x": (7, b"1"), "t": (8, b"t")},
        {"x": (8, b"t")},
        {"x": (7, b"2"), "t": (8, b"t")},
        {"x": both(b"t", b"2")},
    ),
    "three in a circle": (
        {"a": {"#": 1}, "b": {"#": 2}, "c": {"#": 3, "f": (9, b"f")}},
        {"b": {"#": 2, "a": {"#": 1}}, "c": {"#": 3, "f": (9, b"f")}},
        {"a": {"#": 1, "c": {"#": 3, "f": (9, b"f"), "b": {"#": 2}}}},
        {"a": {"c": {"b": {}, "f": b"f"}}},  # the first of them stays where it was
    ),
    "renamed over what the other added": (
        {"x": (7, b"1")},
        {"y": (7, b"1")},
        {"x": (7, b"1"), "y": (9, b"9")},
        {"y": both(b"1", b"9")},
    ),
    "renamed and deleted": ({"x": (7, b"1")}, {"y": (7, b"1")}, {}, {"y": b"1"}),
    "each into the other": (
        {"d": {"#": 5, "f": (1, b"f")}, "e": {"#": 6, "g": (2, b"g")}},
        {"e": {"#": 6, "g": (2, b"g"), "d": {"#": 5, "f": (1, b"f")}}},
        {"d": {"#": 5, "f": (1, b"f"), "e": {"#": 6, "g": (2, b"g")}}},
        {"d": {"f": b"f", "e": {"g": b"g"}}},  # the first of them stays where it was
    ),
    "names exchanged, contents changed": (
        {"x": (1, b"1"), "y": (2, b"2")},
        {"x": (2, b"2"), "y": (1, b"1")},
        {"x": (1, b"3"), "y": (2, b"2")},
        {"x": b"2", "y": b"3"},
    ),
    "no common past": (
        None,
        {"x": b"1", "y": b"1"},
        {"x": b"2", "z": b"1"},
        {"x": both(b"1", b"2"), "y": b"1", "z": b"1"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_case(case: str) -> None:
    base, a, b, expected = CASES[case]
    assert merge(base, a, b) == expected


def test_modes_and_contents_changed_apart_are_both_taken() -> None:
    dag = DictStore()
    base = revision(dag, {"x": b"1"})
    (entry,) = iterate_directory(dag, base.root.content)
    one = revision(dag, {"x": msgspec.structs.replace(entry, mode=0o600)})
    other = revision(dag, {"x": msgspec.structs.replace(entry, content=b"2", mtime_ns=9)})
    merged = merge_trees(dag, dag, base, one, other, names=NAMES)
    (found,) = iterate_directory(dag, merged.root.content)
    assert (found.mode, found.content, found.mtime_ns) == (0o600, b"2", 9)


def test_a_repaired_conflict_stays_repaired_and_a_new_side_is_added() -> None:
    dag = DictStore()
    conflict = merge_trees(
        dag, dag, revision(dag, {"x": b"1"}), revision(dag, {"x": b"2"}), revision(dag, {"x": b"3"}), names=NAMES
    )
    base = msgspec.structs.replace(revision(dag, {}), root=conflict.root)
    repaired = revision(dag, {"x": b"2"})
    untouched = merge_trees(dag, dag, base, repaired, base, names=NAMES)
    assert load(dag, untouched.root.content) == {"x": b"2"}
    other = revision(dag, {"x": b"4"})
    two_repairs = merge_trees(dag, dag, base, repaired, other, names=NAMES)
    assert set(load(dag, two_repairs.root.content)["x"]["?"].values()) == {b"2", b"4"}


def test_two_conflicts_keep_all_sides() -> None:
    dag = DictStore()
    base = revision(dag, {"x": b"1"})
    contents = [b"2", b"3", b"4"]
    sides = [revision(dag, {"x": content}) for content in contents]
    first = merge_trees(dag, dag, base, sides[0], sides[1], names=("a2", "b3"))
    second = merge_trees(dag, dag, base, sides[1], sides[2], names=("b3", "c4"))
    tops = [msgspec.structs.replace(base, root=each.root) for each in (first, second)]
    merged = merge_trees(dag, dag, base, tops[0], tops[1], names=("m1", "m2"))
    assert set(load(dag, merged.root.content)["x"]["?"].values()) == set(contents)


def linked(dag: DictStore, names: dict[str, int], files: dict[int, bytes]) -> Revision:
    model: Model = {name: Entry(name=b"", kind=ENTRY_LINK, link=link, node=link) for name, link in names.items()}
    table = [
        Entry(
            name=links_key(link),
            kind=ENTRY_FILE,
            size=len(data),
            node=link,
            content_kind=objects.CONTENT_INLINE,
            content=data,
        )
        for link, data in sorted(files.items())
    ]
    return revision(dag, model, store_directory(dag, table) if table else b"")


def linked_model(dag: DictStore, merged: object) -> dict[str, object]:
    files = {}
    if merged.links:  # type: ignore[attr-defined]
        files = {entry.name: entry.content for entry in iterate_directory(dag, merged.links)}  # type: ignore[attr-defined]
    found: dict[str, object] = {}
    for entry in iterate_directory(dag, merged.root.content):  # type: ignore[attr-defined]
        if entry.kind == ENTRY_LINK:
            found[entry.name.decode()] = files[links_key(entry.link)]
        elif is_conflict(entry):
            found[entry.name.decode()] = {side.content for side in iterate_directory(dag, entry.content)}
        else:
            found[entry.name.decode()] = entry.content
    return found


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (({"p": 1, "q": 1}, {1: b"2"}), ({"p": 1, "q": 1}, {1: b"1"}), {"p": b"2", "q": b"2"}),
        (({"p": 1, "q": 1}, {1: b"2"}), ({"p": 1, "q": 1}, {1: b"3"}), {"p": {b"2", b"3"}, "q": {b"2", b"3"}}),
        (({}, {}), ({"p": 1, "q": 1, "r": 1}, {1: b"1"}), {"r": b"1"}),
        (({}, {}), ({"p": 1, "q": 1}, {1: b"2"}), {"p": b"2", "q": b"2"}),
    ],
    ids=["changed by one", "changed by both", "all names removed, one added", "all names removed, content changed"],
)
def test_hard_links(a: tuple, b: tuple, expected: dict) -> None:
    dag = DictStore()
    base = linked(dag, {"p": 1, "q": 1}, {1: b"1"})
    one, other = linked(dag, *a), linked(dag, *b)
    merged = merge_trees(dag, dag, base, one, other, names=NAMES)
    again = merge_trees(dag, dag, base, other, one, names=(NAMES[1], NAMES[0]))
    assert merged == again
    assert linked_model(dag, merged) == expected


def test_a_linked_file_in_conflict_becomes_files_with_nodes_of_their_own() -> None:
    """Two files of one node are one to `mv`, `cp` and `diff`: nobody could settle the conflict, or even see it."""
    dag = DictStore()
    base, one, other = (linked(dag, {"p": 1, "q": 1, "r": 1}, {1: data}) for data in (b"0", b"a", b"b"))
    merged = merge_trees(dag, dag, base, one, other, names=NAMES)
    conflicts = list(iterate_directory(dag, merged.root.content))
    sides = [side.node for each in conflicts for side in iterate_directory(dag, each.content)]
    assert len({*sides, *(each.node for each in conflicts)}) == 3 * 2 + 3
    assert conflicts[0].node == 1


# Against a model


def files_of(model: Model, path: str = "") -> Iterator[tuple[str, tuple[int, bytes]]]:
    for name, value in model.items():
        here = f"{path}/{name}" if path else name
        if isinstance(value, dict):
            yield from files_of(value, here)
        elif name != "#":
            yield here, value


def random_tree(chance: random.Random) -> Model:
    def directory(depth: int) -> Model:
        model: Model = {"#": chance.getrandbits(40)} if depth else {}
        for name in "abcde"[: chance.randrange(1, 6)]:
            if depth < 3 and chance.random() < 0.4:
                model[name] = directory(depth + 1)
            else:
                model[name] = (chance.getrandbits(40), b"base-%d" % chance.getrandbits(30))
        return model

    return directory(0)


def copy_model(model: Model) -> Model:
    return {name: copy_model(value) if isinstance(value, dict) else value for name, value in model.items()}


def edited(model: Model, chance: random.Random, mark: bytes) -> Model:
    """Return the tree after some random edits: new files, changed ones, removed ones, renames of files and directories."""
    root = copy_model(model)
    for number in range(chance.randrange(1, 6)):
        places = [("", root)]
        for path, directory in places:
            places += [(f"{path}/{name}", value) for name, value in directory.items() if isinstance(value, dict)]
        path, directory = chance.choice(places)
        names = sorted(name for name in directory if name != "#")
        action = chance.choice(("add", "change", "remove", "rename", "mkdir"))
        if action == "add":
            directory[chance.choice("abcxyz")] = (chance.getrandbits(40), b"%s-%d" % (mark, number))
        elif action == "mkdir":
            directory.setdefault(chance.choice("mnab"), {"#": chance.getrandbits(40)})
        elif names:
            name = chance.choice(names)
            value = directory[name]
            if action == "change" and not isinstance(value, dict):
                directory[name] = (value[0], b"%s-%d" % (mark, number))
            elif action == "remove":
                del directory[name]
            elif action == "rename":
                target_path, target = chance.choice(places)
                inside = isinstance(value, dict) and (target is value or target_path.startswith(f"{path}/{name}"))
                if not inside:
                    del directory[name]
                    target[chance.choice("pqrab")] = value
    return root


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_that_one_side_made_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    base = random_tree(chance)
    a, b = edited(base, chance, b"a"), edited(base, chance, b"b")
    dag = DictStore()
    before, one, other = (revision(dag, model) for model in (base, a, b))
    merged = merge_trees(dag, dag, before, one, other, names=NAMES)
    assert merged == merge_trees(dag, dag, before, other, one, names=(NAMES[1], NAMES[0]))
    check_counts(dag, merged, before, one, other)
    top = msgspec.structs.replace(before, root=merged.root, links=merged.links)
    there: set[bytes] = set()
    for _, entry in walk(dag, top):
        if is_conflict(entry):
            inner = msgspec.structs.replace(top, root=msgspec.structs.replace(entry, name=b"", kind=ENTRY_DIRECTORY))
            there |= {each.content for _, each in walk(dag, inner)}
        there.add(entry.content)
    base_files = dict(value for _, value in files_of(base))
    for mine, theirs in ((a, b), (b, a)):
        their_nodes = {node for _, (node, _) in files_of(theirs)}
        for path, (node, content) in files_of(mine):
            if base_files.get(node) != content:
                assert content in there, f"seed {seed}: {path} with {content!r} is lost"
            elif node in their_nodes and dict(value for _, value in files_of(theirs))[node] == content:
                assert content in there, f"seed {seed}: {path}, which both have, is lost"
    twice = [number for number, count in nodes_outside_conflicts(dag, merged.root.content).items() if count > 1]
    assert not twice, f"seed {seed}: nodes {twice} are there twice"
    # Merging what is merged already, what one side did not change, and merging equal trees, changes nothing.
    assert merge_trees(dag, dag, before, one, before, names=NAMES).root.content == one.root.content
    assert merge_trees(dag, dag, before, one, one, names=NAMES).root.content == one.root.content
    assert merge_trees(dag, dag, one, top, one, names=NAMES).root == top.root
    assert merge_trees(dag, dag, other, top, other, names=NAMES).root == top.root
    # The directories are those that building them anew would give.
    rebuilt = rebuild(dag, merged.root.content)
    assert rebuilt == merged.root.content


def nodes_outside_conflicts(dag: DictStore, content: bytes) -> Counter[int]:
    found: Counter[int] = Counter()
    for entry in iterate_directory(dag, content):
        found[entry.node] += 1
        if entry.kind == ENTRY_DIRECTORY and not is_conflict(entry):
            found += nodes_outside_conflicts(dag, entry.content)
    return found


def holds(dag: DictStore, root: Entry, links: bytes) -> tuple[int, int]:
    """Return how many entries and bytes of files a tree has, by a walk."""
    count = size = 0
    waiting = [root.content]
    while waiting:
        for entry in iterate_directory(dag, waiting.pop()):
            count += 1
            size += entry.size if entry.kind == ENTRY_FILE else 0
            waiting += [entry.content] if entry.kind == ENTRY_DIRECTORY else []
    if links:
        size += sum(entry.size for entry in iterate_directory(dag, links))
    return count, size


def check_counts(dag: DictStore, merged: Merged, *from_: Revision) -> None:
    entries, size = holds(dag, merged.root, merged.links)
    for old in from_:
        more = count_more(dag, old, root=merged.root, links=merged.links)
        had = holds(dag, old.root, old.links)
        assert (had[0] + more[0], had[1] + more[1]) == (entries, size)


def rebuild(dag: DictStore, content: bytes) -> bytes:
    entries = []
    for entry in iterate_directory(dag, content):
        if entry.kind == ENTRY_DIRECTORY:
            entry = msgspec.structs.replace(entry, content=rebuild(dag, entry.content))
        entries.append(entry)
    return store_directory(dag, entries)


# Hard links against a model: names of numbered files

PLACES = [directory + name for directory in ("", "d/", "e/") for name in "pqrs"]


def linked_tree(dag: DictStore, names: dict[str, int], data: dict[int, bytes]) -> Revision:
    count = Counter(names.values())
    model: Model = {}
    for path, number in names.items():
        directory, _, name = path.rpartition("/")
        target = model.setdefault(directory, {"#": ord(directory)}) if directory else model
        target[name] = Entry(name=b"", kind=ENTRY_LINK, link=number) if count[number] > 1 else (number, data[number])
    table = [
        Entry(
            name=links_key(number),
            kind=ENTRY_FILE,
            mode=0o644,
            size=len(data[number]),
            node=number,
            content_kind=objects.CONTENT_INLINE,
            content=data[number],
        )
        for number in sorted(count)
        if count[number] > 1
    ]
    return revision(dag, model, store_directory(dag, table) if table else b"")


def relinked(
    names: dict[str, int], data: dict[int, bytes], chance: random.Random, mark: bytes
) -> tuple[dict[str, int], dict[int, bytes]]:
    names, data = dict(names), dict(data)
    for step in range(chance.randrange(1, 5)):
        action = chance.choice("llrruucn")
        taken, free = sorted(names), [path for path in PLACES if path not in names]
        if action == "n" and free:
            number = chance.getrandbits(40)
            names[chance.choice(free)], data[number] = number, b"%s new %d" % (mark, step)
        elif taken and action == "l" and free:
            names[chance.choice(free)] = names[chance.choice(taken)]
        elif taken and action == "r" and free:
            names[chance.choice(free)] = names.pop(chance.choice(taken))
        elif taken and action == "u":
            del names[chance.choice(taken)]
        elif taken and action == "c":
            data[names[chance.choice(taken)]] = b"%s %d" % (mark, step)
    return names, data


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_every_link_leads_to_a_file_and_every_linked_file_has_a_name(seed: int) -> None:
    chance = random.Random(seed)
    data = {100 + number: b"base %d" % number for number in range(chance.randrange(1, 4))}
    names = {path: number for number in data for path in chance.sample(PLACES, chance.randrange(1, 4))}
    ours, theirs = relinked(names, data, chance, b"a"), relinked(names, data, chance, b"b")
    dag = DictStore()
    before, one, other = (linked_tree(dag, *each) for each in ((names, data), ours, theirs))
    merged = merge_trees(dag, dag, before, one, other, names=NAMES)
    assert merged == merge_trees(dag, dag, before, other, one, names=(NAMES[1], NAMES[0]))
    check_counts(dag, merged, before, one, other)
    table = {}
    if merged.links:
        table = {int(entry.name, 16): entry.content for entry in iterate_directory(dag, merged.links)}
    found = [entry for _, entry in walk(dag, msgspec.structs.replace(before, root=merged.root, links=merged.links))]
    assert {entry.link for entry in found if entry.kind == ENTRY_LINK} == table.keys(), f"seed {seed}"
    there = {table.get(entry.link, entry.content) for entry in found}
    old = {number: data[number] for number in names.values()}
    now = [{number: each[1][number] for number in each[0].values()} for each in (ours, theirs)]
    for mine, others in (now, now[::-1]):
        for number, content in mine.items():
            if old.get(number) != content or others.get(number) == content:
                assert content in there, f"seed {seed}: {content!r} is lost"


@pytest.mark.parametrize("has_base", [True, False])
def test_directories_that_hold_one_another_without_end_are_refused(has_base: bool) -> None:
    dag = DictStore()

    def deep(data: bytes) -> Revision:
        """Return a revision that has one directory at 2 to the 30th places."""
        top = store(dag, {"f": data})
        for _ in range(30):
            twice = [msgspec.structs.replace(top, name=name, node=node) for node, name in enumerate((b"a", b"b"), 1)]
            top = msgspec.structs.replace(top, content=store_directory(dag, twice))
        return msgspec.structs.replace(revision(dag, {}), root=top)

    base = deep(b"0") if has_base else None
    with pytest.raises(Refused, match="stands at more than"):
        merge_trees(dag, dag, base, deep(b"1"), deep(b"2"), names=NAMES)


def test_many_directories_that_came_to_be_empty_are_merged() -> None:
    dag = DictStore()
    full: Model = {f"d{number}": {"f": b"%d" % number} for number in range(10_500)}
    empty: Model = {name: {} for name in full}
    merged = merge_trees(dag, dag, revision(dag, full), revision(dag, empty), revision(dag, {}), names=NAMES)
    assert load(dag, merged.root.content) == {} and not merged.conflicts
