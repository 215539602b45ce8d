"""What strangers, old clients and enemies send: a clear refusal, and nothing has changed."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import http_kit
import pytest
from http_kit import ask, ask_over, connect, problem, read_all, split
from served_kit import Served, make_user

from dalsegno.terms.errors import Damaged, NoAccess, NotFound, TooNew
from dalsegno.terms.sizes import MIB
from server_kit import Server, start_server


@pytest.fixture(autouse=True)
def unchanged(served: Served) -> Iterator[None]:
    """Nothing that is refused changes anything."""
    pool = served.user.home / "pool"
    before = snapshot(pool)
    yield
    assert snapshot(pool) == before


def snapshot(pool: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(pool)): path.read_bytes()
        for path in sorted(pool.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock") and "tokens" not in str(path) and "index" not in str(path)
    }


STATE = "/v1/volumes/home/state"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "%2e%2e",
        "%2E%2E%2f%2E%2E%2fetc%2fpasswd",
        "../../etc/passwd",
        "..%2f..%2frefs",
        "%00",
        "home%00",
        "home%0a",
        "home%0d%0aX-Evil:%20yes",
        "home%2fstate%2f..",
        "home/../home",
        "%5c..%5c..",
        "%c0%ae%c0%ae",
        "%ff%fe",
        "home%20",
        "~root",
        "a" * 201,
        "%25%32%65",
        "home@daily",
        "home:",
        "*",
        "%2A",
        "",
        "//",
        "%E2%80%AE",
    ],
)
def test_path_tricks_in_volume_names_are_refused(served: Served, name: str) -> None:
    for method, call, body in (("GET", "state", None), ("POST", "remove", b""), ("GET", "dump", None)):
        status, headers, answer = ask(
            served.server, method, f"/v1/volumes/{name}/{call}", token=served.token, body=body
        )
        assert status in (400, 404, 405), (name, status)
        problem(answer)
        assert "x-evil" not in headers


@pytest.mark.parametrize(
    "upload", ["..", "%2e%2e", "0" * 31, "0" * 33, "g" * 32, "A" * 32, "%00" * 32, "../" * 8, "0" * 5000]
)
def test_path_tricks_in_upload_names_are_refused(served: Served, upload: str) -> None:
    for where in ("volumes/home/uploads", "dumps"):
        status, _, answer = ask(
            served.server, "PUT", f"/v1/{where}/{upload}?offset=0", token=served.token, body=b"bytes"
        )
        assert status in (400, 404)
        problem(answer)


def test_an_old_protocol_version_is_told_so(served: Served) -> None:
    for version in ("0", "2", "1.0", "x" * 1000):
        status, headers, answer = ask(
            served.server, "GET", STATE, token=served.token, headers={"Dal-Protocol": version}
        )
        assert status == 426 and headers["upgrade"] == "dal/1"
        assert "version 1" in problem(answer)["message"]
    assert ask(served.server, "GET", STATE, token=served.token, headers={"Dal-Protocol": "1"})[0] == 200
    assert ask(served.server, "GET", STATE, token=served.token)[0] == 200


def test_a_token_for_another_volume_opens_nothing_here(served: Served) -> None:
    token = served.server.token("write", volumes=("work*",))
    with pytest.raises(NoAccess):
        served.server.site(token).state("home")
    with pytest.raises(NotFound):
        served.server.site(token).state("work")
    assert served.server.site(token).states() == []
    for method, call, body in (
        ("GET", "state", None),
        ("GET", "dump", None),
        ("POST", "objects", bytes(32)),
        ("POST", "have", bytes(32)),
        ("POST", "advance", b'{"revision": "%s"}' % (b"00" * 32)),
        ("POST", "freeze", b'{"owner": "me"}'),
        ("GET", "watch?seconds=0", None),
    ):
        status, _, answer = ask(served.server, method, f"/v1/volumes/home/{call}", token=token, body=body)
        assert status == 403
        assert problem(answer)["code"] == "no-access"


@pytest.mark.parametrize("token", ["", "x", "dal_0123456789abcdef_" + "A" * 43, "dal_" + "0" * 16 + "_" + "A" * 43])
def test_without_a_token_that_opens_something_there_is_no_answer(served: Served, token: str) -> None:
    for path in ("/v1/server", "/v1/key", "/v1/states", STATE, "/metrics", "/v1/tokens", "/v1/realm"):
        status, headers, answer = ask(served.server, "GET", path, token=token)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert problem(answer)["code"] == "no-access"
    assert ask(served.server, "GET", "/health")[0] == 200


def test_a_secret_that_differs_in_one_character_opens_nothing(served: Served) -> None:
    for place in (-1, -20, -43):
        changed = "A" if served.token[place] != "A" else "B"
        text = served.token[:place] + changed + (served.token[place + 1 :] if place != -1 else "")
        assert ask(served.server, "GET", STATE, token=text)[0] == 401


def test_an_unknown_path_is_not_found_and_a_wrong_method_is_said(served: Served) -> None:
    for path in ("/", "/v1", "/v2/states", "/v1/volumes", "/v1/states/", "/static/../etc/passwd", "//v1/server"):
        status, _, answer = ask(served.server, "GET", path, token=served.token)
        assert status == 404
        problem(answer)
    for method in ("DELETE", "POST", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND"):
        status, headers, _ = ask(served.server, method, STATE, token=served.token)
        assert (status, headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"revision": 5}',
        b'{"revision": "zz"}',
        b'{"revision": "%s"}' % (b"AA" * 32),
        b'{"revision": "%s"}' % (b"00" * 31),
        b'{"revision": "%s", "force": true}' % (b"00" * 32),
        b'{"revision": "%s", "owner": null}' % (b"00" * 32),
        b'{"revision": "%s", "owner": "%s"}' % (b"00" * 32, b"x" * 300),
        b'{"revision": "\\ud800"}',
        b"\xff\xfe{}",
        b"[" * 500_000,
        b'{"a":' * 200_000,
        b"9" * 1_000_000,
        b'{"revision": "' + b"00" * 900_000 + b'"}',
    ],
)
def test_a_body_that_is_no_message_is_refused(served: Served, body: bytes) -> None:
    status, _, answer = ask(served.server, "POST", "/v1/volumes/home/advance", token=served.token, body=body)
    assert status == 400
    assert problem(answer)["code"] == "bad-input"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "offset=-1",
        "offset=1.5",
        "offset=x",
        "offset=",
        "offset=99999999999999999999999",
        "offset=0&offset=1",
        "offset=0&force=1",
        "offset",
        "&&",
        "offset=%ff",
        "offset=%D9%A1",
        "=".join("a" * 300),
    ],
)
def test_a_query_that_is_none_is_refused(served: Served, query: str) -> None:
    path = f"/v1/volumes/home/uploads/{'0' * 32}?{query}"
    status, _, answer = ask(served.server, "PUT", path, token=served.token, body=b"x")
    assert status == 400
    assert problem(answer)["code"] == "bad-input"


def test_a_body_larger_than_its_call_allows_is_refused_before_it_is_read(served: Served) -> None:
    for path, size in (("advance", 3 * MIB), ("have", MIB), ("objects", MIB), ("create", 9 * MIB)):
        status, _, answer = ask(
            served.server,
            "POST",
            f"/v1/volumes/home/{path}",
            token=served.token,
            headers={"Content-Length": str(size)},
        )
        assert status == 413
        assert "allowed" in problem(answer)["message"]


def test_a_chunked_body_is_counted_as_it_comes(served: Served) -> None:
    with connect(served.server) as sock:
        sock.sendall(
            b"POST /v1/volumes/home/have HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer " + served.token.encode() + b"\r\n\r\n"
        )
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        sent = 0
        try:
            while sent < 100 * MIB:
                sock.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        status, _, _ = split(read_all(sock) or b"HTTP/1.1 413 x\r\n\r\n")
    assert status == 413 and sent < 100 * MIB


def test_forged_objects_and_stale_heads_change_nothing(served: Served) -> None:
    site = served.server.site(served.token)
    head = site.state("home").head
    upload = os.urandom(16)
    site.upload("home", upload, 0, [os.urandom(5000)])
    with pytest.raises(Damaged):
        site.adopt("home", [upload])
    with pytest.raises((Damaged, TooNew)):  # as the random version says
        site.commit("home", bytes(32), os.urandom(16), [b"DALSEGNO" + os.urandom(500)])
    with pytest.raises(NotFound):
        site.advance("home", os.urandom(32))
    assert site.advance("home", head).head == head  # the same again
    for path in (served.user.home / "pool" / "uploads").rglob("*.partial"):
        path.unlink()  # what was refused waits for gc


# The head of a request


def test_a_ten_gigabyte_header_eats_no_memory(served: Served) -> None:
    before = served.server.memory_peak_bytes()
    for begin, piece in (
        (b"GET /health HTTP/1.1\r\nX-Long: ", b"a" * 65536),
        (b"GET /health HTTP/1.1\r\n", b"X-Many: " + b"b" * 56 + b"\r\n"),
        (b"GET /", b"c" * 65536),
        (b"GET /health HTTP/1.1\r\n", b"d" * 65536),
        (b"", b"E" * 65536),
    ):
        sent = 0
        with connect(served.server) as sock:
            sock.sendall(begin)
            try:
                while sent < 10_000 * MIB:
                    sock.sendall(piece)
                    sent += len(piece)
            except OSError:
                pass
            answer = read_all(sock)
        assert sent < 64 * MIB
        if answer:
            assert split(answer)[0] in (400, 431)
            problem(split(answer)[2])
    assert served.server.memory_peak_bytes() < before + 32 * MIB


def test_endless_trailers_and_endless_framing_eat_no_memory(served: Served) -> None:
    before = served.server.memory_peak_bytes()
    head = (
        b"PUT /v1/dumps/" + b"0" * 32 + b"?offset=0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Authorization: Bearer " + served.token.encode() + b"\r\n\r\n"
    )
    for piece in (b"1;" + b"x" * 65000 + b"\r\ny\r\n", b"0\r\nX-Trailer: " + b"z" * 65000, b"X-Trailer: z\r\n" * 5000):
        sent = 0
        with connect(served.server) as sock:
            sock.sendall(head + (b"0\r\n" if piece.startswith(b"X") else b""))
            try:
                while sent < 1000 * MIB:
                    sock.sendall(piece)
                    sent += len(piece)
            except OSError:
                pass
            read_all(sock)
        assert sent < 64 * MIB
    assert served.server.memory_peak_bytes() < before + 32 * MIB
    folder = served.user.home / "pool" / "incoming"

    def is_forgotten() -> bool:  # those that were cut off may still be at their last piece
        ask(served.server, "DELETE", "/v1/dumps/" + "0" * 32, token=served.token)
        return not folder.exists() or not list(folder.iterdir())

    wait_for(is_forgotten)


def test_more_headers_than_anybody_needs_are_refused(served: Served) -> None:
    status, _, answer = ask(served.server, "GET", "/health", headers={f"X-{n}": "y" for n in range(100)})
    assert status == 431
    problem(answer)


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/volumes/home/have HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nNo colon here\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 1000,
    ],
)
def test_what_is_no_http_is_refused(served: Served, text: bytes) -> None:
    with connect(served.server) as sock:
        sock.sendall(text)
        sock.shutdown(1)
        answer = read_all(sock)
    assert not answer or 400 <= split(answer)[0] < 500, answer
    assert b"Traceback" not in answer and b"Internal" not in answer


def test_a_request_hidden_in_the_body_of_a_refused_one_is_not_done(served: Served) -> None:
    hidden = b"POST /v1/volumes/home/remove HTTP/1.1\r\nAuthorization: Bearer " + served.token.encode() + b"\r\n\r\n"
    with connect(served.server) as sock:
        sock.sendall(
            b"POST /v1/volumes/home/have HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden
        )
        sock.shutdown(1)
        answer = read_all(sock)
    assert answer.count(b"HTTP/1.1 ") == 1 and split(answer)[0] == 401
    assert served.server.site(served.token).state("home").name == "home"


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    with connect(served.server) as sock:
        sock.sendall(
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/server HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = read_all(sock)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401", b"200"]


# Slow clients


QUICK = {"HEAD_SECONDS": 1, "BODY_IDLE_SECONDS": 1, "PACE_SECONDS": 1, "KEEP_ALIVE_SECONDS": 2}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that waits a second for what others wait a minute for."""
    user = make_user(tmp_path_factory.mktemp("impatient") / "home")
    with start_server(user, limits=QUICK) as server:
        yield Served(server, server.token("administer"))


