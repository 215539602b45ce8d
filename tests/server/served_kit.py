"""A user with a volume, and a server over his pool."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli_kit import User
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.ids import ObjectId
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


def count_blocks(site: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that gets the id of each object that `site` is asked for from now on."""
    asked: list[bytes] = []
    block = site.block

    def count(volume: str, identity: ObjectId, *, bytes_max: int = 0) -> list[tuple[int, bytes, bytes]]:
        asked.append(identity)
        return block(volume, identity, bytes_max=bytes_max)

    monkeypatch.setattr(site, "block", count)
    return asked
