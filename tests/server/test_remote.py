"""A RemoteSite before servers that die, lie, stall, and speak something else."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from served_kit import Served, make_user

from dalsegno.replicas import calls, wire
from dalsegno.replicas.connections import ConnectionPool, Patience
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import (
    BadInput,
    Conflict,
    DalError,
    Damaged,
    Diverged,
    Full,
    Moved,
    NoAccess,
    NotFound,
    Refused,
    Unavailable,
)
from server_kit import start_server

HEADERS = "Content-Type: application/json\r\n"
Behaviour = Callable[[socket.socket, bytes], None]


@contextmanager
def server_that(*behaviours: Behaviour) -> Iterator[tuple[str, list[bytes]]]:
    """Listen; each request meets the next behaviour, the last one again and again. Yields the URL and the requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []
    waiting = list(behaviours)

    def serve_connection(sock: socket.socket) -> None:
        with sock:
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    try:
                        more = sock.recv(65536)
                    except OSError:
                        return
                    if not more:
                        return
                    head += more
                requests.append(head)
                behaviour = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                try:
                    behaviour(sock, head)
                except (OSError, ValueError):
                    return
                if sock.fileno() < 0:
                    return

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_connection, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answers(status: int, body: bytes, headers: str = HEADERS) -> Behaviour:
    def behave(sock: socket.socket, head: bytes) -> None:
        sock.sendall(f"HTTP/1.1 {status} Something\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return behave


def says(data: bytes, *, hang_up: bool = True) -> Behaviour:
    def behave(sock: socket.socket, head: bytes) -> None:
        sock.sendall(data)
        if hang_up:
            sock.close()

    return behave


def stalls(sock: socket.socket, head: bytes) -> None:
    sock.recv(1)


def fails(code: str, **more: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": "said so"}, **more}).encode()


INFO = b'{"name":"s1","version":"1","protocol":"1","realm":"%s","now_ns":1}' % (b"00" * 16)
GOOD = answers(200, INFO)


@pytest.mark.parametrize(
    "status, code, kind",
    [
        (404, "not-found", NotFound),
        (409, "conflict", Conflict),
        (409, "diverged", Diverged),
        (422, "refused", Refused),
        (422, "damaged", Damaged),
        (400, "bad-input", BadInput),
        (403, "no-access", NoAccess),
        (401, "no-access", NoAccess),
        (503, "unavailable", Unavailable),
        (507, "full", Full),
        (421, "moved", Moved),
        (500, "internal", DalError),
        (500, "an error of tomorrow", DalError),
    ],
)
def test_errors_become_themselves_again(status: int, code: str, kind: type[DalError]) -> None:
    with server_that(answers(status, fails(code))) as (url, _):
        with pytest.raises(kind, match="said so") as caught:
            RemoteSite(url, "x", name="s1").state("home")
        assert type(caught.value) is kind


def test_a_volume_that_moved_says_where() -> None:
    body = fails("refused", moved_to={"name": "s2", "url": "https://s2:8420"})
    with server_that(answers(421, body)) as (url, _), pytest.raises(Moved) as caught:
        RemoteSite(url, "x").state("home")
    assert caught.value.server == "s2"


@pytest.mark.parametrize("status", [301, 302, 404, 407, 418, 500, 502, 504])
def test_answers_of_something_between_are_errors_too(status: int) -> None:
    with server_that(answers(status, b"<html>proxy</html>", "Location: http://elsewhere/\r\n")) as (url, requests):
        with pytest.raises(DalError) as caught:
            RemoteSite(url, "secret-token").state("home")
        assert str(status) in str(caught.value) and "secret-token" not in str(caught.value)
        assert len(requests) == 1  # and the token goes nowhere else


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<p>Hi</p>",
    ],
)
def test_a_lost_or_strange_answer_is_unavailable(data: bytes) -> None:
    with server_that(says(data)) as (url, _):
        site = RemoteSite(url, "x", name="s1")
        for call in (site.server, lambda: site.state("home"), lambda: site.commit("home", bytes(32), b"", [])):
            with pytest.raises((Unavailable, BadInput)):
                call()


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_a_stream_that_is_cut_short_is_never_taken_for_whole(kind: str) -> None:
    rows = bytes(36 * 100)
    length = b"HTTP/1.1 200 OK\r\nContent-Length: 7200\r\n\r\n" + rows
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(rows) + rows + b"\r\n"
    with server_that(says(length if kind == "length" else chunked)) as (url, _):
        site = RemoteSite(url, "x", name="s1")
        for call in (site.missing("home", [bytes(32)], []), site.objects("home", bytes(32)), site.dump("home")):
            with pytest.raises(Unavailable):
                list(call)


