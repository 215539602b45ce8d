"""Every command against a server that lies: one line of error or a result, and nothing written but where it was asked for.

COMMANDS has a row for each command of the program; one without fails the first test here.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli_kit import Done, User
from dalsegno.cli import main
from dalsegno.replicas import wire
from dalsegno.replicas.calls import CALLS
from dalsegno.volumes.state import VolumeState
from lying_kit import ESC, OCTETS_TYPE, Asked, Liar, Said, says
from realm_kit import Person
from server_kit import Server, start_server

HERE_ALONE = {
    "init": [("init", "new")],
    "umount": [("umount", "nowhere")],
    "mkmount": [("mkmount", "x", "home")],
    "rmmount": [("rmmount", "x")],
    "merge": [("merge", "-o", "new.dump", "old.dump", "older.dump")],
    "inspect": [("inspect", "old.dump")],
    "media": [("media", "list", "--policy", "policy.toml")],
    "amanda": [("amanda", "disklist", "--amanda-config", "x")],
    "pool": [("pool", "trust")],
    "gc": [("gc",)],
    "serve": [("serve", "--no-tls", "--listen", "127.0.0.1:0")],
    "token": [("token", "list")],
    "key": [("key", "list")],
    "completion": [("completion", "bash")],
}
"""Commands that ask no server."""
ASKING = {
    "backup": [
        ("backup", "--set", "all", "--policy", "policy.toml"),
        ("backup", "//s1/home"),
        ("backup", "--list", "//s1/home"),
    ],
    "volume": [
        ("volume", "list"),
        ("volume", "show", "//s1/home"),
        ("volume", "create", "//s1/new"),
        ("volume", "remove", "//s1/home", "--yes"),
        ("volume", "reopen", "//s1/home"),
    ],
    "import": [("import", "//s1/home", "source")],
    "clone": [("clone", "//s1/home", "new")],
    "clones": [("clones", "//s1/home"), ("clones",)],
    "unclone": [("unclone", "//s1/home@daily")],
    "log": [("log", "//s1/home")],
    "hold": [("hold", "//s1/home@daily")],
    "unhold": [("unhold", "//s1/home@daily")],
    "ls": [("ls", "-l", "//s1/home@daily:/"), ("ls",)],
    "cat": [("cat", "//s1/home@daily:/doc/plan")],
    "find": [("find", "plan", "//s1/home"), ("find", "plan")],
    "diff": [("diff", "//s1/home@daily", "//s1/home@latest")],
    "versions": [("versions", "//s1/home:/doc/plan")],
    "repair": [("repair", "//s1/home")],
    "restore": [("restore", "//s1/home@daily", "--to", "out/back")],
    "mount": [("mount", "//s1/home@daily", "out/mnt")],
    "dump": [("dump", "//s1/home"), ("dump", "//s1/home@daily", "-o", "out/x.dump"), ("dump", "//s1/home", "-o", "-")],
    "mark": [("mark", "--forget", "x.dump")],
    "estimate": [("estimate", "//s1/home")],
    "verify": [("verify", "//s1/home")],
    "plan": [("plan", "--policy", "policy.toml")],
    "prune": [("prune", "//s1/home", "--keep-last", "1", "--yes")],
    "history": [("history", "home", "--policy", "policy.toml")],
    "archive": [("archive", "run", "--policy", "policy.toml")],
    "retrieve": [("retrieve", "home", "-o", "out", "--policy", "policy.toml")],
    "catalog": [("catalog", "check", "--policy", "policy.toml")],
    "stats": [("stats", "//s1/home"), ("stats",)],
    "drill": [("drill", "--set", "homes", "--policy", "policy.toml")],
    "status": [("status", "--policy", "policy.toml"), ("status",)],
    "doctor": [("doctor",)],
    "realm": [("realm", "status"), ("realm", "remove-server", "s2"), ("realm", "join", "{join}", "--name", "again")],
    "replica": [
        ("replica", "list", "//s1/home"),
        ("replica", "add", "//s1/home", "s2"),
        ("replica", "remove", "//s1/home", "s2"),
        ("replica", "check", "//s1/home"),
        ("replica", "repair", "//s1/home"),
        ("replica", "resolve", "//s1/home"),
    ],
    "release": [("release", "//s1/home@daily"), ("release", "--status", "//s1/home")],
    "follow": [("follow", "//s1/home", "--once"), ("follow", "//s1/home", "--status")],
    "promote": [("promote", "//s1/home", "--server", "s1")],
    "move": [("move", "//s1/home", "s1", "s2")],
}
CODES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
"""An exit code of the program's own; what only a fault in it gives is not among them."""
POLICY = """timezone = "UTC"
state = "{home}/state"
[sets.homes]
volumes = ["//s1/*"]
keep.clones = {{ last = 3 }}
"""


def test_every_command_is_tried() -> None:
    """A command that nobody lied to."""
    assert set(HERE_ALONE) | set(ASKING) == set(main.COMMANDS)
    assert not set(HERE_ALONE) & set(ASKING)


