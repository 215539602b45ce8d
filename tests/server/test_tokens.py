"""Tokens: what each right opens, and that nothing of them stays when they end."""

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_kit import ask
from served_kit import Served, make_user

from cli_kit import User
from dalsegno.formats.join import format_join, parse_join
from dalsegno.pool.pool import Pool
from dalsegno.replicas import wire
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.tokens import RIGHTS, PoolTokens, Token, check_token, new_token, split_token
from dalsegno.terms.errors import BadInput, DalError, NoAccess, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, Release, ReplicaSet, VolumeState
from server_kit import start_server

CLONE = Clone(revision=bytes(32), created_ns=1)
UPLOAD = bytes(16)

# Call: the rights that open it. What is done there fails otherwise, for other reasons than rights.
CALLS: dict[str, tuple[Callable[[RemoteSite], Any], str]] = {
    "server": (lambda site: site.server(), "read append write administer"),
    "key": (lambda site: site.key(), "read append write administer"),
    "states": (lambda site: site.states(), "read append write administer"),
    "state": (lambda site: site.state("home"), "read append write administer"),
    "watch": (lambda site: site.watch("home", b"", seconds=0), "read append write administer"),
    "block": (lambda site: site.block("home", ObjectId(bytes(32))), "read write administer"),
    "missing": (lambda site: list(site.missing("home", [bytes(32)], [])), "read write administer"),
    "objects": (lambda site: list(site.objects("home", bytes(32))), "read write administer"),
    "dump": (lambda site: list(site.dump("home")), "read write administer"),
    "have": (lambda site: site.have("home", bytes(32)), "read append write administer"),
    "upload_size": (lambda site: site.upload_size("home", UPLOAD), "append write administer"),
    "upload": (lambda site: site.upload("home", UPLOAD, 1, [b"x"]), "append write administer"),
    "adopt": (lambda site: site.adopt("home", [UPLOAD]), "append write administer"),
    "commit": (lambda site: site.commit("home", bytes(32), b"", []), "append write administer"),
    "advance": (lambda site: site.advance("home", bytes(32)), "append write administer"),
    "clone": (lambda site: site.clone("home", "x", CLONE), "append write administer"),
    "agree": (lambda site: site.agree("home", bytes(32)), "write administer"),
    "freeze": (lambda site: site.freeze("home", owner="x", seconds=1), "write administer"),
    "thaw": (lambda site: site.thaw("home", owner="x"), "write administer"),
    "unclone": (lambda site: site.unclone("home", "x", CLONE, here_only=True), "write administer"),
    "send_dump": (lambda site: site.send_dump(UPLOAD, 1, [b"x"]), "write administer"),
    "load": (lambda site: site.load("home", [UPLOAD]), "write administer"),
    "create": (
        # One that binds others; a plain one needs less: test_append.py.
        lambda site: site.create(VolumeState(id=bytes(16), name="home", kind=NATIVE, source=b"", created_ns=1)),
        "administer",
    ),
    "arrange": (lambda site: site.arrange("nobody", ReplicaSet(version=1, writers=[])), "administer"),
    "switch": (
        lambda site: site.switch("nobody", Release(number=1, revision=bytes(32), clone="", released_ns=1)),
        "administer",
    ),
    "reopen": (lambda site: site.reopen("home", at_ns=1), "administer"),
    "remove": (lambda site: site.remove("nobody"), "administer"),
    "tokens": (lambda site: site.tokens(), "administer"),
    "add_token": (lambda site: site.add_token(wire.NewToken(rights=["read"], volumes=["x"])), "administer"),
    "revoke_token": (lambda site: site.revoke_token("0" * 16), "administer"),
}


@pytest.mark.parametrize("right", RIGHTS)
def test_each_right_opens_its_calls_and_no_others(served: Served, right: str) -> None:
    site = served.server.site(served.server.token(right))
    for name, (call, rights) in CALLS.items():
        try:
            call(site)
            opened = True
        except NoAccess:
            opened = False
        except DalError:
            opened = True
        assert opened == (right in rights.split()), (name, right)


def test_rights_add_up(served: Served) -> None:
    site = served.server.site(served.server.token("read", "append"))
    for name in ("block", "have", "advance", "dump"):
        try:
            CALLS[name][0](site)
        except NoAccess:
            raise AssertionError(name) from None
        except DalError:
            pass
    with pytest.raises(NoAccess):
        CALLS["unclone"][0](site)


