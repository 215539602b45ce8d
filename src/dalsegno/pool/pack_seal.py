"""What protects the blocks of a pack: each is sealed, or only tagged, and bound to its header, number and frame.

docs/formats/pack.md, "Blocks". Whoever has no key learns the sizes of sealed blocks in steps, and changes none unseen.
"""

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dalsegno.formats import pack
from dalsegno.formats.pack_block import associated_data, encode_frame, nonce
from dalsegno.terms.errors import Damaged


class BlockSeal:
    """Seals the blocks of one pack and opens them. From any thread."""

    __slots__ = ("_aead", "_block_key", "_header_digest")

    def __init__(self, *, key: bytes, block_key: bytes, header_digest: bytes) -> None:
        """With an empty `key`, blocks are not encrypted; their tags are keyed with the realm's `block_key`."""
        self._aead = AESGCM(key) if key else None
        self._block_key = block_key
        self._header_digest = header_digest

    @property
    def hides(self) -> bool:
        """Whether blocks are encrypted, and so are to be padded."""
        return self._aead is not None

    def seal(self, body: bytes, number: int) -> bytes:
        """Return a body as it is stored as block `number`: frame, body, tag."""
        frame = encode_frame(len(body))
        associated = associated_data(self._header_digest, frame, number)
        if self._aead is not None:
            return frame + self._aead.encrypt(nonce(number), body, associated)
        return b"".join((frame, body, self._tag(body, associated)))

    def open(self, frame: bytes, stored: bytes | memoryview, number: int, *, offset: int) -> bytes | memoryview:
        """Return the body of a stored block, given without its frame; Damaged, by `offset`, when its tag is wrong."""
        associated = associated_data(self._header_digest, frame, number)
        if self._aead is not None:
            try:
                return self._aead.decrypt(nonce(number), stored, associated)
            except InvalidTag:
                raise Damaged(f"block {number} damaged at offset {offset}") from None
        body = stored[: -pack.TAG_BYTES]
        if self._tag(body, associated) != stored[-pack.TAG_BYTES :]:
            raise Damaged(f"block {number} damaged at offset {offset}")
        return body

    def _tag(self, body: bytes | memoryview, associated: bytes) -> bytes:
        return blake3(associated, key=self._block_key).update(body).digest(pack.TAG_BYTES)
