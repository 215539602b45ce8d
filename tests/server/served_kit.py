"""A user with a volume, and a server over his pool."""

import os
from dataclasses import dataclass
from pathlib import Path

from cli_kit import User
from server_kit import Server


def make_user(home: Path, *, encryption: str = "none") -> User:
    """Return a user with a pool and a volume `home`, cloned as `daily`."""
    user = User(home)
    user.quick("init", "--encryption", encryption)
    source = home / "source"
    (source / "doc").mkdir(parents=True)
    (source / "doc" / "plan").write_bytes(b"a plan\n" * 100)
    (source / "picture").write_bytes(os.urandom(700_000))
    user.quick("volume", "create", "home")
    user.quick("import", "home", str(source))
    user.quick("clone", "home", "daily")
    return user


@dataclass
class Served:
    """A server, and the token of its administrator."""

    server: Server
    token: str

    @property
    def user(self) -> User:
        return self.server.user
