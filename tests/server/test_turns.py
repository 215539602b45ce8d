"""One token, stolen or in a loop, that takes all it can get: the others go on. Each test is the attacker."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_kit import ask, connect, read_answer
from served_kit import Served, make_user

from cli_kit import User
from dalsegno.replicas.connections import Patience
from dalsegno.replicas.remote import RemoteSite
from dalsegno.server import limits
from dalsegno.server.turns import Pace, Places
from dalsegno.terms.errors import Unavailable
from dalsegno.terms.sizes import KIB, MIB
from kit import readable
from server_kit import Server, start_server

HONEST_SECONDS = 100.0
"""However loaded the machine is."""


def bearer(token: str) -> str:
    return f"Host: x\r\nAuthorization: Bearer {token}\r\n"


@contextmanager
def dripping(socks: list[socket.socket], piece: bytes, *, seconds: float = 0.1) -> Iterator[None]:
    """Send a piece over each connection now and then, while the block lasts."""
    ended = threading.Event()

    def drip() -> None:
        live = list(socks)
        while live and not ended.wait(seconds):
            for sock in list(live):
                try:
                    sock.sendall(piece)
                except OSError:
                    live.remove(sock)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for sock in socks:
            sock.close()


def slow_uploads(server: Server, token: str, count: int) -> list[socket.socket]:
    """Begin uploads that say they are large and bring little."""
    socks = [connect(server) for _ in range(count)]
    for number, sock in enumerate(socks):
        sock.sendall(
            f"PUT /v1/volumes/home/uploads/{number:032x}?offset=0 HTTP/1.1\r\n{bearer(token)}"
            "Content-Length: 200000000\r\n\r\n".encode()
        )
        sock.sendall(bytes(1000))
    return socks


def big_user(home: Path) -> User:
    """Return a user with a volume large enough that no socket's buffers take it."""
    user = make_user(home)
    big = user.home / "big"
    big.mkdir()
    for number in range(24):
        (big / str(number)).write_bytes(os.urandom(MIB))
    user.quick("volume", "create", "big")
    user.quick("import", "big", str(big))
    return user


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server as everybody starts it."""
    with start_server(big_user(tmp_path_factory.mktemp("crowded") / "home")) as server:
        yield Served(server, server.token("administer"))


def honest(served: Served) -> RemoteSite:
    return served.server.site(served.token, patience=Patience(answer_seconds=HONEST_SECONDS))


def test_slow_uploads_of_one_token_hold_up_nobody(crowded: Served) -> None:
    """The kind of fault: a thread that waits for a client."""
    socks = slow_uploads(crowded.server, crowded.server.token("append"), 40)
    with dripping(socks, bytes(200)):
        site = honest(crowded)
        head = site.state("home").head
        upload = os.urandom(16)
        assert site.upload("home", upload, 0, [bytes(2 * MIB)]) == 2 * MIB
        assert b"".join(site.missing("home", [head], []))
        assert sum(map(len, site.dump("big"))) > 20 * MIB


def test_slow_readers_of_one_token_hold_up_nobody(crowded: Served) -> None:
    """The kind of fault: memory that is held for as long as a client likes."""
    token = crowded.server.token("read")
    before = crowded.server.memory_peak_bytes()
    socks = [connect(crowded.server) for _ in range(12)]
    for sock in socks:
        sock.sendall(f"GET /v1/volumes/big/dump HTTP/1.1\r\n{bearer(token)}\r\n".encode())
    served: set[socket.socket] = set()
    while len(served) < 2:
        served.update(readable(socks, HONEST_SECONDS))
    site = honest(crowded)
    assert sum(map(len, site.dump("big"))) > 20 * MIB
    assert b"".join(site.missing("big", [site.state("big").head], []))
    assert crowded.server.memory_peak_bytes() < before + 100 * MIB
    for sock in socks:
        sock.close()


def test_messages_that_are_held_open_take_little_memory(crowded: Served) -> None:
    """The kind of fault: a bound for one, and none for all."""
    token = crowded.server.token("append")
    before = crowded.server.memory_peak_bytes()
    socks = [connect(crowded.server) for _ in range(150)]
    for sock in socks:
        sock.sendall(
            f"POST /v1/volumes/home/agree HTTP/1.1\r\n{bearer(crowded.token if sock is socks[0] else token)}"
            f"Content-Length: {2 * MIB}\r\n\r\n".encode()
        )
        sock.setblocking(False)
    for _ in range(32):
        for sock in socks:
            try:
                sock.send(b'{"revision": "' + b" " * 65536)
            except OSError:
                continue
    site = honest(crowded)
    assert site.have("home", bytes(32) * 15_000) == bytes(15_000)
    assert crowded.server.memory_peak_bytes() < before + 48 * MIB
    for sock in socks:
        sock.close()


def test_an_office_with_many_tokens_behind_one_address_uploads_at_once(crowded: Served) -> None:
    tokens = [crowded.server.token("append") for _ in range(3)] + [crowded.token]
    data = os.urandom(MIB)
    done: list[int] = []

    def send(number: int) -> None:
        site = crowded.server.site(tokens[number % len(tokens)], patience=Patience(answer_seconds=HONEST_SECONDS))
        done.append(site.upload("home", os.urandom(16), 0, [data]))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [MIB] * 50


ONE_PLACE = {"UPLOADS_AT_ONCE": 1, "STREAM_SHARES": 2, "PACE_SECONDS": 1.0}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with one place for uploads and one for dumps, that looks at the pace of a second."""
    with start_server(big_user(tmp_path_factory.mktemp("narrow") / "home"), limits=ONE_PLACE) as server:
        yield Served(server, server.token("append", "read"))


