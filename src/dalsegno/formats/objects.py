"""Objects: the immutable, content-named values that everything is made of (docs/formats/objects.md).

msgpack arrays through msgspec; one value has one encoding. Lists longer than one node are cut by content into
a tree of nodes: a *leaf* holds the items, a *list* holds (last key, id) of its children, `level` 1 above leaves.
"""

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId

# The kind of an object: the first byte under its id. Append-only.
KIND_CHUNK: Final = 1
KIND_RECIPE: Final = 2
KIND_DIRECTORY: Final = 3
KIND_REVISION: Final = 4
KIND_NAMES: Final = {KIND_CHUNK: "chunk", KIND_RECIPE: "recipe", KIND_DIRECTORY: "directory", KIND_REVISION: "revision"}

OBJECT_BYTES_MAX: Final = 16 * 1024 * 1024
NODE_LEVEL_MAX: Final = 16
INLINE_BYTES_MAX: Final = 128
XATTRS_INLINE_BYTES_MAX: Final = 1024

# The kind of a directory entry. Append-only.
ENTRY_FILE: Final = 1
ENTRY_DIRECTORY: Final = 2
ENTRY_SYMLINK: Final = 3
ENTRY_FIFO: Final = 4
ENTRY_CHAR_DEVICE: Final = 5
ENTRY_BLOCK_DEVICE: Final = 6
ENTRY_LINK: Final = 7
"""One of several names of a file that lives in the revision's links table under `link`."""
ENTRY_MOUNT: Final = 8
ENTRY_CONFLICT: Final = 9
ENTRY_NAMES: Final = {
    ENTRY_FILE: "file",
    ENTRY_DIRECTORY: "directory",
    ENTRY_SYMLINK: "symlink",
    ENTRY_FIFO: "fifo",
    ENTRY_CHAR_DEVICE: "char-device",
    ENTRY_BLOCK_DEVICE: "block-device",
    ENTRY_LINK: "link",
    ENTRY_MOUNT: "mount",
    ENTRY_CONFLICT: "conflict",
}

CONFLICT_XATTR: Final = b"user.dalsegno.conflict"
"""The mark of a directory that holds the sides of a conflict (ENTRY_CONFLICT itself is reserved and never written)."""

# What `Entry.content` holds.
CONTENT_NONE: Final = 0
CONTENT_INLINE: Final = 1
"""The bytes of a small file, a symlink's target, a mount point's address."""
CONTENT_CHUNK: Final = 2
CONTENT_RECIPE: Final = 3
CONTENT_DIRECTORY: Final = 4


_Unsigned63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Unsigned32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """One name in a directory, with everything that Linux keeps about it except what only one host knows."""

    name: bytes
    kind: _Unsigned32
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] = 0
    """Permission bits and set-id bits (07777), without the file type."""
    uid: _Unsigned32 = 0
    gid: _Unsigned32 = 0
    owner: bytes = b""
    group: bytes = b""
    mtime_ns: int = 0
    btime_ns: int = 0
    """Birth time; 0 when unknown. Kept and shown; Linux cannot set it."""
    size: _Unsigned63 = 0
    """Bytes of a file or of a symlink's target; 0 for the rest."""
    node: _Unsigned63 = 0
    """A 63-bit number that stays with the file through renames."""
    content_kind: _Unsigned32 = CONTENT_NONE
    content: bytes = b""
    device: _Unsigned = 0
    """`st_rdev` of a device."""
    flags: _Unsigned32 = 0
    """Inode flags as FS_IOC_GETFLAGS gives them, restricted to those that can be set."""
    link: _Unsigned63 = 0
    """For ENTRY_LINK: the key in the links table (the node number)."""
    xattrs: bytes = b""
    """Empty, or byte 1 + encoded Xattrs, or byte 2 + id of a chunk holding them."""


class DirectoryLeaf(msgspec.Struct, array_like=True, frozen=True, tag="d", forbid_unknown_fields=True):
    """Entries sorted by name bytes."""

    entries: list[Entry]


