"""Write the golden revision with a signature. Run once when signatures were made; its file is read forever."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dalsegno.chunks.signatures import SigningKey
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision, encode

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"the golden signer's private key."))
REVISION = Revision(
    volume=b"a golden volume.",
    parents=[bytes(range(32))],
    root=Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        mode=0o755,
        content_kind=objects.CONTENT_DIRECTORY,
        content=bytes(range(32, 64)),
    ),
    links=b"",
    created_ns=1_796_000_000_000_000_000,
    author="anna@laptop",
    message="backup /home/anna",
    entry_count=2,
    total_bytes=3,
)
"""Without the signature: what those before it look like."""


def main() -> None:
    """Write the revision."""
    (Path(__file__).parent / "revision-signed.object").write_bytes(encode(KEY.sign(REVISION)))


if __name__ == "__main__":
    main()