@dataclass
class World:
    """A client of a server that lies, and all around him."""

    root: Path
    server: Server
    liar: Liar
    me: Person
    join: str

    def around(self) -> dict[str, tuple[int, int]]:
        """Return what is where the client was not asked to write: mode and size of everything."""
        own = [
            self.me.home / name
            for name in (".cache", ".config", ".local", ".out", ".err", "out", "state", "new", "pool")
        ]
        found = {}
        for directory, names, files in os.walk(self.root / "x"):
            names[:] = [name for name in names if Path(directory, name) not in own]
            for name in (*names, *files):
                path = Path(directory, name)
                asked_for = path.parent == self.me.home and path.match("home.*.dump")
                if path not in own and not asked_for:
                    found[str(path)] = (path.lstat().st_mode, path.lstat().st_size if name in files else 0)
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("lying")
    user = User(root / "server")
    (user.home / "source" / "doc").mkdir(parents=True)
    (user.home / "source" / "doc" / "plan").write_bytes(b"a plan\n" * 100)
    (user.home / "source" / "picture").write_bytes(os.urandom(200_000))
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "home")
    user.quick("import", "home", "source")
    user.quick("clone", "home", "daily")
    with start_server(user) as server, Liar(upstream=server) as liar:
        token = server.token("administer")
        me = Person(root / "x" / "y" / "me", environment={"DAL_POOL": ""})
        for name in ("out", "source"):
            (me.home / name).mkdir()
        (me.home / "source" / "secret").write_text("TOP-SECRET")
        (me.home / "policy.toml").write_text(POLICY.format(home=me.home))
        join = f"dal://127.0.0.1:{liar.port}/?name=s1&token={token}&tls=no"
        me.quick("realm", "join", join)
        yield World(root, server, liar, me, join)


# Lies

BYTES = {call.name for call in CALLS if call.answer is bytes}
READS = {
    *("server", "key", "realm", "states", "state", "watch", "tokens"),
    *("block", "missing", "objects", "have", "dump", "upload_size", "dump_size"),
}
"""Calls that change nothing: the real server may be asked."""


def plausible(asked: Asked) -> Said:
    """Return what the real server says, to a call that changes something what looks like success."""
    if asked.call in READS:
        # Whatever the client was made to call the volume: this is what is said of it.
        return asked.ask(asked.method, re.sub("^/v1/volumes/[^/]+/", "/v1/volumes/home/", asked.path), asked.body)
    answer = next(call.answer for call in CALLS if call.name == asked.call) if asked.call else wire.Done
    if answer is VolumeState:
        return asked.ask("GET", "/v1/volumes/home/state")
    return says({"size": 1} if answer is wire.Size else {})


def changed(change: Callable[[Any], Any]) -> Callable[[Asked], Said]:
    """Return a lie that changes every message."""

    def lie(asked: Asked) -> Said:
        said = plausible(asked)
        if asked.call in BYTES or said.status != 200 or not isinstance(said.body, bytes):
            return said
        return says(change(json.loads(said.body)))

    return lie


