"""The end of a pack (docs/formats/pack.md, "Footer"): where readers of a file start.

Its digest covers every byte of the pack before it, the footer's own fields included, so it is written in two parts.
"""

from typing import NamedTuple

from dalsegno.formats import pack
from dalsegno.terms.errors import Damaged


class Footer(NamedTuple):
    """What a footer says."""

    trailer_offset: int
    trailer_bytes: int
    """With frame and tag."""
    block_count: int
    """Without the trailer."""
    object_count: int | None
    """In version 1; later ones have it in the trailer."""
    digest: bytes


def encode_fields(*, trailer_offset: int, trailer_bytes: int, block_count: int) -> bytes:
    """Return a footer's first 16 bytes, which the digest covers."""
    footer = pack.FOOTER.pack(trailer_offset, trailer_bytes, block_count, bytes(pack.DIGEST_BYTES), pack.MAGIC_END)
    return footer[: -pack.FOOTER_END_BYTES]


def encode_end(digest: bytes) -> bytes:
    """Return the other 40 bytes: the digest of all before it, and the magic."""
    assert len(digest) == pack.DIGEST_BYTES
    return digest + pack.MAGIC_END


def decode_footer(layout: pack.Layout, data: bytes) -> Footer | None:
    """Return the footer in the last bytes of a pack, None when they are none. Nothing in it is checked."""
    if len(data) != layout.footer.size or not data.endswith(pack.MAGIC_END):
        return None
    trailer_offset, trailer_bytes, block_count, *counts, digest, _ = layout.footer.unpack(data)
    return Footer(trailer_offset, trailer_bytes, block_count, counts[0] if counts else None, digest)


def check_footer(layout: pack.Layout, footer: Footer, *, header_end: int, file_bytes: int) -> None:
    """Check that a footer fits a file of this size before memory is asked for; Damaged names its offset."""
    wrong = f"pack footer damaged at offset {file_bytes - layout.footer.size}"
    trailer_end = footer.trailer_offset + footer.trailer_bytes
    if footer.trailer_offset < header_end or trailer_end + layout.footer.size != file_bytes:
        raise Damaged(wrong)
    if footer.block_count * (layout.frame.size + pack.TAG_BYTES) > file_bytes:
        raise Damaged(f"{wrong}: a table of {footer.trailer_bytes} bytes for {footer.block_count} blocks")
