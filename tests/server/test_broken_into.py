"""What somebody gets who is inside of a server, or has its disk: a server works on what is stored, so it can read it.

What he can do is asserted as well: docs/guides/threats.md says it, and goes wrong when it changes.
"""

import json
import shutil
from collections.abc import Callable
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


def put_back(user: User) -> Callable[[], None]:
    """Keep a pool's refs as they are, and return what puts them there again."""
    refs = user.home / "pool" / "refs"
    old = shutil.copytree(refs, user.home / "old")

    def back() -> None:
        shutil.rmtree(refs)
        shutil.copytree(old, refs)
        shutil.rmtree(user.home / ".local/state/dalsegno/known")

    return back


def test_a_server_that_shows_an_older_state_is_refused_until_it_is_trusted(tmp_path: Path) -> None:
    """Yesterday's state is taken for today's, of a server whose disk was put back."""
    user = make_user(tmp_path / "home")
    back = put_back(user)
    (user.home / "source" / "doc" / "plan").write_bytes(b"another plan\n")
    user.quick("import", "home", "source")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        port = server.port
        client.quick("realm", "join", format_join(server.join(server.token("read", "write"))))
        assert client.quick("cat", "home:/doc/plan").out == b"another plan\n"
    back()
    with start_server(user, listen=f"127.0.0.1:{port}"):
        error = client.quick("cat", "home:/doc/plan", code=4).error
        assert "is older than it was: s1 shows one of " in error and "`dal realm trust s1` accepts it" in error
        for words in (("ls", "home:/"), ("volume", "list"), ("dump", "home", "-o", "x.dump"), ("clone", "home")):
            client.quick(*words, code=4)
        taken = client.quick("--trust-pool", "cat", "home:/doc/plan")
        assert taken.out == b"a plan\n" * 100 and b"taken, as you say" in taken.err
        client.quick("cat", "home:/doc/plan", code=4)
        assert "say --yes" in client.quick("realm", "trust", code=4).error
        assert client.value("realm", "trust", "--yes")["accepted"]
        assert client.quick("cat", "home:/doc/plan").out == b"a plan\n" * 100
        assert client.value("realm", "trust")["accepted"] == []


def test_a_clone_that_a_server_shows_no_longer_is_missed(tmp_path: Path) -> None:
    """What is older without an older head is taken for new: a hold or a clone that is gone."""
    user = make_user(tmp_path / "home")
    back = put_back(user)
    user.quick("clone", "home", "kept")
    user.quick("hold", "home@kept")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        port = server.port
        client.quick("realm", "join", format_join(server.join(server.token("read"))))
        assert b"kept" in client.quick("clones", "home").out
    back()
    with start_server(user, listen=f"127.0.0.1:{port}"):
        for words in (("clones", "home"), ("volume", "list")):
            assert "clones, holds or settings are those of before" in client.quick(*words, code=4).error


def test_what_this_client_committed_is_missed_on_a_server_that_was_put_back(tmp_path: Path) -> None:
    """A client's own last commit is gone and it does not notice: it never asked for the state that it made."""
    user = make_user(tmp_path / "home")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        port = server.port
        client.quick("realm", "join", format_join(server.join(server.token("read", "write"))))
        back = put_back(user)
        (client.home / "source").mkdir()
        client.quick("import", "home", "source")
    back()
    with start_server(user, listen=f"127.0.0.1:{port}"):
        client.quick("ls", "home:/", code=4)


def test_another_volume_under_a_known_name_is_refused(tmp_path: Path) -> None:
    """A known volume's name leads to one that was never seen, of which nothing is known."""
    user = make_user(tmp_path / "home")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        port = server.port
        client.quick("realm", "join", format_join(server.join(server.token("read"))))
        client.quick("ls", "home:/")
    user.quick("volume", "remove", "home", "--yes")
    user.quick("volume", "create", "home")
    user.quick("import", "home", str(user.home / "source"))
    with start_server(user, listen=f"127.0.0.1:{port}"):
        assert "is another volume than it was" in client.quick("ls", "home:/", code=4).error
        client.quick("realm", "trust", "--yes")
        client.quick("ls", "home:/")


def test_a_server_of_another_realm_is_refused(tmp_path: Path) -> None:
    """Another realm answers at a known address, and what is sent next goes to it."""
    user = make_user(tmp_path / "home")
    other = make_user(tmp_path / "other")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        port = server.port
        client.quick("realm", "join", format_join(server.join(server.token("read"))))
        client.quick("ls", "home:/")
    with start_server(other, listen=f"127.0.0.1:{port}") as server:
        # As if it took every token: the client is given one of that server.
        profile = client.home / ".config/dalsegno/realms/s1.json"
        value = json.loads(profile.read_bytes())
        profile.write_text(json.dumps({**value, "token": server.token("read")}))
        assert "another" in client.quick("ls", "home:/", code=4).error
        join = format_join(server.join(server.token("read")))
        assert "another realm was joined" in client.quick("realm", "join", join, code=4).error
