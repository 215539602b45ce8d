"""A key that everybody on the machine may read is named, and used all the same."""

from pathlib import Path

from cli_kit import User


def test_a_key_that_everybody_may_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    """The kind: a secret that is none any more is used without a word."""
    user = User(tmp_path)
    user.quick("init", "--encryption", "keyfile")
    (key,) = (tmp_path / ".config" / "dalsegno" / "keys").iterdir()
    assert user.quick("stats").err == b""
    key.chmod(0o604)
    done = user.quick("stats")
    assert f"{key}: everybody on this machine may read this key: chmod 600".encode() in done.err
    assert user.quick("-q", "stats").err == b""
    assert b'"notice"' in user.quick("--json", "stats").err