def test_patterns_say_which_volumes(served: Served) -> None:
    for patterns, opens in (
        (("home",), True),
        (("ho*",), True),
        (("h?me",), True),
        (("x", "home"), True),
        (("[a-h]ome",), True),
        (("home2",), False),
        (("Home",), False),
        (("*x",), False),
        (("",), None),
        (("a/b",), None),
        (("a\nb",), None),
    ):
        if opens is None:
            served.user.quick("token", "add", "--right", "read", "--volume", patterns[0], code=2)
            continue
        site = served.server.site(served.server.token("read", volumes=patterns))
        if opens:
            assert site.state("home").name == "home"
        else:
            with pytest.raises(NoAccess):
                site.state("home")


def test_administering_some_volumes_makes_no_tokens(served: Served) -> None:
    site = served.server.site(served.server.token("administer", volumes=("home*",)))
    for call in (
        lambda: site.tokens(),
        lambda: site.add_token(wire.NewToken(rights=["administer"], volumes=["*"])),
        lambda: site.revoke_token("0" * 16),
    ):
        with pytest.raises(NoAccess):
            call()


def test_a_revoked_token_opens_nothing_from_that_moment(served: Served) -> None:
    token = served.server.token("read")
    site = served.server.site(token)
    assert site.state("home").name == "home"
    parts = split_token(token)
    assert parts is not None
    served.user.quick("token", "revoke", parts[0])
    with pytest.raises(NoAccess):
        site.state("home")
    served.user.quick("token", "revoke", parts[0], code=6)
    assert parts[0] not in {token["id"] for token in served.user.value("token", "list")}


def test_tokens_are_made_and_revoked_over_http(served: Served) -> None:
    site = served.server.site(served.token)
    made = site.add_token(
        wire.NewToken(rights=["append", "read"], volumes=["home*"], note="laptop", expires_seconds=3600)
    )
    assert (made.view.rights, made.view.volumes, made.view.note) == (["read", "append"], ["home*"], "laptop")
    assert made.view.expires_ns - made.view.created_ns == 3600 * SECOND_NS
    other = served.server.site(made.token)
    assert other.state("home").name == "home"
    assert made.view.id in {view.id for view in site.tokens()}
    assert site.revoke_token(made.view.id).note == "laptop"
    with pytest.raises(NoAccess):
        other.state("home")
    with pytest.raises(NotFound):
        site.revoke_token(made.view.id)