def in_states(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a message with every volume's state in it changed."""
    if isinstance(value, dict) and "clones" in value and "created_ns" in value:
        return change(value)
    if isinstance(value, dict):
        return {key: in_states(item, change) for key, item in value.items()}
    return [in_states(item, change) for item in value] if isinstance(value, list) else value


def bad_name(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "name": "../../../victim"}


def bad_clones(state: dict[str, Any]) -> dict[str, Any]:
    one = next(iter(state["clones"].values()), {"revision": "00" * 32, "created_ns": 1})
    return {**state, "clones": {**state["clones"], "../../victim": one, f"c{ESC}": one}}


def bad_source(state: dict[str, Any]) -> dict[str, Any]:
    """Make the client believe that the volume follows a directory of his."""
    return {**state, "kind": "tracked", "source": str(_secret[0]).encode().hex(), "settings": {"exclude": ["*"]}}


_secret: list[Path] = []


def other_volume(asked: Asked) -> Said:
    """Answer about another volume, under the right name; bytes are another volume's, too, or nobody's."""
    said = plausible(asked)
    if asked.call in BYTES:
        return Said(body=b"\xff" * 100_000, media=OCTETS_TYPE)
    if said.status != 200 or not isinstance(said.body, bytes):
        return said
    swapped = {"id": "ab" * 16, "head": "cd" * 32, "released": None}
    return says(in_states(json.loads(said.body), lambda state: {**state, **swapped}))


def half_of_bytes(asked: Asked) -> Said:
    said = plausible(asked)
    if asked.call not in BYTES or not isinstance(said.body, bytes):
        return said
    spoiled = bytearray(said.body[: 1 + len(said.body) // 2])
    spoiled[len(spoiled) // 2] ^= 0x40
    return Said(body=bytes(spoiled), media=OCTETS_TYPE)


REFUSALS = (
    Said(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    says({"error": {"code": "refused", "message": f"no {ESC}\r\nvictim"}}, status=422),
    says({"error": {"code": "unacknowledged", "message": ESC}}, status=503),
    says({"error": {"code": "moved", "message": "m"}, "moved_to": {"name": "../../victim", "url": ESC}}, status=421),
    Said(body=b"<html>", media="text/html"),
    Said(raw=b"\x15\x03\x01\x00"),
)

LIES: dict[str, Callable[[Asked], Said]] = {
    "names": changed(lambda value: in_states(value, bad_name)),
    "clones": changed(lambda value: in_states(value, bad_clones)),
    "sources": changed(lambda value: in_states(value, bad_source)),
    "ids": changed(lambda value: json.loads(re.sub(r'"[0-9a-f]{32,64}"', '"00"', json.dumps(value)))),
    "another volume": other_volume,
    "half": half_of_bytes,
    "refusals": lambda asked: REFUSALS[len(asked.path) % len(REFUSALS)],
}


def check(world: World, done: Done, before: dict[str, tuple[int, int]], how: str) -> None:
    """Look that a command ended as it may, and wrote nowhere else."""
    assert done.code in CODES, (how, done)
    for data in (b"" if done.words[-1] == "-" else done.out, done.err):
        assert b"Traceback" not in data and b"internal error" not in data, (how, done)
        assert b"\x1b" not in data and b"\r" not in data, (how, done)
    errors = [line for line in done.err.split(b"\n") if line.startswith(b"dal: error: ")]
    assert len(errors) <= 1 or done.words[0] in ("doctor", "backup", "drill"), (how, done)
    assert world.around() == before, (how, done.words)
    assert not any(world.root.rglob("*victim*")), (how, done.words)


@pytest.mark.parametrize("name", sorted(ASKING))
def test_a_command_that_is_lied_to_harms_nobody(world: World, name: str) -> None:
    """What a server says that becomes a path, a line on a terminal, or the end of the program."""
    _secret[:] = [world.me.home / "source"]
    before = world.around()
    for how, lie in LIES.items():
        world.liar.lie = lie
        world.liar.asked.clear()
        for words in ASKING[name]:
            shutil.rmtree(world.me.home / ".local", ignore_errors=True)  # who remembers lies refuses what comes after
            done = world.me.quick_any(*(word.format(join=world.join) for word in words))
            if os.path.ismount(world.me.home / "out" / "mnt"):
                world.me.quick("umount", "out/mnt")
            check(world, done, before, f"{how}: {' '.join(words)}")
            made = [*(world.me.home / "out").iterdir(), *world.me.home.glob("*.dump")]
            assert {path.name for path in made} <= {"back", "mnt", "x.dump", "home.daily.0.dump"}, (how, words)
            assert how not in ("half", "another volume") or not any(path.suffix == ".dump" for path in made), how
            for path in made:
                if path.is_file():
                    path.unlink()
        sent = sum(len(asked.body) for asked in world.liar.asked if asked.call in ("commit", "upload"))
        assert not sent or name == "import", (how, name, sent)  # nobody asked to read a directory
    if name == "import":  # what waits to be sent is no other test's
        world.liar.lie = plausible
        world.me.quick("realm", "leave", "s1", "--force")
        world.me.quick("realm", "join", world.join)


@pytest.mark.parametrize("bad", ["..%2F..%2Fvictim", "%2Fvictim", ".x", "a%0Ab", "%1B%5B2J", "x" * 65])
def test_a_join_string_names_no_path(world: World, bad: str) -> None:
    """A name in a line that somebody handed over."""
    world.liar.lie = plausible
    before = world.around()
    for words in (("realm", "join", world.join.replace("name=s1", f"name={bad}")),):
        done = world.me.quick_any(*words)
        assert done.code == 2 and done.error.startswith("dal: error: name "), done
        check(world, done, before, bad)


@pytest.mark.parametrize("name", ["../victim", "/victim", ".victim", "a\nb", ESC])
def test_a_realm_of_another_name_than_a_name_is_not_joined(world: World, name: str) -> None:
    """A directory, and a server, that say what they are called."""
    before = world.around()

    def lie(asked: Asked) -> Said:
        said = plausible(asked)
        if asked.call == "realm":
            one = {"name": "s1", "url": world.liar.url, "fingerprint": "", "seen_ns": 1}
            realm = json.loads(asked.ask("GET", "/v1/server").body)["realm"]
            return says({"name": name, "realm": realm, "servers": [one], "volumes": [], "as_of_ns": 1})
        return said

    world.liar.lie = lie
    for given in (world.join, world.join.replace("name=s1&", "")):
        done = world.me.quick_any("realm", "join", given)
        assert done.code == 9 and "not used" in done.error, done
        check(world, done, before, name)


@pytest.mark.parametrize("name", sorted(set(HERE_ALONE) - {"serve", "token"}))
def test_a_command_that_needs_no_server_asks_none(world: World, name: str) -> None:
    world.liar.lie = lambda asked: REFUSALS[0]
    world.liar.asked.clear()
    for words in HERE_ALONE[name]:
        done = world.me.quick_any(*words)
        assert done.code in CODES and b"Traceback" not in done.err, done
    assert world.liar.asked == []