def test_a_server_that_says_nothing_is_given_up() -> None:
    with server_that(stalls) as (url, _):
        site = RemoteSite(url, "x", patience=Patience(answer_seconds=0.2))
        with pytest.raises(Unavailable, match="in time"):
            site.state("home")


def test_nobody_there_is_noticed_at_once_or_in_the_time_to_connect() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="refused"):
            RemoteSite(f"http://127.0.0.1:{sock.getsockname()[1]}", "x").state("home")
    with pytest.raises(Unavailable):
        RemoteSite("http://no.such.host.invalid:1", "x").state("home")
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    held = []
    try:
        for _ in range(3):  # a backlog that is full: packets are dropped, as by a network that is cut
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            held.append(sock)
        with pytest.raises(Unavailable, match="in time"):
            RemoteSite(f"http://127.0.0.1:{full.getsockname()[1]}", "x", patience=Patience(connect_seconds=0.3)).state(
                "home"
            )
    finally:
        for sock in (*held, full):
            sock.close()


def test_a_connection_that_the_server_closed_meanwhile_is_opened_anew() -> None:
    def once(sock: socket.socket, head: bytes) -> None:
        GOOD(sock, head)
        sock.close()

    with server_that(once) as (url, requests):
        site = RemoteSite(url, "x")
        for _ in range(5):
            assert site.server().name == "s1"
        assert len(requests) == 5


def test_a_request_that_met_a_closing_connection_comes_again() -> None:
    with server_that(GOOD, says(b""), GOOD) as (url, requests):
        site = RemoteSite(url, "x")
        assert site.server().name == "s1"
        assert site.server().name == "s1"  # on the kept connection: hung up on without a word; then anew
        assert len(requests) == 3


def test_connections_are_kept_and_used_again(served: Served) -> None:
    opened: list[Any] = []

    class Counting(ConnectionPool):
        def open(self) -> Any:
            opened.append(1)
            return super().open()

    site = RemoteSite.from_join(served.server.join(served.token))
    site.client.connections = Counting("127.0.0.1", served.server.port, tls=False, fingerprint="", patience=Patience())
    for _ in range(10):
        site.state("home")
        site.have("home", bytes(32))
        with pytest.raises(NotFound):
            site.state("nobody")
        b"".join(site.dump("home"))
    assert len(opened) == 1
    with pytest.raises(NotFound):
        site.upload("nobody", bytes(16), 0, [b"x"])
    stream = site.dump("home")
    next(stream)
    site.state("home")
    stream.close()
    site.state("home")
    assert len(opened) <= 3
    site.close()


def test_a_server_that_is_busy_is_asked_again() -> None:
    busy = answers(429, fails("unavailable"), HEADERS + "Retry-After: 0.01\r\n")
    with server_that(busy, busy, GOOD) as (url, requests):
        assert RemoteSite(url, "x").server().name == "s1"
        assert len(requests) == 3
    with server_that(busy) as (url, requests):
        with pytest.raises(Unavailable):
            RemoteSite(url, "x").server()
        assert len(requests) == 5


@pytest.mark.parametrize("seconds", ["nan", "-1", "-inf", "1e400", "soon"])
def test_a_time_to_wait_that_is_none_is_a_second(seconds: str) -> None:
    busy = answers(429, fails("unavailable"), HEADERS + f"Retry-After: {seconds}\r\n")
    with server_that(busy, GOOD) as (url, requests):
        assert RemoteSite(url, "x").server().name == "s1"
        assert len(requests) == 2


def test_what_a_server_says_is_one_line_that_moves_no_cursor() -> None:
    text = "\x1b]0;title\x07\x1b[2J\u202eover\nand out" + "!" * 50_000
    body = json.dumps({"error": {"code": "refused", "message": text}}).encode()
    with server_that(answers(422, body)) as (url, _), pytest.raises(Refused) as caught:
        RemoteSite(url, "x").state("home")
    assert str(caught.value).isprintable() and "over and out" in str(caught.value) and len(str(caught.value)) < 3000
    strange = says(b"HTTP/1.1 599 \x1b[2Jbad\r\nContent-Length: 0\r\n\r\n")
    with server_that(strange) as (url, _), pytest.raises(Unavailable) as lost:
        RemoteSite(url, "x").state("home")
    assert str(lost.value).isprintable()