def test_a_token_expires_by_itself(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    text = json.loads(user.quick("--json", "token", "add", "--right", "read", "--expires", "1s").out)["token"]
    with start_server(user, DAL_NOW="2036-01-01T00:00:00Z") as server:
        with pytest.raises(NoAccess):
            server.site(text).state("home")
        assert server.site(server.token("read", DAL_NOW="2035-12-31T00:00:00Z")).state("home").name == "home"


def test_the_last_use_is_seen_and_secrets_are_not(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home", encryption="none")
    with start_server(user) as server:
        token = server.token("read")
        assert [one["used"] for one in user.value("token", "list")] == [None]
        server.site(token).state("home")
        listed = user.quick("--json", "token", "list").out
        (one,) = json.loads(listed)
        assert one["used"] is not None and one["rights"] == ["read"] and one["volumes"] == ["*"]
        assert token.rpartition("_")[2].encode() not in listed + user.quick("token", "list").out


def test_kept_is_a_hash_and_it_is_compared_whole(tmp_path: Path) -> None:
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        store = PoolTokens(pool)
        token, text = new_token(rights=["read"], volumes=["*"], now_ns=5)
        store.add(token)
        assert text.rpartition("_")[2].encode() not in bytes(pool.get_ref(f"tokens/{token.id}") or b"")
        found = check_token(text, [store], now_ns=6)
        assert found is not None and found[0] == token
        for wrong in (text[:-1], text + "A", text.upper(), text.replace("dal_", "lad_"), text[:-1] + "*", ""):
            assert check_token(wrong, [store], now_ns=6) is None
        _, other_text = new_token(rights=["read"], volumes=["*"], now_ns=5)
        mixed = text[:20] + other_text[20:]
        assert check_token(mixed, [store], now_ns=6) is None


def test_many_use_and_revoke_at_once_and_revoked_stays_revoked(tmp_path: Path) -> None:
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        store = PoolTokens(pool)
        tokens = [new_token(rights=["read"], volumes=["*"], now_ns=number)[0] for number in range(1, 9)]
        for token in tokens:
            store.add(token)

        def use(token: Token) -> None:
            for number in range(20):
                store.used(token.id, now_ns=number)

        def end(token: Token) -> None:
            store.revoke(token.id)

        work = [(use, token) for token in tokens] + [(end, token) for token in tokens]
        threads = [threading.Thread(target=function, args=(token,)) for function, token in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.all() == []
        assert all(store.find(token.id) is None for token in tokens)
        assert list(pool.list_refs("tokens-used/")) == []


def test_words_that_make_no_token() -> None:
    good: dict[str, Any] = {"rights": ["read"], "volumes": ["*"], "now_ns": 5}
    for wrong in (
        {"rights": []},
        {"rights": ["root"]},
        {"volumes": []},
        {"volumes": ["x"] * 65},
        {"volumes": ["x" * 201]},
        {"note": "a\nb"},
        {"note": "x" * 201},
        {"expires_ns": 4},
    ):
        with pytest.raises(BadInput):
            new_token(**{**good, **wrong})


def test_the_join_string_of_a_new_token_is_enough_to_come_in(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    assert json.loads(user.quick("--json", "token", "add", "--right", "read").out)["join"] is None
    with start_server(user, tls=True, name="s7") as server:
        join = parse_join(json.loads(user.quick("--json", "token", "add", "--right", "read").out)["join"])
        site = RemoteSite.from_join(join)
        assert (site.server().name, site.name) == ("s7", "s7")
        assert site.key().secret == Pool.open(user.home / "pool").realm.secret
        site.close()
        assert server.fingerprint == join.fingerprint
        printed = user.quick("token", "add", "--right", "read").out.decode().split()
        assert printed[1].startswith("dal://127.0.0.1:") and printed[0] in printed[1]


def test_a_sealed_pools_tokens_are_sealed(tmp_path: Path) -> None:
    user = User(tmp_path / "home")
    user.quick("init", "--encryption", "keyfile")
    text = json.loads(user.quick("--json", "token", "add", "--right", "read", "--note", "for-the-laptop").out)["token"]
    for path in (user.home / "pool").rglob("*"):
        if path.is_file():
            assert b"for-the-laptop" not in path.read_bytes() and text.encode() not in path.read_bytes()


def test_nobody_else_sees_an_uploaded_dump(served: Served) -> None:
    mine, yours = (served.server.site(served.server.token("write")) for _ in range(2))
    dump_id = os.urandom(16)
    assert mine.send_dump(dump_id, 0, [b"abc"]) == 3
    assert (mine.dump_size(dump_id), yours.dump_size(dump_id)) == (3, 0)
    with pytest.raises(NotFound):
        yours.load("home", [dump_id])
    for site, left in itertools.product((yours, mine), [0]):
        site.drop_dump(dump_id)
        assert site.dump_size(dump_id) == left
    assert mine.dump_size(dump_id) == 0


def test_authorization_is_read_as_the_standard_says(served: Served) -> None:
    for line, status in (
        (f"bearer {served.token}", 200),
        (f"BEARER   {served.token}  ", 200),
        (f"Basic {served.token}", 401),
        (served.token, 401),
        (f"Bearer {served.token} extra", 401),
        ("Bearer", 401),
        ("Bearer \xff\xfe", 401),
    ):
        assert ask(served.server, "GET", "/v1/server", headers={"Authorization": line})[0] == status, line


def test_a_join_string_is_read_where_others_do_not_see_it(tmp_path: Path) -> None:
    user, client = make_user(tmp_path / "home"), User(tmp_path / "client")
    with start_server(user) as server:
        text = format_join(server.join(server.token("read")))
        words = [*client.command(), "realm", "join", "-"]
        done = subprocess.run(words, input=text.encode() + b"\n", env=client.environ({}), capture_output=True)
        assert (done.returncode, done.stdout) == (0, b"joined realm s1: servers s1\n"), done.stderr
        assert client.run("ls", "//s1/home", DAL_POOL="").out
        done = subprocess.run(words, input=b"x" * 100_000, env=client.environ({}), capture_output=True)
        assert done.returncode == 2 and len(done.stderr) < 500
