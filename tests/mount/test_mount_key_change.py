"""A volume is mounted while the key of its pool is changed."""

import shutil

from mount_kit import mounted, needs_fuse

from cli_kit import User

pytestmark = needs_fuse


def test_a_mount_goes_on_when_the_key_is_changed_under_it(user: User) -> None:
    """Kind of fault: a process that opened the pool before commits what nobody can read after."""
    user.quick("init")
    user.quick("volume", "create", "notes")
    with mounted(user, "notes") as mount:
        (mount.path / "before").write_text("one")
        user.quick("key", "rotate")
        (mount.path / "after").write_text("two")
        mount.end()
    assert user.quick("cat", "notes:/before").out == b"one" and user.quick("cat", "notes:/after").out == b"two"
    user.quick("verify", "--pool")
    assert b"generation 2" in user.quick("key", "show").out
    with mounted(user, "notes") as mount:
        assert (mount.path / "after").read_text() == "two" and (mount.path / "before").read_text() == "one"


def test_a_mount_that_cannot_get_the_new_key_says_so_and_goes_on_once_it_can(user: User) -> None:
    user.quick("init")
    user.quick("volume", "create", "notes")
    user.quick("key", "export", "copy.key")
    (own,) = (user.home / ".config" / "dalsegno" / "keys").glob("*.key")
    aside = user.home / "aside.key"
    shutil.move(own, aside)
    with mounted(user, "notes", DAL_KEY="copy.key") as mount:
        user.quick("key", "rotate", DAL_KEY=str(aside))
        (mount.path / "after").write_text("two")
        assert "its key was changed" in user.quick("umount", str(mount.path), code=4).error
        assert (mount.path / "after").read_text() == "two"
        shutil.copy(aside, user.home / "copy.key")
        mount.end()
    assert user.quick("--key", "copy.key", "cat", "notes:/after").out == b"two"