def drip(server: Server, begin: bytes, piece: bytes, *, count: int = 8) -> list[bytes]:
    """Open many connections that say a little now and then; return what each was answered when it was ended."""
    socks = [connect(server) for _ in range(count)]
    heard = dict.fromkeys(socks, b"")
    for sock in socks:
        sock.sendall(begin)
    live = set(socks)
    while live:
        for sock in list(live):
            sock.settimeout(0.05)
            try:
                if piece:
                    sock.sendall(piece)
                data = sock.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            heard[sock] += data
            if not data:
                live.discard(sock)
                sock.close()
    return [data for data in heard.values() if data]


@pytest.mark.parametrize(
    "begin, piece",
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET /health HTTP/1.1\r\nX-Slow: ", b"a"),
        (b"G", b""),
        (b"\r\n", b"\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    ],
)
def test_slow_loris_is_cut_off(impatient: Served, begin: bytes, piece: bytes) -> None:
    drip(impatient.server, begin, piece)
    assert ask(impatient.server, "GET", "/health")[0] == 200


@pytest.mark.parametrize("path", ["volumes/home/have", "volumes/home/advance"])
def test_a_body_that_does_not_come_is_given_up(impatient: Served, path: str) -> None:
    head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nAuthorization: Bearer {impatient.token}\r\n\r\n"
    answers = drip(impatient.server, head.encode() + b"abc", b"")
    assert answers and all(split(answer)[0] == 408 for answer in answers)


def test_an_upload_that_crawls_holds_nothing_for_long(impatient: Served) -> None:
    head = (
        f"PUT /v1/volumes/home/uploads/{'1' * 32}?offset=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        f"Authorization: Bearer {impatient.token}\r\n\r\n"
    )
    answers = drip(impatient.server, head.encode(), b"x", count=40)  # more than there are threads
    assert all(split(answer)[0] == 408 for answer in answers)
    assert impatient.server.site(impatient.token).state("home").name == "home"


def test_a_client_that_takes_nothing_is_cut_off(impatient: Served) -> None:
    big = impatient.user.home / "big"
    big.mkdir(exist_ok=True)
    for number in range(20):
        (big / str(number)).write_bytes(os.urandom(MIB))
    impatient.user.quick("volume", "create", "big")
    impatient.user.quick("import", "big", str(big))
    with connect(impatient.server) as sock:
        sock.sendall(
            b"GET /v1/volumes/big/dump HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + impatient.token.encode()
            + b"\r\n\r\n"
        )
        wait_for(lambda: any(line["status"] == 499 and "big" in line["path"] for line in requests(impatient.server)))


def requests(server: Server) -> list[dict[str, Any]]:
    return [line for line in server.log() if line["event"] == "request"]


def wait_for(condition: Any) -> None:
    """Wait for what comes by itself."""
    end = time.monotonic() + http_kit.PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_strangers_are_limited_and_tokens_are_not(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, limits={"STRANGER_RATE": 1.0, "BURST_SECONDS": 5.0}) as server:
        token = server.token("read")
        answers = [ask(server, "GET", STATE, token="x") for _ in range(20)]
        assert {status for status, _, _ in answers} == {401, 429}
        for status, headers, body in answers:
            if status == 429:
                assert int(headers["retry-after"]) >= 1
                problem(body)
        assert ask(server, "GET", STATE, token=token)[0] == 200


def test_a_token_that_asks_too_often_waits(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, "--rate", "2", limits={"BURST_SECONDS": 2.0}) as server:
        token = server.token("read")
        statuses = [ask(server, "GET", STATE, token=token)[0] for _ in range(12)]
        assert {200, 429} == set(statuses)
        site = server.site(token)
        for _ in range(4):
            assert site.state("home").name == "home"  # which waits as it is told


def test_of_too_many_connections_the_oldest_idle_ones_end_and_the_others_go_on(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, limits={"CONNECTIONS_MAX": 20}) as server:
        site = server.site(server.token("read"))
        assert site.state("home").name == "home"
        socks = [connect(server) for _ in range(40)]
        assert all(read_all(sock) == b"" for sock in socks[:20])
        assert site.state("home").name == "home"
        assert ask_over(socks[-1], "/health")[0] == 200
        for sock in socks:
            sock.close()


def test_one_address_and_one_token_leave_room_for_others(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    few = {"CONNECTIONS_OF_ADDRESS_MAX": 10, "WATCHES_OF_TOKEN_MAX": 3}
    with start_server(user, limits=few) as server:
        mine, others = server.token("read"), server.token("read")
        other = server.site(others)
        head = other.state("home").head
        watch = f"GET /v1/volumes/home/watch?seconds=60&head={head.hex()} HTTP/1.1\r\nHost: x\r\n"
        socks = [connect(server) for _ in range(3)]
        for sock in socks:
            sock.sendall(f"{watch}Authorization: Bearer {mine}\r\n\r\n".encode())
        wait_for(lambda: b"dalsegno_watches_running 3\n" in ask(server, "GET", "/metrics", token=others)[2])
        assert ask(server, "GET", f"/v1/volumes/home/watch?seconds=0&head={head.hex()}", token=mine)[0] == 429
        assert other.watch("home", head, seconds=0).head == head
        other.close()
        idle = [connect(server) for _ in range(7)]
        assert ask(server, "GET", "/health")[0] == 200  # the idle ones lose their places
        for sock in (*socks, *idle):
            sock.close()


def test_secrets_are_in_no_log_and_no_file(served: Served) -> None:
    secret = served.token.rpartition("_")[2]
    ask(served.server, "GET", f"/v1/states?token={served.token}", token=served.token)
    ask(served.server, "GET", f"/v1/volumes/{served.token}/state", token=served.token)
    ask(served.server, "GET", f"/{served.token}")
    served.server.site(served.token).key()
    text = served.server.log_path.read_text()
    assert secret not in text
    for path in (served.user.home / "pool").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes()
    realm_secret = json.loads(ask(served.server, "GET", "/v1/key", token=served.token)[2])["secret"]
    assert realm_secret not in text


def test_a_tls_client_that_never_shakes_hands_is_cut_off(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, tls=True, limits={"HANDSHAKE_SECONDS": 1}) as server:
        for begin in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
            drip(server, begin, b"", count=4)
        assert server.site(server.token("read")).state("home").name == "home"
