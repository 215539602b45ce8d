"""What somebody between a client and its server sees, and what he gets by answering in the server's place.

What he can do is asserted as well: docs/guides/threats.md says it, and goes wrong when it changes.
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from served_kit import make_user

from dalsegno.replicas.remote import RemoteSite
from dalsegno.server import tls
from dalsegno.terms.errors import NoAccess
from server_kit import start_server

NOW_NS = 1_790_000_000_000_000_000


class Listener:
    """Passes bytes on, both ways, and keeps a copy."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.heard = bytearray()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self.heard += data
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(port: int) -> Iterator[Listener]:
    listener = Listener(port)
    try:
        yield listener
    finally:
        listener.close()


@pytest.mark.parametrize("with_tls", [True, False])
def test_who_listens_hears_tokens_and_names_only_without_tls(tmp_path: Path, with_tls: bool) -> None:
    """Kind of fault: a secret on a line that somebody else owns. Without TLS it is there, and the page says so."""
    user = make_user(tmp_path / "home")
    with start_server(user, tls=with_tls) as server, listening(server.port) as listener:
        token = server.token("read")
        url = server.url.replace(str(server.port), str(listener.port))
        site = RemoteSite(url, token, fingerprint=server.fingerprint if with_tls else "")
        site.state("home")
        secret = site.key().secret
        dump = b"".join(site.dump("home"))
        site.close()
        assert len(listener.heard) > len(dump), "how much was said is heard in any case"
        heard = bytes(listener.heard)
        for found in (token.encode(), b"home", b"plan", dump[:64]):
            assert (found in heard) == (not with_tls), found
        assert (secret.hex().encode() in heard or secret in heard or b"secret" in heard) == (not with_tls)


@pytest.mark.parametrize("pinned", [True, False])
def test_who_answers_in_the_servers_place_is_shown_no_token(tmp_path: Path, pinned: bool) -> None:
    """Kind of fault: who is asked is looked at after he was told. With a pin, and by the system's authorities."""
    own = tls.make_certificate(name="s1", host="127.0.0.1", now_ns=NOW_NS)
    (tmp_path / "c.pem").write_bytes(own.certificate + own.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem")
    heard: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        for _ in range(2):
            try:
                with context.wrap_socket(sock.accept()[0], server_side=True) as client:
                    if data := client.recv(65536):
                        heard.append(data)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as sock:
        threading.Thread(target=answer, args=(sock,), daemon=True).start()
        url = f"https://127.0.0.1:{sock.getsockname()[1]}"
        token = "dal_" + "0" * 16 + "_" + "x" * 43
        site = RemoteSite(url, token, fingerprint="sha256:" + "0" * 64 if pinned else "")
        with pytest.raises(NoAccess, match="another certificate" if pinned else "vouches"):
            site.server()
        site.close()
    assert not heard
