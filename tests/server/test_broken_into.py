"""What somebody gets who is inside of a server, or has its disk: a server works on what is stored, so it can read it.

What he can do is asserted as well: docs/guides/threats.md says it, and goes wrong when it changes.
"""

import shutil
from pathlib import Path

from served_kit import make_user

from cli_kit import User
from dalsegno.formats.join import format_join
from dalsegno.pool.pool import Pool
from server_kit import start_server


def test_who_is_inside_of_a_running_server_has_the_realms_secret(tmp_path: Path) -> None:
    """The server opens packs to check them and to give them out: its memory and its user's files hold the key."""
    user = make_user(tmp_path / "home", encryption="keyfile")
    with start_server(user) as server:
        (key,) = (path for path in (user.home / ".config/dalsegno/keys").glob("*.key"))
        assert key.stat().st_uid == Path(f"/proc/{server.process.pid}").stat().st_uid
        with Pool.open(user.home / "pool", key_path=key) as pool:
            secret = pool.realm.secret
        assert server.site(server.token("read")).key().secret == secret
    thief = User(tmp_path / "thief")
    shutil.copytree(user.home / "pool", thief.home / "pool")
    shutil.copy(key, thief.home / "any.key")
    assert thief.quick("--key", "any.key", "cat", "home:/doc/plan").out == b"a plan\n" * 100


def test_a_server_that_shows_an_older_state_is_believed(tmp_path: Path) -> None:
    """A client remembers what it saw of a pool's place, and not yet what it saw of a server."""
    user = make_user(tmp_path / "home")
    old = shutil.copytree(user.home / "pool" / "refs", tmp_path / "old")
    (user.home / "source" / "doc" / "plan").write_bytes(b"another plan\n")
    user.quick("import", "home", "source")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        port = server.port
        client.quick("realm", "join", format_join(server.join(server.token("read"))))
        assert client.quick("cat", "home:/doc/plan").out == b"another plan\n"
    shutil.rmtree(user.home / "pool" / "refs")
    shutil.copytree(old, user.home / "pool" / "refs")
    shutil.rmtree(user.home / ".local/state/dalsegno/known")
    with start_server(user, listen=f"127.0.0.1:{port}"):
        assert client.quick("cat", "home:/doc/plan").out == b"a plan\n" * 100