class DirectoryChild(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """One node below a DirectoryList: the last name in it, how many entries it holds in all, its id."""

    last_name: bytes
    entry_count: int
    id: bytes


class DirectoryList(msgspec.Struct, array_like=True, frozen=True, tag="D", forbid_unknown_fields=True):
    """Nodes of one directory too large for one leaf, in name order."""

    level: int
    children: list[DirectoryChild]


class RecipeLeaf(msgspec.Struct, array_like=True, frozen=True, tag="r", forbid_unknown_fields=True):
    """Chunks and holes of a file in order. `ends` are cumulative within this node; an empty id is a hole."""

    ends: list[int]
    ids: list[bytes]


class RecipeList(msgspec.Struct, array_like=True, frozen=True, tag="R", forbid_unknown_fields=True):
    """Recipe nodes in order; `ends` are cumulative within this node."""

    level: int
    ends: list[int]
    ids: list[bytes]


class Coverage(msgspec.Struct, array_like=True, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the backup that made a revision did not look at, so that a restore does not take it for gone."""

    patterns: list[bytes] = []
    """Lines like those of a .gitignore at the root, by which names were left out."""
    ignore_files: bool = False
    """Whether `.dalignore` files in the tree were obeyed."""
    cache_tags: bool = False
    """Whether of a directory with a valid CACHEDIR.TAG only the tag was kept."""
    larger_than: _Unsigned63 | None = None
    """Files of more bytes were left out."""
    nodump: bool = False
    """Whether what has the nodump flag was left out."""
    one_file_system: bool = False
    """Whether directories on another device than the root were left empty."""
    unreadable: list[bytes] = []
    """Paths from the root, sorted: what was there and could not be read, each with all beneath it."""
    not_entered: list[bytes] = []
    """Paths of directories, sorted, whose content was left out: another file system, a pseudo file system."""
    is_coarse: bool = False
    """Whether there were too many paths to list: then directories stand for what lies in them."""


class Revision(msgspec.Struct, array_like=True, frozen=True, kw_only=True, tag="v", forbid_unknown_fields=True):
    """One immutable state of a volume."""

    volume: bytes
    parents: list[bytes]
    root: Entry
    """The root directory itself: name empty, kind ENTRY_DIRECTORY, content = its directory."""
    links: bytes
    """Id of the links table, or empty. A directory whose names are node numbers as 16 hexadecimal digits."""
    created_ns: int
    author: str
    message: str
    entry_count: int
    total_bytes: int
    signature: bytes = b""
    coverage: Coverage | None = None
    """None: it holds everything there was, or is older than the field."""


class _RevisionUncovered(
    msgspec.Struct, array_like=True, frozen=True, kw_only=True, tag="v", forbid_unknown_fields=True
):
    """A Revision without its last field, which is not written when it is None."""

    volume: bytes
    parents: list[bytes]
    root: Entry
    links: bytes
    created_ns: int
    author: str
    message: str
    entry_count: int
    total_bytes: int
    signature: bytes


assert Revision.__struct_fields__ == (*_RevisionUncovered.__struct_fields__, "coverage")

Directory = DirectoryLeaf | DirectoryList
Recipe = RecipeLeaf | RecipeList

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""What msgspec raises on bytes that are not an encoding."""

_encoder = msgspec.msgpack.Encoder()
_directory_decoder = msgspec.msgpack.Decoder(Directory)
_recipe_decoder = msgspec.msgpack.Decoder(Recipe)
_revision_decoder = msgspec.msgpack.Decoder(Revision)
_xattrs_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


def encode(value: object) -> bytes:
    """Return the encoding of a value: each has one."""
    if type(value) is Revision and value.coverage is None:
        value = _RevisionUncovered(**{name: getattr(value, name) for name in _RevisionUncovered.__struct_fields__})
    return _encoder.encode(value)


def encode_xattrs(xattrs: list[tuple[bytes, bytes]]) -> bytes:
    """Return the canonical encoding of extended attributes, sorted by name."""
    return _encoder.encode(sorted(xattrs))


def decode_xattrs(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the extended attributes in `data`; Damaged."""
    try:
        return _xattrs_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"extended attributes: {error}") from None


def decode_directory(data: bytes) -> Directory:
    """Return a directory node; Damaged when its order, its names or its ids are wrong."""
    try:
        node: Directory = _directory_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"directory object: {error}") from None
    if type(node) is DirectoryLeaf:
        previous = b""
        for entry in node.entries:
            name = entry.name
            if name <= previous or b"/" in name or b"\0" in name or name == b"." or name == b"..":
                raise Damaged(f"directory object: bad or misplaced name {name!r}")
            if (entry.kind == ENTRY_DIRECTORY) != (entry.content_kind == CONTENT_DIRECTORY):
                # What it leads to would be read as one thing, and looked after as another.
                raise Damaged(f"directory object: {name!r} is a directory without one, or no directory with one")
            previous = name
    else:
        assert type(node) is DirectoryList
        if not 1 <= node.level <= NODE_LEVEL_MAX or not node.children:
            raise Damaged(f"directory object: bad list at level {node.level}")
        previous = b""
        for child in node.children:
            if child.last_name <= previous or len(child.id) != OBJECT_ID_BYTES or child.entry_count < 1:
                raise Damaged("directory object: bad list of nodes")
            previous = child.last_name
    return node


def decode_recipe(data: bytes) -> Recipe:
    """Return a recipe node; Damaged when its ends do not ascend, or an id has another size."""
    try:
        node: Recipe = _recipe_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"recipe object: {error}") from None
    if len(node.ends) != len(node.ids) or not node.ends:
        raise Damaged("recipe object: lengths and ids differ in number")
    hole_allowed = type(node) is RecipeLeaf
    if type(node) is RecipeList and not 1 <= node.level <= NODE_LEVEL_MAX:
        raise Damaged(f"recipe object: bad level {node.level}")
    previous = 0
    for end, identity in zip(node.ends, node.ids, strict=True):
        if end <= previous or (len(identity) != OBJECT_ID_BYTES and not (hole_allowed and not identity)):
            raise Damaged("recipe object: overlapping lengths or a bad id")
        previous = end
    return node


def decode_revision(data: bytes) -> Revision:
    """Return a revision; Damaged when an id has another size."""
    try:
        revision = _revision_decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"revision object: {error}") from None
    sizes_ok = (
        len(revision.volume) == 16
        and all(len(parent) == OBJECT_ID_BYTES for parent in revision.parents)
        and len(revision.links) in (0, OBJECT_ID_BYTES)
        and revision.root.kind == ENTRY_DIRECTORY
        and revision.root.content_kind == CONTENT_DIRECTORY
        and len(revision.root.content) == OBJECT_ID_BYTES
    )
    if not sizes_ok:
        raise Damaged("revision object: an id has the wrong size, or its root is no directory")
    return revision


def is_conflict(entry: Entry) -> bool:
    """Return whether an entry is a directory of the sides of a conflict."""
    return entry.kind == ENTRY_DIRECTORY and CONFLICT_XATTR in entry.xattrs


def kind_name(entry: Entry) -> str:
    """Return what an entry is, for people and programs."""
    return "conflict" if is_conflict(entry) else ENTRY_NAMES.get(entry.kind, str(entry.kind))


def xattrs_reference(entry: Entry) -> ObjectId | None:
    """Return the id of the chunk that holds this entry's extended attributes, if they are not inline."""
    return ObjectId(entry.xattrs[1:]) if entry.xattrs[:1] == b"\x02" else None


Reference = tuple[int, bytes]
"""Kind and id of an object."""

_CONTENT_KINDS: Final = {
    CONTENT_CHUNK: KIND_CHUNK,
    CONTENT_RECIPE: KIND_RECIPE,
    CONTENT_DIRECTORY: KIND_DIRECTORY,
}


def entry_references(entry: Entry) -> Iterator[Reference]:
    """Yield the objects that an entry names; TooNew for a kind of content that this program does not know."""
    kind = _CONTENT_KINDS.get(entry.content_kind)
    if kind is not None:
        yield kind, entry.content
    elif entry.content_kind > CONTENT_INLINE:
        # What cannot be seen cannot be looked after: neither sent, nor kept from a collection.
        raise TooNew(f"{entry.name!r}: content of kind {entry.content_kind}, which a newer program wrote: install it")
    if entry.xattrs[:1] == b"\x02":
        yield KIND_CHUNK, entry.xattrs[1:]


def references(kind: int, payload: bytes) -> Iterator[Reference]:
    """Yield the objects that an object names, in order: what must be there for it to be readable.

    A revision's parents are not among them.
    """
    if kind == KIND_DIRECTORY:
        directory = decode_directory(payload)
        if isinstance(directory, DirectoryLeaf):
            for entry in directory.entries:
                yield from entry_references(entry)
        else:
            for child in directory.children:
                yield KIND_DIRECTORY, child.id
    elif kind == KIND_RECIPE:
        recipe = decode_recipe(payload)
        below = KIND_CHUNK if isinstance(recipe, RecipeLeaf) else KIND_RECIPE
        for identity in recipe.ids:
            if identity:
                yield below, identity
    elif kind == KIND_REVISION:
        revision = decode_revision(payload)
        yield from entry_references(revision.root)
        if revision.links:
            yield KIND_DIRECTORY, revision.links
