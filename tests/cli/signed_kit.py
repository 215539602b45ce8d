"""What tests of signed states share: a user whose first backup made a key for them."""

from pathlib import Path

from cli_kit import User


def make(tmp_path: Path) -> User:
    """Return a user with one volume, `docs`, of one file."""
    user = User(tmp_path / "anna")
    (user.home / "docs").mkdir()
    (user.home / "docs" / "letter").write_bytes(b"dear bob\n")
    user.quick("backup", "docs")
    return user


def key_of(user: User) -> Path:
    """Return the file of the key with which a user signs."""
    return user.home / ".config" / "dalsegno" / "signing.key"
