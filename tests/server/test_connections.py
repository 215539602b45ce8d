"""Strangers who take connections, memory and turns: each test is the attacker, and an honest client beside him."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_kit import ask, connect, read_all, split
from served_kit import Served, make_user

from dalsegno import __version__
from dalsegno.server import gate
from dalsegno.terms.sizes import MIB
from kit import writable
from server_kit import Server, start_server

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
TINY = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"


def push(server: Server, data: bytes, *, times: int, count: int = 8) -> int:
    """Send `data` again and again over some connections, reading nothing; return how often it went out."""
    sent = 0
    socks = [connect(server) for _ in range(count)]
    for sock in socks:
        sock.setblocking(False)
    left = dict.fromkeys(socks, times)
    while left:
        ready = writable(left, 0.5)
        for sock in ready:
            try:
                sent += sock.send(data)
                left[sock] -= 1
            except BlockingIOError:
                continue
            except OSError:
                left[sock] = 0
        left = {sock: more for sock, more in left.items() if more}
        if not ready:
            break
    for sock in socks:
        sock.close()
    return sent


def test_requests_sent_without_reading_the_answers_take_no_memory(served: Served) -> None:
    """The kind of fault: a queue whose length somebody else chooses."""
    before = served.server.memory_peak_bytes()
    push(served.server, TINY * 9000, times=10)
    site = served.server.site(served.token)
    assert site.state("home").name == "home"
    assert served.server.memory_peak_bytes() < before + 24 * MIB


def test_bodies_behind_a_running_request_take_no_memory(served: Served) -> None:
    """The kind of fault: what waits for its turn is read on and on."""
    before = served.server.memory_peak_bytes()
    head = served.server.site(served.token).state("home").head.hex()
    watch = f"GET /v1/volumes/home/watch?seconds=20&head={head} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n\r\n"
    put = b"PUT /v1/dumps/" + b"4" * 32 + b"?offset=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    socks = [connect(served.server) for _ in range(32)]
    for sock in socks:
        sock.sendall(watch.encode())
        sock.setblocking(False)
    for _ in range(4):
        for sock in socks:
            try:
                sock.send(put + bytes(1_000_000))
            except BlockingIOError:
                continue
    assert ask(served.server, "GET", "/v1/server", token=served.token)[0] == 200
    assert served.server.memory_peak_bytes() < before + 32 * MIB
    for sock in socks:
        sock.close()


def test_more_waiting_requests_than_allowed_end_the_connection(served: Served) -> None:
    with connect(served.server) as sock:
        sock.sendall(HEALTH * 9)  # one is answered, eight wait
        data = b""
        while data.count(b"HTTP/1.1 200") < 9:
            data += sock.recv(65536)
        sock.sendall(HEALTH * 40)
        assert read_all(sock).count(b"HTTP/1.1 ") < 40
    assert ask(served.server, "GET", "/health")[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        "Host: x\r\nTransfer-Encoding: identity, chunked",
        "Host: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: x\r\nTransfer-Encoding: chunked, chunked",
        "Host: x\r\nTransfer-Encoding: gzip, chunked",
        "Host: x\r\nTransfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked",
        "Host: x\r\nHost: y\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_head_that_others_may_read_in_another_way_is_refused(served: Served, head: str) -> None:
    """The kind of fault: two readers of one request who disagree where it ends."""
    with connect(served.server) as sock:
        sock.sendall(
            f"POST /v1/volumes/home/have HTTP/1.1\r\n{head}\r\nAuthorization: Bearer {served.token}\r\n\r\n"
            "0\r\n\r\n".encode("latin-1")
        )
        sock.shutdown(socket.SHUT_WR)
        assert split(read_all(sock))[0] == 400


def test_an_old_client_needs_no_host(served: Served) -> None:
    with connect(served.server) as sock:
        sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert split(read_all(sock))[0] == 200
    with connect(served.server) as sock:
        sock.sendall(b"GET /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert split(read_all(sock))[0] == 400


# Who gets a connection


FEW = {
    "STRANGERS_OF_ADDRESS_MAX": 8,
    "NEWCOMERS_OF_ADDRESS_MAX": 8,
    "STRANGER_RATE": 1000.0,
    "HEAD_SECONDS": 600,
    "HANDSHAKE_SECONDS": 600,
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def small(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server with few places for strangers, who may keep them as long as they like."""
    user = make_user(tmp_path_factory.mktemp("small") / "home")
    with start_server(user, tls=request.param, limits=FEW) as server:
        yield Served(server, server.token("read"))


def test_a_stranger_who_holds_connections_keeps_nobody_out(small: Served) -> None:
    """The kind of fault: who comes first keeps what he never uses."""
    site = small.server.site(small.token)
    assert site.state("home").name == "home"
    idle = [connect(small.server) for _ in range(40)]
    ended = [sock for sock in idle if is_ended(sock)]
    assert len(ended) >= 30 and set(ended) <= set(idle[:34])
    assert site.state("home").name == "home"  # over the connection that it had
    assert small.server.site(small.token).state("home").name == "home"
    for sock in idle:
        sock.close()