def test_a_slow_line_goes_on_until_somebody_waits_for_its_place(narrow: Served) -> None:
    (slow,) = slow_uploads(narrow.server, narrow.server.token("append"), 1)
    while b"dalsegno_requests_running 2\n" not in ask(narrow.server, "GET", "/metrics", token=narrow.token)[2]:
        pass
    for _ in range(40):  # for longer than its pace is looked at
        slow.sendall(bytes(1000))
        assert not readable([slow], 0.05)
    with dripping([slow], bytes(1000)):
        assert honest(narrow).upload("home", os.urandom(16), 0, [bytes(MIB)]) == MIB
        assert read_answer(slow)[0] == 408


def test_a_slow_reader_goes_on_until_somebody_waits_for_its_place(narrow: Served) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
        slow.settimeout(HONEST_SECONDS)
        slow.connect(("127.0.0.1", narrow.server.port))
        slow.sendall(f"GET /v1/volumes/big/dump HTTP/1.1\r\n{bearer(narrow.server.token('read'))}\r\n".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        ended = threading.Event()

        def take() -> None:
            while not ended.wait(0.1):
                slow.recv(2 * KIB)

        reader = threading.Thread(target=take)
        reader.start()
        try:
            assert sum(map(len, honest(narrow).dump("big"))) > 20 * MIB
        finally:
            ended.set()
            reader.join()
        assert "slower than" in json.dumps([line for line in narrow.server.log() if line["event"] == "cut"])


def test_what_is_refused_at_once_is_not_read(crowded: Served) -> None:
    with connect(crowded.server) as sock:
        sock.sendall(
            f"PUT /v1/volumes/home/uploads/{'7' * 32}?offset=5 HTTP/1.1\r\n{bearer(crowded.token)}"
            "Content-Length: 200000000\r\n\r\n".encode()
        )
        assert read_answer(sock)[0] == 409


def test_a_token_in_a_loop_is_told_so(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, limits={"CALLS_OF_TOKEN_MAX": 5}) as server:
        mine, other = server.token("append"), server.token("append")
        for _ in range(20):  # on a busy machine some of the five may be over before all have begun
            with dripping(slow_uploads(server, mine, 5), bytes(100)):
                codes = (ask(server, "GET", "/v1/server", token=mine)[0] for _ in range(50))
                if 429 in codes:
                    assert ask(server, "GET", "/v1/server", token=other)[0] == 200
                    return
        raise AssertionError("a token with five calls under way was never told to wait")


# The rules


def run(act: Callable[[], Any]) -> Any:
    return asyncio.run(act())


def test_who_has_less_comes_first() -> None:
    async def act() -> list[str]:
        places = Places(3, of_token_max=2)
        order: list[str] = []
        go_on = asyncio.Event()

        async def have(token: str) -> None:
            async with places.taken(token):
                order.append(token)
                await go_on.wait()

        tasks = [asyncio.create_task(have(token)) for token in ("a", "a", "a", "a", "b")]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["a", "a", "b"] and not places.is_wanted()
        tasks += [asyncio.create_task(have(token)) for token in ("b", "c")]
        await asyncio.sleep(0)
        assert places.is_wanted()
        go_on.set()
        await asyncio.gather(*tasks)
        return order

    order = run(act)
    assert order[3] == "c" and sorted(order) == ["a", "a", "a", "a", "b", "b", "c"]


def test_who_waits_too_long_is_told_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PLACE_WAIT_SECONDS", 0.01)

    async def act() -> None:
        places = Places(2, of_token_max=2)
        async with places.taken("a", 2):
            for _ in range(3):
                with pytest.raises(Unavailable):
                    async with places.taken("b"):
                        raise AssertionError
        async with places.taken("b", 2):
            pass

    run(act)


def test_who_goes_away_while_he_waits_takes_nothing_with_him() -> None:
    async def act() -> None:
        places = Places(1, of_token_max=1)

        async def have() -> None:
            async with places.taken("b"):
                raise AssertionError

        async with places.taken("a"):
            task = asyncio.create_task(have())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with places.taken("c"):
            pass

    run(act)


@pytest.mark.parametrize(
    "notes, rate, below",
    [
        ([(10, 59.0)], 1.0, False),  # not a minute yet
        ([(10, 61.0)], 1.0, True),
        ([(61, 61.0)], 1.0, False),
        ([(10_000, 1.0), *[(0, 1.0)] * 70], 1.0, True),  # fast once, and slow for a minute
        ([*[(0, 1.0)] * 300, *[(10, 1.0)] * 70], 5.0, False),  # slow once
        ([(100 * KIB, 1.0)] * 200, 64.0 * KIB, False),
        ([(1331, 1.0)] * 200, 64.0 * KIB, True),
        ([(1331, 1.0)] * 200, 1.0 * KIB, False),
        ([(MIB, 0.0)] * 200, 64.0 * KIB, False),  # never waited for
    ],
)
def test_the_pace_is_that_of_the_last_minute_in_which_one_was_waited_for(
    notes: list[tuple[int, float]], rate: float, below: bool
) -> None:
    pace = Pace()
    for count, seconds in notes:
        pace.note(count, seconds=seconds)
    assert pace.is_below(rate) is below
