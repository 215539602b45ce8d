"""Every call of the client against a server that lies: an error of one line, or an answer that can be used.

ASKED has a row for each row of the server's table of calls; a call without one fails the first test here.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from dalsegno.formats import messages
from dalsegno.formats.object_records import encode_records
from dalsegno.replicas import wire
from dalsegno.replicas.calls import CALLS
from dalsegno.replicas.connections import Patience
from dalsegno.replicas.http_client import ANSWER_BYTES_MAX
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.transfer import fetch
from dalsegno.replicas.view import Placed, RealmView, Server
from dalsegno.terms.errors import DalError, Damaged, Unavailable
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.volumes.clones import Clone, Clones, CloneTable
from dalsegno.volumes.records import DumpRecord, DumpRecords
from dalsegno.volumes.state import Lease, Release, ReplicaSet, VolumeState
from kit import DictStore
from lying_kit import (
    BAD_IDS,
    BAD_NAMES,
    BAD_NUMBERS,
    BAD_TYPES,
    ESC,
    OCTETS_TYPE,
    Liar,
    Said,
    call_name,
    endless,
    places,
    renamed,
    replaced,
    says,
)

ID, REVISION, DUMP = b"v" * 16, b"r" * 32, b"d" * 16
CLONE = Clone(revision=REVISION, created_ns=5, entry_count=3)
RECORD = DumpRecord(
    dump_id=DUMP, level=1, revision=REVISION, base_dump=b"b" * 16, taken_at_ns=7, path="/x.dump", size_bytes=8
)
REPLICAS = ReplicaSet(version=1, writers=["s1"], readers=["s2"], standbys=["s3"], clones={"s2": "daily*@last7"})
STATE = VolumeState(
    id=ID,
    name="home",
    kind="native",
    source=b"",
    created_ns=1,
    head=REVISION,
    clones=Clones({"daily": CLONE}, CloneTable(count=2, by_name=REVISION, by_time=REVISION, until_ns=3)),
    dumps=[RECORD],
    settings={"text": "x", "list": ["a"], "number": 3},
    lease=Lease(owner="me", until_ns=4),
    role="writer",
    replicas=REPLICAS,
    common=REVISION,
    uncloned={"old": [CLONE]},
    released=Release(number=1, revision=REVISION, clone="daily", released_ns=3),
)
TOKEN = wire.TokenView(
    id="00" * 8, rights=["read"], volumes=["*"], note="", created_ns=1, expires_ns=0, used_ns=0, peer=False
)
SIZE = wire.Size(size=5)
VIEW = RealmView(
    name="site",
    realm=b"m" * 16,
    servers=[Server(name="s1", url="http://127.0.0.1:1"), Server(name="s2", url="https://h:2", fingerprint="")],
    volumes=[Placed(name="home", id=ID, replicas=REPLICAS)],
    as_of_ns=1,
)
INFO = wire.ServerInfo(name="s1", version="1", protocol="1", realm=b"m" * 16, now_ns=1, rights=["read"], volumes=["*"])
FAILURE = wire.Problem(error=wire.Failure(code="damaged", message="said so"))
Ask = Callable[[RemoteSite], Any]

NOT_ASKED = {"health", "metrics", "openapi"}
"""Calls that our client has no use for."""
ASKED: dict[str, tuple[Ask, Any]] = {
    "server": (lambda site: site.server(), INFO),
    "key": (
        lambda site: site.key().secrets,
        wire.RealmKey(realm=b"m" * 16, secret=b"s" * 32, older=[b"o" * 32], generation=2),
    ),
    "realm": (lambda site: site.view(), VIEW),
    "publish": (lambda site: site.publish(Placed(name="home", id=ID, replicas=REPLICAS)), wire.Done()),
    "forget": (lambda site: site.forget("home"), wire.Done()),
    "remove_server": (lambda site: site.remove_server("s2"), wire.Done()),
    "failure": (lambda site: site.client.why_cut("abc", Unavailable("cut")), FAILURE),
    "states": (lambda site: site.states(), wire.States(volumes=[STATE])),
    "tokens": (lambda site: site.tokens(), wire.Tokens(tokens=[TOKEN])),
    "add_token": (
        lambda site: site.add_token(wire.NewToken(rights=["read"], volumes=["*"])),
        wire.MadeToken(token=f"dal_{'0' * 16}_{'x' * 43}", view=TOKEN),
    ),
    "revoke_token": (lambda site: site.revoke_token("00" * 8), TOKEN),
    "dump_size": (lambda site: site.dump_size(DUMP), SIZE),
    "send_dump": (lambda site: site.send_dump(DUMP, 0, b"x"), SIZE),
    "drop_dump": (lambda site: site.drop_dump(DUMP), wire.Done()),
    "state": (lambda site: site.state("home"), STATE),
    "block": (lambda site: site.block("home", ObjectId(REVISION)), encode_records([(1, REVISION, b"x" * 50)])),
    "missing": (lambda site: list(site.missing("home", [REVISION], [])), (REVISION + b"\1\0\0\x10") * 3),
    "objects": (lambda site: b"".join(site.objects("home", REVISION)), b"a pack"),
    "have": (lambda site: site.have("home", REVISION * 2), b"\1\0"),
    "upload_size": (lambda site: site.upload_size("home", DUMP), SIZE),
    "upload": (lambda site: site.upload("home", DUMP, 0, b"x"), SIZE),
    "adopt": (lambda site: site.adopt("home", [DUMP]), wire.Done()),
    "commit": (lambda site: site.commit("home", REVISION, DUMP, b"x"), STATE),
    "advance": (lambda site: site.advance("home", REVISION), STATE),
    "clone": (lambda site: site.clone("home", "daily", CLONE), STATE),
    "agree": (lambda site: site.agree("home", REVISION), wire.Done()),
    "freeze": (lambda site: site.freeze("home", owner="me"), STATE),
    "thaw": (lambda site: site.thaw("home", owner="me"), wire.Done()),
    "unclone": (lambda site: site.unclone("home", "daily", CLONE), STATE),
    "create": (lambda site: site.create(STATE), STATE),
    "remove": (lambda site: site.remove("home"), wire.Done()),
    "arrange": (lambda site: site.arrange("home", REPLICAS), STATE),
    "reopen": (lambda site: site.reopen("home", at_ns=5), STATE),
    "switch": (lambda site: site.switch("home", Release(number=1, revision=REVISION, clone="", released_ns=1)), STATE),
    "watch": (lambda site: site.watch("home", REVISION, seconds=0), STATE),
    "dump": (lambda site: b"".join(site.dump("home")), b"a dump"),
    "record": (lambda site: site.record("home", RECORD), STATE),
    "forget_dump": (lambda site: site.forget_dump("home", DUMP), STATE),
    "load": (lambda site: site.load("home", [DUMP]), STATE),
}
BYTES_ANSWERED = {call.name for call in CALLS if call.answer is bytes}
JSON_ANSWERED = sorted(set(ASKED) - BYTES_ANSWERED)
SAYS_NOTHING = {name for name, (_, good) in ASKED.items() if isinstance(good, wire.Done)}


def test_every_call_of_the_table_is_asked_of_a_liar() -> None:
    """A call that nobody lied to."""
    assert set(ASKED) | NOT_ASKED == {call.name for call in CALLS}
    assert not set(ASKED) & NOT_ASKED


def good_body(name: str) -> bytes:
    good = ASKED[name][1]
    return good if isinstance(good, bytes) else messages.encode(good)


def ask(site: RemoteSite, name: str) -> Any:
    """Return what a call says, or the error that it ends with; any other end fails the test."""
    try:
        return ASKED[name][0](site)
    except DalError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 5000, text
        return error


@pytest.mark.parametrize("name", sorted(ASKED))
def test_what_is_right_is_taken(name: str) -> None:
    with Liar() as liar:
        liar.lie = lambda asked: Said(body=good_body(name))
        site = RemoteSite(liar.url, "token", name="s1")
        found = ASKED[name][0](site)
        site.close()
        assert [asked.call for asked in liar.asked] == [name]
        assert not isinstance(found, DalError) or name == "failure"


# Values

NAMES = {"name", "writers", "readers", "standbys", "url", "fingerprint", "kind", "role", "rule", "clone", "token"}
"""Fields, and lists of what is, of which not every text is one."""
MAY_BE_EMPTY = {"clone", "head", "common", "base_dump", "moved_to", "fingerprint", "role"}
ANY_VALUE = {"settings", "entry_count", "total_bytes"}
"""Below these other types are right, too."""
STATE_ANSWERED = [name for name, (_, good) in ASKED.items() if good is STATE]
FEWER = 17


def lies_about(good: Any) -> Iterator[tuple[tuple[Any, ...], Any, bool]]:
    """Yield changed values: where, the whole, and whether it must be refused."""
    for at, value in places(good):
        field = next((key for key in reversed(at) if isinstance(key, str)), "")
        if len(at) > 1 and isinstance(at[-1], str) and at[-2] in ("newest", "uncloned"):
            yield from ((at, renamed(good, at, name), True) for name in BAD_NAMES)
        if isinstance(value, bool):
            yield from ((at, replaced(good, at, new), True) for new in (1, "true", []))
        elif isinstance(value, int):
            loose = bool(ANY_VALUE & set(at))
            for new in BAD_NUMBERS:
                yield at, replaced(good, at, new), not (loose or (new == -1 and field.endswith("_ns")))
        elif isinstance(value, str) and re.fullmatch("[0-9a-f]{32}|[0-9a-f]{64}", value):
            for new in BAD_IDS:
                yield at, replaced(good, at, new), bool(new) or field not in MAY_BE_EMPTY
        elif isinstance(value, str):
            for new in (*BAD_NAMES, "n" * 300_000):
                yield at, replaced(good, at, new), field in NAMES and bool(new or field not in MAY_BE_EMPTY)
        if not isinstance(value, bool | int):
            yield from ((at, replaced(good, at, new), False) for new in BAD_TYPES)


@pytest.mark.parametrize("name", JSON_ANSWERED)
def test_a_wrong_value_is_refused_or_harms_nobody(name: str) -> None:
    """A name, an id, a number or a shape from a server that is used as it comes."""
    step = FEWER if name in STATE_ANSWERED and name != "state" else 1
    with Liar() as liar:
        site = RemoteSite(liar.url, "token", name="s1")
        for at, value, must_refuse in list(lies_about(json.loads(good_body(name))))[::step]:
            said = says(value)
            liar.lie = lambda asked, said=said: said if asked.call == name else Said(status=500)
            found = ask(site, name)
            if must_refuse and name not in SAYS_NOTHING | {"failure"}:
                assert isinstance(found, Unavailable), (name, at, str(value)[:300], found)
        site.close()


def _lying_tables() -> dict[str, tuple[CloneTable, dict[bytes, list[tuple[int, bytes, bytes]]]]]:
    """Return tables whose nodes are there, and what of them is none of a clone table."""
    store = DictStore()

    def table(*names: str, revision: bytes = REVISION, **changes: Any) -> CloneTable:
        clones = Clones(source=store)
        for number, name in enumerate(names):
            clones = clones.put(name, Clone(revision=revision, created_ns=number))
        settled = clones.settle(store, store).table
        assert settled is not None
        return msgspec.structs.replace(settled, **changes)

    some = [f"c{number:03}" for number in range(60)]
    tables = {
        "a name that is a path": table("..\\etc", *some),
        "a name that is an address": table("a@b", *some),
        "a name that is an option": table("--yes", *some),
        "fewer than it says": table(*some, count=77),
        "trees in each other's place": (lambda t: msgspec.structs.replace(t, by_time=t.by_name))(table(*some)),
        "nodes that are not there": table(*some, by_name=bytes(32), by_time=bytes(32)),
        "a node that is a revision": table(*some, by_name=REVISION, by_time=REVISION),
    }
    records = {identity: [(kind, identity, payload)] for identity, (kind, payload) in store.objects.items()}
    return {what: (each, {**records, REVISION: [(4, REVISION, b"no node")]}) for what, each in tables.items()}


def test_a_table_of_dumps_that_is_none_is_not_used() -> None:
    """What is fetched later, when somebody asks for it, is used as it comes."""
    store = DictStore()
    many = [msgspec.structs.replace(RECORD, dump_id=bytes([number]) * 16, taken_at_ns=number) for number in range(40)]
    good = DumpRecords(many, source=store).settle(store, store)
    bad = [*many[:3], msgspec.structs.replace(many[3], level=77), *many[4:]]
    wrong = DumpRecords(bad, source=store).settle(store, store)
    table = good.table
    assert table is not None
    lies = [
        DumpRecords(good.newest, msgspec.structs.replace(table, count=77)),
        DumpRecords(good.newest, msgspec.structs.replace(table, by_time=bytes(32))),
        DumpRecords(good.newest, wrong.table),
    ]
    for dumps in lies:

        def lie(asked: Any, dumps: DumpRecords = dumps) -> Said:
            if asked.call == "block":
                identity = bytes.fromhex(parse_qs(urlsplit(asked.path).query)["id"][0])
                kind, payload = store.objects.get(identity, (0, b""))
                return Said(body=encode_records([(kind, identity, payload)])) if payload else Said(status=404)
            return Said(body=messages.encode(msgspec.structs.replace(STATE, dumps=dumps)))

        with Liar() as liar:
            liar.lie = lie
            site = RemoteSite(liar.url, "token", name="s1")
            found = site.state("home").dumps
            assert found[-1] == many[-1]
            with pytest.raises((Damaged, Unavailable)):
                list(found)
            site.close()


@pytest.mark.parametrize("what", sorted(_lying_tables()))
def test_a_table_of_clones_that_is_none_is_not_used(what: str) -> None:
    """What is fetched later, when somebody asks for it, is used as it comes."""
    table, records = _lying_tables()[what]
    state = msgspec.structs.replace(STATE, clones=Clones({"daily": CLONE}, table))

    def lie(asked: Any) -> Said:
        if asked.call == "block":
            found = records.get(bytes.fromhex(parse_qs(urlsplit(asked.path).query)["id"][0]))
            return Said(status=404) if found is None else Said(body=encode_records(found))
        return Said(body=messages.encode(state))

    with Liar() as liar:
        liar.lie = lie
        site = RemoteSite(liar.url, "token", name="s1")
        clones = site.state("home").clones
        assert clones["daily"] == CLONE and clones.newest == {"daily": CLONE}
        with pytest.raises((Damaged, Unavailable)):
            list(clones.by_time())
        site.close()


@pytest.mark.parametrize("name", JSON_ANSWERED)
def test_what_a_later_version_says_besides_is_passed_over(name: str) -> None:
    good = json.loads(good_body(name))
    with Liar() as liar:
        site = RemoteSite(liar.url, "token", name="s1")
        found = []
        for more in ({}, {"tomorrow": {"x": [1, {"y": None}]}}):
            liar.lie = lambda asked, more=more: says({**good, **more})
            found.append(str(ASKED[name][0](site)))
        site.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("name", STATE_ANSWERED)
def test_the_state_of_another_volume_is_not_taken_for_the_one_asked_for(name: str) -> None:
    """An answer about something else than was asked."""
    with Liar() as liar:
        liar.lie = lambda asked: says({**json.loads(messages.encode(STATE)), "name": "away"})
        site = RemoteSite(liar.url, "token", name="s1")
        with pytest.raises(Unavailable, match="'away'"):
            ASKED[name][0](site)
        site.close()


# How it is said

GOOD_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SAID: dict[str, Callable[[bytes], Said]] = {
    "nothing": lambda good: Said(raw=b""),
    "noise": lambda good: Said(raw=b"\x16\x03\x01\x02\x00\x01\x00\xfc" * 20),
    "an ESC in the head": lambda good: Said(status=500, reason=ESC, body=b""),
    "an ESC as message": lambda good: says({"error": {"code": "refused", "message": ESC * 3000}}, status=422),
    "an unknown error": lambda good: says({"error": {"code": ESC, "message": ""}}, status=599),
    "errors that are none": lambda good: says({"error": [[]]}, status=404),
    "moved to nowhere": lambda good: says(
        {"error": {"code": "moved", "message": "m"}, "moved_to": {"name": "../../victim", "url": ESC}}, status=421
    ),
    "HTML": lambda good: Said(body=b"<html><script>alert(1)</script>", media="text/html"),
    "half of it": lambda good: Said(raw=GOOD_HEAD + b"Content-Length: %d\r\n\r\n" % (len(good) + 5) + good[:-1]),
    "a chunk of less than nothing": lambda good: Said(
        raw=[GOOD_HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", *([b"x" * MIB] * 64)]
    ),
    "a chunk of no size": lambda good: Said(raw=GOOD_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a length of less than nothing": lambda good: Said(raw=GOOD_HEAD + b"Content-Length: -5\r\n\r\n"),
    "nothing, with 204": lambda good: Said(status=204, raw=b"HTTP/1.1 204 No\r\n\r\n"),
    "a head without an end": lambda good: Said(raw=endless(b"X: " + b"y" * 60000 + b"\r\n", before=GOOD_HEAD)),
    "a line without an end": lambda good: Said(raw=endless(b"y" * MIB, before=b"HTTP/1.1 200 ")),
    "brackets": lambda good: Said(body=b"[" * 1_000_000),
    "an object in an object": lambda good: Said(body=b'{"x":' * 200_000),
    "a number of a million digits": lambda good: Said(body=b'{"size":' + b"9" * 1_000_000 + b"}"),
}
FINE_FOR = {
    # Streams of bytes may be anything; who asked for them checks them.
    "HTML": BYTES_ANSWERED,
    "brackets": BYTES_ANSWERED,
    "an object in an object": BYTES_ANSWERED,
    "a number of a million digits": BYTES_ANSWERED | SAYS_NOTHING,
    "nothing, with 204": BYTES_ANSWERED,
    "a length of less than nothing": BYTES_ANSWERED,
}


@pytest.mark.parametrize("how", sorted(SAID))
def test_an_answer_that_is_none_is_an_error_of_one_line(how: str) -> None:
    """A program that ends otherwise than by an error, or not at all, when the other side does not keep to HTTP."""
    for name in sorted(ASKED):
        with Liar() as liar:
            liar.lie = lambda asked, name=name: SAID[how](good_body(name))
            site = RemoteSite(liar.url, "token", name="s1", patience=Patience(answer_seconds=20))
            found = ask(site, name)
            site.close()
        assert liar.sent_bytes < 24 * MIB, (name, how)
        assert isinstance(found, DalError) or name in FINE_FOR.get(how, ()), (name, how, found)
        assert not isinstance(found, DalError) or str(found).isprintable(), (name, how, found)


@pytest.mark.parametrize("name", JSON_ANSWERED)
def test_a_message_without_an_end_is_not_kept(name: str) -> None:
    """Memory that grows with what the other side sends."""
    with Liar() as liar:
        liar.lie = lambda asked: Said(body=endless(b"[]," * 100_000, before=b'{"x":['))
        site = RemoteSite(liar.url, "token", name="s1")
        found = ask(site, name)
        site.close()
        assert isinstance(found, Unavailable), found
        assert liar.sent_bytes < ANSWER_BYTES_MAX + 24 * MIB  # the rest lies in the sockets
        assert ANSWER_BYTES_MAX <= 16 * MIB


def test_a_list_of_what_is_missing_ends() -> None:
    """An answer that is read for as long as it comes."""
    with Liar() as liar:
        liar.lie = lambda asked: Said(body=endless((REVISION + b"\1\0\0\x10") * 5000), media=OCTETS_TYPE)
        site = RemoteSite(liar.url, "token", name="s1", rows_max=100_000)
        with pytest.raises(Unavailable, match="no end"):
            for _ in site.missing("home", [REVISION], []):
                pass
        site.close()


@pytest.mark.parametrize("end", [b"\1\0\0\0", b"\1\0\0\x50", b"\xff\xff\xff\x1f"])
def test_rows_of_no_kind_or_of_too_many_bytes_are_not_used(end: bytes) -> None:
    """A length from outside that becomes memory."""
    with Liar() as liar:
        liar.lie = lambda asked: Said(body=endless((REVISION + end) * 5000), media=OCTETS_TYPE)
        site = RemoteSite(liar.url, "token", name="s1")
        with pytest.raises(Unavailable, match="a row of what is missing"):
            for _ in site.missing("home", [REVISION], []):
                pass
        site.close()


def test_a_pack_of_more_than_was_asked_for_is_not_kept() -> None:
    """A stream that fills the disk of who asked for little."""
    with Liar() as liar:
        liar.lie = lambda asked: Said(body=endless(b"x" * MIB), media=OCTETS_TYPE)
        site = RemoteSite(liar.url, "token", name="s1")
        with pytest.raises(Damaged, match="more than the 1 objects"):
            fetch(site, "home", REVISION, payload_bytes=100)
        site.close()
        assert liar.sent_bytes < 48 * MIB


@pytest.mark.parametrize("begin", [b"HTTP/1.1 100 Continue\r\n\r\n", GOOD_HEAD + b"Content-Length: 900\r\n\r\n{"])
def test_a_server_that_says_a_little_for_ever_is_one_that_does_not_answer(begin: bytes) -> None:
    """A wait whose limit begins anew with each byte."""

    def slowly() -> Iterator[bytes]:
        yield begin
        while True:
            time.sleep(0.02)
            yield begin if b"100" in begin else b" "

    with Liar() as liar:
        liar.lie = lambda asked: Said(raw=slowly())
        site = RemoteSite(liar.url, "token", name="s1", patience=Patience(answer_seconds=0.3))
        with pytest.raises(Unavailable, match="no answer in time"):
            site.state("home")
        site.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """A token that goes where a server sends it."""
    with Liar() as elsewhere, Liar() as liar:
        liar.lie = lambda asked: Said(status=status, headers={"Location": elsewhere.url + asked.path})
        site = RemoteSite(liar.url, "token", name="s1")
        for name in sorted(ASKED):
            assert isinstance(ask(site, name), DalError)
        site.close()
        assert {asked.call for asked in liar.asked} == set(ASKED)
        assert elsewhere.asked == []


def test_the_kit_knows_every_call_by_its_path() -> None:
    for call in CALLS:
        path = re.sub(r"\{[a-z_]+\}", "x", call.path)
        assert call_name(call.method, path + "?a=b") == call.name