def is_ended(sock: socket.socket) -> bool:
    """Tell whether the server ended a connection, within a moment."""
    sock.settimeout(0.1)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_an_office_behind_one_address_is_no_stranger(small: Served) -> None:
    """Fifty clients with tokens over one address, while somebody there holds all places of strangers."""
    clients = []
    for number in range(50):
        if number % 10 == 0:
            clients += [small.server.site("x")]
            held = [connect(small.server) for _ in range(8)]
        site = small.server.site(small.token)
        assert site.state("home").name == "home"
        clients.append(site)
    for site in clients:
        if site.client._token == small.token:
            connections = site.client.connections
            with connections._lock:
                assert len(connections._idle) == 1  # none of them had to connect anew
            assert connections.take_idle() is not None
    for sock in held:
        sock.close()


def test_strangers_who_take_no_answers_keep_nobody_out(small: Served) -> None:
    if small.server.url.startswith("https"):
        pytest.skip("the same without TLS")
    socks = [connect(small.server) for _ in range(8)]
    for sock in socks:
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
    assert ask(small.server, "GET", "/health")[0] == 200
    assert ask(small.server, "GET", "/v1/volumes/home/state", token=small.token)[0] == 200
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("reserved", [512, 0])
def test_a_server_with_few_descriptors_goes_on(tmp_path: Path, reserved: int) -> None:
    """The kind of fault: a bound that is larger than what the system gives."""
    user = make_user(tmp_path / "home")
    few = {"STRANGERS_OF_ADDRESS_MAX": 10_000, "CONNECTIONS_OF_ADDRESS_MAX": 10_000, "FILES_RESERVED": reserved}
    with start_server(user, limits=few, prefix=("prlimit", "--nofile=200:200")) as server:
        token = server.token("read")
        socks = [connect(server) for _ in range(300)]
        for _ in range(3):
            assert ask(server, "GET", "/health")[0] == 200
            assert server.site(token).state("home").name == "home"
        for sock in socks:
            sock.close()


def test_a_server_raises_its_own_limit_of_descriptors(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, prefix=("prlimit", "--nofile=300:4000")) as server:
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0] == gate.FILES_WANTED


@pytest.mark.parametrize("files, count", [(20, 16), (200, 100), (1024, 512), (2560, 2048), (10**6, 2048)])
def test_connections_leave_room_for_the_pools_files(files: int, count: int) -> None:
    assert gate.connections_allowed(files) == count


@pytest.mark.parametrize(
    "address, source",
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_who_has_a_network_of_addresses_counts_once(address: str, source: str) -> None:
    assert gate.source_of(address) == source


# How often strangers may ask


def test_whatever_a_stranger_is_refused_counts(tmp_path: Path) -> None:
    """The kind of fault: a limit that is looked at behind a door that has a window beside it."""
    user = make_user(tmp_path / "home")
    with start_server(user, limits={"STRANGER_RATE": 0.001, "BURST_SECONDS": 6000.0}) as server:
        token = server.token("read")
        for method, path, headers in (
            ("GET", "/nothing", {}),
            ("DELETE", "/v1/server", {}),
            ("GET", "/v1/server", {"Dal-Protocol": "0"}),
            ("GET", "/v1/server", {}),
            ("GET", "/openapi.json", {}),
            ("GET", "/openapi.json", {}),
        ):
            assert ask(server, method, path, headers=headers)[0] != 429
        for method, path, headers in (
            ("GET", "/nothing", {}),
            ("DELETE", "/v1/server", {}),
            ("GET", "/v1/server", {"Dal-Protocol": "0"}),
            ("GET", "/v1/server", {}),
            ("GET", "/openapi.json", {}),
        ):
            status, answer, _ = ask(server, method, path, headers=headers)
            assert (status, answer["connection"]) == (429, "close")
        with connect(server) as sock:
            sock.sendall(b"no HTTP\r\n\r\n")
            assert read_all(sock) == b""
        # Who guesses tokens takes nothing from the monitors beside him, nor from who has a token.
        assert ask(server, "GET", "/health")[0] == 200
        for path, status in (("/v1/server", 200), ("/nothing", 404), ("/v1/states?x=1", 400)):
            assert ask(server, "GET", path, token=token)[0] == status
        assert ask(server, "GET", "/v1/server", token=token, headers={"Dal-Protocol": "0"})[0] == 426


def test_a_flood_of_strangers_does_not_fill_the_log(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, limits={"STRANGER_RATE": 0.001, "BURST_SECONDS": 2000.0, "LOGGED_RATE": 0.0001}) as server:
        for _ in range(50):
            ask(server, "GET", "/nothing")
        assert ask(server, "GET", "/v1/server", token=server.token("read"))[0] == 200
        lines = [line for line in server.log() if line["event"] == "request"]
        assert [line["status"] for line in lines] == [404, 404, 429, 200]
        assert lines[-1]["unlogged"] == 47


def test_strangers_learn_no_version_of_the_program(served: Served) -> None:
    assert __version__.encode() not in ask(served.server, "GET", "/openapi.json")[2]


def test_a_token_in_a_path_is_in_no_log(served: Served) -> None:
    """The kind of fault: what is secret in one place is logged when it stands in another."""
    secret = served.token.rpartition("_")[2]
    begin = "/v1/volumes/" + "x" * 330
    for path in (f"/v1/{served.token}", f"/{served.token}/x", f"{begin}{served.token}", f"/%64al{served.token[3:]}"):
        for token in ("", served.token):
            assert ask(served.server, "GET", path, token=token)[0] in (400, 404)
    text = served.server.log_path.read_text()
    assert served.token[:21] in text and secret[:12] not in text
