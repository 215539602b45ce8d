"""The life of a server: how it begins, what it refuses, how it stops and is killed."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from http_kit import ask, connect, read_all, split
from served_kit import Served, make_user

from cli_kit import User
from dalsegno.formats import pack
from dalsegno.formats.join import parse_join
from dalsegno.formats.objects import KIND_CHUNK
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import Pool
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.transfer import Spool
from dalsegno.server import tls
from dalsegno.terms.errors import Moved, NoAccess, NotFound, Unavailable
from dalsegno.terms.sizes import MIB
from dalsegno.volumes.state import ReplicaSet
from kit import REALM
from server_kit import Server, start_server

FREEZE = json.dumps({"owner": "me", "secret": "00" * 16}).encode()


def test_health_metrics_and_the_log(served: Served) -> None:
    status, headers, body = ask(served.server, "GET", "/health")
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert headers["content-type"] == "application/json" and "server" not in headers
    status, headers, body = ask(served.server, "GET", "/metrics", token=served.token)
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    text = body.decode()
    assert 'dalsegno_requests_total{call="health",status="200"}' in text
    for line in text.splitlines():
        assert line.startswith("# ") or (
            len(line.rpartition(" ")[0].split()) >= 1 and float(line.rpartition(" ")[2]) >= 0
        )
    status, headers, _ = ask(served.server, "GET", "/v1/volumes/home/state?token=x", token=served.token)
    (line,) = [line for line in served.server.log() if line.get("request") == headers["x-request-id"]]
    assert line["status"] == status == 400
    assert line["path"] == "/v1/volumes/home/state" and line["token"] == served.token.split("_")[1]
    assert {
        "time",
        "event",
        "request",
        "address",
        "token",
        "method",
        "path",
        "status",
        "received",
        "sent",
        "ms",
    } == set(line)


def test_a_taken_port_is_said_in_one_line(served: Served, tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    done = user.run("serve", "--no-tls", "--listen", f"127.0.0.1:{served.server.port}", code=7)
    assert "taken" in done.error and "--listen" in done.error


def test_one_server_for_one_pool(served: Served) -> None:
    assert "serves this pool already" in served.user.run("serve", "--listen", "127.0.0.1:0", code=7).error


@pytest.mark.parametrize(
    "words, code",
    [
        (("--listen", "here"), 2),
        (("--listen", "127.0.0.1:99999"), 2),
        (("--listen", "127.0.0.1:x"), 2),
        (("--listen", "::1:80"), 2),
        (("--listen", "no.such.host.invalid:1"), 2),
        (("--listen", "192.0.2.1:0"), 2),
        (("--name", "a b"), 2),
        (("--name", ""), None),
        (("--tls-cert", "x.pem"), 2),
        (("--tls-cert", "x.pem", "--tls-key", "x.key"), 6),
        (("--tls-cert", "source/doc/plan", "--tls-key", "source/doc/plan"), 2),
        (("--no-tls", "--tls", "self-signed"), 2),
        (("--no-tls", "--export-cert", "x"), 2),
        (("--stop-seconds", "x"), 2),
    ],
)
def test_words_that_no_server_begins_with(tmp_path: Path, words: tuple[str, ...], code: int | None) -> None:
    if code is None:
        pytest.skip("means the host's name")
    user = make_user(tmp_path / "home")
    more = () if "--listen" in words else ("--listen", "127.0.0.1:0")
    assert user.quick("serve", *words, *more, code=code).error


def test_a_pool_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    user = User(tmp_path / "home")
    assert "pool" in user.quick("serve", code=6).error


def test_without_the_extra_the_server_says_what_to_install(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    before = "import sys; sys.modules['starlette'] = None; sys.modules['starlette.datastructures'] = None"
    assert "-m pip install starlette uvicorn httptools" in user.quick("serve", code=9, before=before).error
    user.quick("token", "add", "--right", "read", before=before)


def test_other_commands_start_without_the_servers_libraries() -> None:
    code = (
        "import sys, importlib; from dalsegno.cli import main\n"
        "for name in {row[0] for row in main.COMMANDS.values()}: importlib.import_module('dalsegno.cli.' + name)\n"
        "bad = {'starlette', 'uvicorn', 'httptools'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source})


def test_its_certificate_is_had_while_it_runs(tmp_path: Path) -> None:
    """The kind of fault: what is wanted of something that runs cannot be had without stopping it."""
    user = make_user(tmp_path / "home")
    with start_server(user, tls=True, name="s3") as server:
        said = json.loads(user.quick("--json", "serve", "--export-cert", "cert.pem").out)
        assert said["fingerprint"] == server.fingerprint
        context = ssl.create_default_context(cafile=str(user.home / "cert.pem"))
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            context.wrap_socket(line, server_hostname="127.0.0.1").close()
        assert "another `dal serve`" in user.quick("serve", code=7).error
    with start_server(user, name="s3"):
        assert "without TLS" in user.quick("serve", "--export-cert", "none.pem", code=2).error
        assert not (user.home / "none.pem").exists()


def test_it_keeps_its_name_and_its_certificate(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, "--export-cert", "cert.pem", tls=True, name="s3") as server:
        fingerprint = server.fingerprint
        context = ssl.create_default_context(cafile=str(user.home / "cert.pem"))
        sock = socket.create_connection(("127.0.0.1", server.port))
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as line:
            assert line.version() == "TLSv1.3"
    process = subprocess.Popen(
        [*user.command(), "--json", "serve", "--listen", "127.0.0.1:0"],
        env=user.environ({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    ready = json.loads(b"".join(iter(process.stdout.readline, b"}\n")) + b"}")
    process.terminate()
    assert process.wait() == 0
    assert (ready["name"], ready["fingerprint"]) == ("s3", fingerprint)
    assert parse_join(ready["join"]).token == ""


def test_the_key_of_its_own_certificate_is_nowhere_in_the_open(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home", encryption="keyfile")
    (key,) = (user.home / ".config" / "dalsegno" / "keys").iterdir()
    with start_server(user, tls=True) as server, Pool.open(user.home / "pool", key_path=key) as pool:
        own = tls.own_certificate(pool, name="x", host="x", now_ns=1)
        assert b"PRIVATE KEY" in own.key and server.fingerprint == tls.own_context(own)[1]
        secret = own.key.splitlines()[1]
        for path in user.home.rglob("*"):
            if path.is_file():
                assert secret not in path.read_bytes()


def test_an_administrators_certificate(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    own = tls.make_certificate(name="x", host="127.0.0.1", now_ns=1_790_000_000_000_000_000)
    (user.home / "c.pem").write_bytes(own.certificate)
    (user.home / "k.pem").write_bytes(own.key)
    (user.home / "k.pem").chmod(0o644)
    with start_server(user, "--tls-cert", "c.pem", "--tls-key", "k.pem", tls=True) as server:
        (told,) = [line["notice"] for line in server.log() if "notice" in line]
        assert told["path"] == "k.pem" and told["text"].startswith("everybody on this machine may read this key")
        token = server.token("read")
        assert server.site(token).server().name == "s1"
        with pytest.raises(NoAccess, match="vouches"):
            RemoteSite(server.url, token).server()
        with pytest.raises(NoAccess, match="another certificate"):
            RemoteSite(server.url, token, fingerprint="sha256:" + "0" * 64).server()
        with pytest.raises(Unavailable):
            RemoteSite(server.url.replace("https", "http"), token).server()


def renewed(own: tls.Own, *, key: bytes = b"") -> bytes:
    """Return another certificate of the same names, of the same key if none is given."""
    old = x509.load_pem_x509_certificate(own.certificate)
    private = serialization.load_pem_private_key(key or own.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer)
    builder = builder.public_key(private.public_key()).serial_number(old.serial_number + 1)
    builder = builder.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_renewed_certificate_of_the_same_key_locks_nobody_out(tmp_path: Path) -> None:
    """Kind of fault: a pin that ends with the certificate, and a server that shows the old one until it is restarted."""
    user = make_user(tmp_path / "home")
    own = tls.make_certificate(name="x", host="127.0.0.1", now_ns=1_790_000_000_000_000_000)
    place, key = user.home / "c.pem", user.home / "k.pem"
    place.write_bytes(own.certificate)
    key.write_bytes(own.key)
    key.chmod(0o600)
    with start_server(user, "--tls-cert", "c.pem", "--tls-key", "k.pem", tls=True) as server:
        token = server.token("read")

        def shown() -> bytes:
            return ssl.get_server_certificate(("127.0.0.1", server.port)).encode()

        def reload() -> str:
            count = sum(line.get("event") == "reload" for line in server.log())
            server.process.send_signal(signal.SIGHUP)
            while len(told := [line for line in server.log() if line.get("event") == "reload"]) == count:
                pass
            return str(told[-1].get("text"))

        before = shown()
        place.write_bytes(renewed(own))
        assert reload() == "" and shown() != before
        assert server.site(token).server().name == "s1"
        place.write_bytes(b"half of a cert")
        assert "not a certificate" in reload() and server.site(token).server().name == "s1"
        other = tls.make_certificate(name="x", host="127.0.0.1", now_ns=1_790_000_000_000_000_000)
        key.write_bytes(other.key)
        place.write_bytes(renewed(other))
        assert "another key" in reload()
        with pytest.raises(NoAccess, match="another certificate"):
            RemoteSite(server.url, token, fingerprint=server.fingerprint).server()


def test_an_older_pin_of_the_certificate_itself_still_counts(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, tls=True) as server:
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.port)))
        older = "sha256:" + hashlib.sha256(der).hexdigest()
        assert older != server.fingerprint
        assert RemoteSite(server.url, server.token("read"), fingerprint=older).server().name == "s1"


def test_without_tls_a_tls_client_hears_nothing(served: Served) -> None:
    with pytest.raises(Unavailable):
        RemoteSite(served.server.url.replace("http", "https"), "x", fingerprint="sha256:" + "0" * 64).server()


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(60)
        with start_server(user, NOTIFY_SOCKET=str(tmp_path / "notify")) as server:
            assert line.recv(100) == b"READY=1"
            assert server.stop() == 0
        assert line.recv(100) == b"STOPPING=1"


def test_a_stop_ends_watches_at_once_and_lets_others_finish(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, "--stop-seconds", "60") as server:
        site = server.site(server.token("administer"))
        head = site.state("home").head
        upload, data, _ = random_pack(8 * MIB)
        begun, go_on = threading.Event(), threading.Event()
        results: dict[str, Any] = {}

        def pieces() -> Any:
            yield data[: MIB * 2]
            begun.set()
            go_on.wait()
            yield data[MIB * 2 :]

        watchers = [
            threading.Thread(target=lambda n=n: results.update({f"watch{n}": site.watch("home", head, seconds=250)}))
            for n in range(20)
        ]
        sender = threading.Thread(target=lambda: results.update(sent=site.upload("home", upload, 0, pieces())))
        for thread in (*watchers, sender):
            thread.start()
        begun.wait()
        wait_until_watched(server, site, 20)
        server.process.send_signal(signal.SIGTERM)
        for thread in watchers:
            thread.join()
        assert {results[f"watch{n}"].head for n in range(20)} == {head}
        assert server.is_running()
        go_on.set()
        sender.join()
        assert results["sent"] == len(data)
        assert server.process.wait(60) == 0
        assert server.log()[-1]["whole"] is True


def wait_until_watched(server: Server, site: RemoteSite, count: int) -> None:
    while True:
        text = ask(server, "GET", "/metrics", token=site.client._token)[2].decode()
        if f"dalsegno_watches_running {count}" in text:
            return


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user, "--stop-seconds", "1") as server:
        token = server.token("administer")
        with connect(server) as sock:
            sock.sendall(
                f"PUT /v1/volumes/home/uploads/{'2' * 32}?offset=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            sock.sendall(bytes(3 * MIB))
            site = server.site(token)
            while site.upload_size("home", bytes.fromhex("2" * 32)) < MIB:
                pass
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            answer = read_all(sock)
            assert not answer or split(answer)[0] >= 500
    with start_server(user) as server:
        assert server.site(token).upload_size("home", bytes.fromhex("2" * 32)) >= MIB


def test_new_connections_are_refused_while_it_stops(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user) as server:
        site = server.site(server.token("read"))
        site.state("home")
        assert server.stop() == 0
        with pytest.raises(Unavailable):
            site.state("home")


def random_pack(size: int) -> tuple[bytes, bytes, list[bytes]]:
    """Return the id and the bytes of a pack of random chunks, and their ids."""
    spool = Spool()
    ids: list[bytes] = []
    header = new_header(REALM, kind=pack.PACK_POOL, sealed=True)
    with PackWriter(spool.write, realm=REALM, header=header) as writer:
        for _ in range(size // MIB):
            chunk = os.urandom(MIB)
            ids.append(REALM.identify(KIND_CHUNK, chunk))
            writer.put(KIND_CHUNK, ids[-1], chunk)
        writer.finish()
    return header[0].pack_id, spool.read_at(0, spool.size_bytes), ids


def stored(user: User) -> int:
    return sum(path.stat().st_size for path in (user.home / "pool" / "uploads").rglob("*.partial"))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_server_killed_in_the_middle_of_an_upload_goes_on_from_there(tmp_path: Path, part: float) -> None:
    user = User(tmp_path / "home")
    Pool.create(user.home / "pool", encryption="none", realm=REALM).close()
    user.quick("volume", "create", "home")
    upload, data, ids = random_pack(16 * MIB)
    stop_at = int(len(data) * part)
    with start_server(user) as server:
        token = server.token("append", "read")
        site = server.site(token)

        def pieces() -> Any:
            for start in range(0, len(data), 128 * 1024):
                if start >= stop_at and server.is_running():
                    while stored(user) < stop_at - 2 * MIB:
                        pass  # what was sent is on its way
                    server.process.kill()
                    server.process.wait()
                yield data[start : start + 128 * 1024]

        with pytest.raises(Unavailable):
            site.upload("home", upload, 0, pieces())
        with pytest.raises(Unavailable):
            site.upload_size("home", upload)
    with start_server(user) as server:
        site = server.site(token)
        there = site.upload_size("home", upload)
        assert stop_at - 2 * MIB <= there <= stop_at
        assert site.upload("home", upload, there, [data[there:]]) == len(data)
        site.adopt("home", [upload])
        assert site.have("home", b"".join(ids)) == b"\1" * len(ids)


def test_a_client_killed_in_the_middle_of_an_upload_goes_on_from_there(served: Served) -> None:
    site = served.server.site(served.token)
    upload, data, _ = random_pack(4 * MIB)
    with connect(served.server) as sock:
        sock.sendall(
            f"PUT /v1/volumes/home/uploads/{upload.hex()}?offset=0 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
            f"Authorization: Bearer {served.token}\r\n\r\n".encode()
        )
        sock.sendall(data[: 3 * MIB])
    while not any(line.get("status") == 499 for line in served.server.log()):
        pass
    assert site.upload_size("home", upload) == 3 * MIB  # to the last byte that came
    assert site.upload("home", upload, 3 * MIB, [data[3 * MIB :]]) == len(data)


def test_memory_stays_small_whatever_goes_through(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    big = user.home / "big"
    big.mkdir()
    for number in range(40):
        (big / str(number)).write_bytes(os.urandom(8 * MIB))
    user.quick("volume", "create", "big")
    user.quick("import", "big", str(big))
    with start_server(user) as server:
        token = server.token("administer")
        sums: list[int] = []

        def fetch() -> None:
            with_site = server.site(token)
            sums.append(sum(map(len, with_site.dump("big"))))

        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(sums)) == 1 and sums[0] > 300 * MIB
        assert server.memory_peak_bytes() < 300 * MIB


def test_a_volume_that_moved_sends_its_clients_on(tmp_path: Path) -> None:
    user = make_user(tmp_path / "home")
    with start_server(user) as server:
        site = server.site(server.token("administer"))
        site.freeze("home", owner="mover")
        site.arrange("home", ReplicaSet(version=2, writers=["s2"], moved_to="s2"))
        head = site.state("home").head
        with pytest.raises(Moved) as caught:
            site.commit("home", b"?" * 32, b"", [])
        assert caught.value.server == "s2"
        status, _, body = ask(server, "POST", "/v1/volumes/home/freeze", token=site.client._token, body=FREEZE)
        assert status == 421 and json.loads(body)["moved_to"]["name"] == "s2"
        assert site.state("home").head == head
        with pytest.raises(NotFound):
            site.state("nobody")
