"""Objects and packs as an enemy makes them: well formed for a reader, but not what any writer of ours would write."""

from collections.abc import Sequence
from typing import Any

from dalsegno.chunks.signatures import Sign, leave_unsigned
from dalsegno.formats import objects, pack
from dalsegno.formats.objects import DirectoryLeaf, Entry, Revision
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.replicas.remote import RemoteSite
from kit import DictStore


class Forge:
    """Makes objects with the key that a token gets, and packs of those made since the last pack."""

    def __init__(self, site: RemoteSite) -> None:
        self.store = DictStore(site.key())

    def put(self, kind: int, value: Any) -> bytes:
        return bytes(self.store.put(kind, value if isinstance(value, bytes) else objects.encode(value)))

    def directory(self, *entries: Entry) -> bytes:
        return self.put(objects.KIND_DIRECTORY, DirectoryLeaf(list(entries)))

    def revision(
        self,
        volume: bytes,
        root: bytes | Entry,
        *,
        parents: Sequence[bytes] = (),
        created_ns: int = 1,
        sign: Sign = leave_unsigned,
    ) -> bytes:
        if isinstance(root, bytes):
            root = folder(b"", root)
        return self.put(
            objects.KIND_REVISION,
            sign(
                Revision(
                    volume=volume,
                    parents=list(parents),
                    root=root,
                    links=b"",
                    created_ns=created_ns,
                    author="enemy",
                    message="",
                    entry_count=1,
                    total_bytes=0,
                )
            ),
        )

    def pack(self, *, sealed: bool = False) -> tuple[bytes, bytes]:
        """Return the id and the bytes of a pack of all objects."""
        parts: list[bytes] = []
        # Who may not read has no key of unsealed tags, and can forge sealed packs only.
        sealed = sealed or self.store.realm.only_writes
        header = new_header(self.store.realm, kind=pack.PACK_POOL, sealed=sealed)
        with PackWriter(parts.append, realm=self.store.realm, header=header) as writer:
            for identity, (kind, payload) in self.store.objects.items():
                writer.put(kind, identity, payload)
            writer.finish()
        self.store.objects.clear()
        return bytes(header[0].pack_id), b"".join(map(bytes, parts))


def folder(name: bytes, content: bytes, **more: Any) -> Entry:
    given = {"mode": 0o755, "content_kind": objects.CONTENT_DIRECTORY, "content": content, **more}
    return Entry(name=name, kind=objects.ENTRY_DIRECTORY, **given)


def small_file(name: bytes, **more: Any) -> Entry:
    given = {"mode": 0o644, "size": 1, "content_kind": objects.CONTENT_INLINE, "content": b"x", **more}
    return Entry(name=name, kind=objects.ENTRY_FILE, **given)
