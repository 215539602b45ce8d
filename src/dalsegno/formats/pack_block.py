"""A block of a pack (docs/formats/pack.md, "Blocks"): frame, body, padding. The pool seals and opens it."""

from dataclasses import dataclass

import zstandard

from dalsegno.formats import pack
from dalsegno.terms.errors import Damaged


@dataclass(frozen=True, slots=True)
class Body:
    """What a stored block holds."""

    content: bytes | memoryview
    """One zstd frame."""
    raw_bytes: int
    block_type: int


def decode_frame(layout: pack.Layout, frame: bytes, *, offset: int) -> int:
    """Return the stored bytes that follow a frame; Damaged for a size that the format does not allow.

    `frame` must be complete. Nothing has checked it yet: what it says must not make a reader use more memory.
    """
    if layout.frame is pack.FRAME:
        (stored_bytes,) = pack.FRAME.unpack(frame)
        if (
            not pack.TAG_BYTES + pack.BODY.size
            < stored_bytes
            <= pack.TRAILER_RAW_BYTES_MAX + pack.STORED_OVERHEAD_BYTES_MAX
        ):
            raise Damaged(f"pack damaged at offset {offset}: impossible block frame")
        return int(stored_bytes)
    stored_bytes, raw_bytes, block_type = layout.frame.unpack(frame)
    _check_sizes(stored_bytes - pack.TAG_BYTES, raw_bytes, block_type, offset=offset)
    return int(stored_bytes)


def decode_body(layout: pack.Layout, frame: bytes, body: bytes | memoryview, *, offset: int) -> Body:
    """Return what a block holds, from its frame and its body, whose tag the caller has checked; Damaged by `offset`."""
    if layout.frame is not pack.FRAME:
        _, raw_bytes, block_type = layout.frame.unpack(frame)
        return Body(body, raw_bytes, block_type)
    block_type, raw_bytes, content_bytes = pack.BODY.unpack_from(body)
    if content_bytes + pack.BODY.size > len(body):
        raise Damaged(f"pack damaged at offset {offset}: a block is longer than its body")
    _check_sizes(content_bytes, raw_bytes, block_type, offset=offset)
    return Body(memoryview(body)[pack.BODY.size : pack.BODY.size + content_bytes], raw_bytes, block_type)


def _check_sizes(content_bytes: int, raw_bytes: int, block_type: int, *, offset: int) -> None:
    raw_max = pack.TRAILER_RAW_BYTES_MAX if block_type == pack.BLOCK_TRAILER else pack.BLOCK_RAW_BYTES_MAX
    known = pack.BLOCK_METADATA <= block_type <= pack.BLOCK_TRAILER
    if not known or raw_bytes > raw_max or not 0 < content_bytes <= raw_bytes + pack.STORED_OVERHEAD_BYTES_MAX:
        raise Damaged(f"pack damaged at offset {offset}: impossible block frame")


def encode_frame(body_bytes: int) -> bytes:
    """Return the frame before a body of so many bytes and its tag."""
    return pack.FRAME.pack(body_bytes + pack.TAG_BYTES)


def associated_data(header_digest: bytes, frame: bytes, number: int) -> bytes:
    """Return what a block's tag covers beside its body: the pack's header, the frame, the block's number."""
    return header_digest + frame + number.to_bytes(8, "little")


def nonce(number: int) -> bytes:
    """Return the nonce of AES-256-GCM for a block's number."""
    return number.to_bytes(12, "little")


def encode_body(content: bytes | memoryview, raw_bytes: int, block_type: int, *, padded: bool) -> bytes:
    """Return a block's body: what it is, its zstd frame, and zeros up to a size that many blocks have."""
    length = pack.BODY.size + len(content)
    padding = padded_bytes(length) - length if padded else 0
    return b"".join((pack.BODY.pack(block_type, raw_bytes, len(content)), content, bytes(padding)))


def padded_bytes(length: int) -> int:
    """Return what a sealed body of `length` bytes is padded to.

    Steps grow with the length as in Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
    Communication with PURBs", 2019, section 4), from 32 bytes up to 16 KiB: below 12 % for small blocks, 0.4 % for
    one of 4 MiB.
    """
    exponent = max(length, 2).bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    step = min(max(step, pack.PADDING_BYTES_MIN), pack.PADDING_BYTES_MAX)
    return (length + step - 1) // step * step


def decompress(body: Body, *, offset: int) -> bytes:
    """Return the raw block in a body; Damaged when its zstd frame does not hold exactly as much as it says."""
    try:
        if zstandard.frame_content_size(body.content) != body.raw_bytes:
            raise Damaged(f"block at offset {offset}: its sizes disagree")
        return zstandard.ZstdDecompressor().decompress(body.content, max_output_size=body.raw_bytes)
    except zstandard.ZstdError as error:
        raise Damaged(f"block at offset {offset}: {error}") from None