def test_answers_of_another_length_than_the_question_are_none() -> None:
    with server_that(answers(200, b"\1")) as (url, _), pytest.raises(Unavailable):
        RemoteSite(url, "x", name="s1").have("home", bytes(64))
    key = b'{"realm": "", "secret": "00"}'
    with server_that(answers(200, key)) as (url, _), pytest.raises(Unavailable):
        RemoteSite(url, "x", name="s1").key()


def test_a_fingerprint_is_never_left_uncompared() -> None:
    with server_that(GOOD) as (url, requests):
        with pytest.raises(BadInput, match="fingerprint"):
            RemoteSite(url, "x", fingerprint="sha256:" + "0" * 64)
        assert requests == []


def test_a_refusal_in_the_middle_of_a_long_upload_is_heard() -> None:
    def refuse(sock: socket.socket, head: bytes) -> None:
        body = fails("full")
        sock.sendall(b"HTTP/1.1 507 Full\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
        sock.close()

    with server_that(refuse) as (url, _):
        site = RemoteSite(url, "x")
        with pytest.raises(Full):
            site.upload("home", bytes(16), 0, (bytes(100_000) for _ in range(200)))


def test_bytes_are_sent_as_they_are_whoever_counts_them(served: Served) -> None:
    site = served.server.site(served.token)
    data = bytes(range(256)) * 5000
    ways: list[Any] = [
        [data],
        (data[i : i + 7] for i in range(0, len(data), 7)),
        [b"", data, b""],
        iter([data[:1], b"", data[1:]]),
        tuple(data[i : i + 300_000] for i in range(0, len(data), 300_000)),
        (each for each in (b"", data)),
    ]
    for number, pieces in enumerate(ways):
        upload = bytes([number + 1]) * 16
        assert site.upload("home", upload, 0, pieces) == len(data), number
        (path,) = (served.user.home / "pool" / "uploads").rglob(f"*{upload.hex()}.partial")
        assert path.read_bytes() == data
    assert site.upload("home", b"e" * 16, 0, []) == 0
    assert site.upload("home", b"f" * 16, 0, iter([])) == 0


@pytest.mark.parametrize("url", ["", "s1", "ftp://s1", "https://", "https://s1/path", "http://s1:x", "http://[::1"])
def test_what_is_no_url_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput):
        RemoteSite(url, "x")


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "é", "a\nb"])
def test_a_token_that_is_none_is_never_sent(token: str) -> None:
    with pytest.raises(BadInput) as caught:
        RemoteSite("http://s1:1", token)
    assert token not in str(caught.value)


def test_a_volume_name_stays_one_part_of_the_path() -> None:
    with server_that(answers(404, fails("not-found"))) as (url, requests):
        site = RemoteSite(url, "x")
        for name in ("a/b", "../x", "a b", "é", "a?b#c", "%2f", "\r\nX: y"):
            with pytest.raises(NotFound):
                site.state(name)
        for request in requests:
            line = request.split(b"\r\n")[0].decode()
            assert line.count("/") == 5 and line.count(" ") == 2, line


def test_why_a_stream_was_cut_short_is_asked_for(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    (user.home / "source" / "picture").write_bytes(os.urandom(30_000_000))
    user.quick("import", "home", str(user.home / "source"))
    with start_server(user) as server:
        site = server.site(server.token("read"))
        head = site.state("home").head
        rows = b"".join(site.missing("home", [head], []))
        ids = b"".join(rows[start : start + 32] for start in range(0, len(rows), 36))
        for path in (user.home / "pool" / "packs").rglob("*.pack"):
            size = path.stat().st_size
            if size > 20_000_000:
                with open(path, "r+b") as file:
                    file.seek(size * 3 // 4)
                    file.write(b"damaged by a disk")
        # The dump first: it begins before it gets there. What is known to be damaged is refused, not begun.
        for call in (lambda: site.dump("home"), lambda: site.objects("home", ids)):
            with pytest.raises(Damaged, match=r"\.pack"):
                list(call())
        # The server writes its log after the answer has ended.
        deadline = time.monotonic() + 60
        while not (lines := [line for line in server.log() if line["event"] == "cut"]):
            assert time.monotonic() < deadline, "the log does not say that an answer was cut"
            time.sleep(0.01)
        # Nobody else hears of it.
        other = server.site(server.token("read"))
        with pytest.raises(NotFound):
            other.client.request(calls.FAILURE, request_id=lines[0]["request"])


def test_what_would_do_more_when_done_again_is_not_asked_again() -> None:
    with server_that(GOOD, says(b""), GOOD) as (url, requests):
        site = RemoteSite(url, "x")
        site.server()
        with pytest.raises(Unavailable):
            site.add_token(wire.NewToken(rights=["read"], volumes=["*"]))
        assert len(requests) == 2
