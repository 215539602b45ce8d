"""HTTP by hand, for what no client would send."""

import json
import socket
from typing import Any

from server_kit import Server

PATIENCE_SECONDS = 60


def connect(server: Server) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the server ends the connection."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def ask(
    server: Server,
    method: str,
    path: str,
    *,
    token: str = "",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of one request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    with connect(server) as sock:
        sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))
        return split(read_all(sock))


def ask_over(sock: socket.socket, path: str, *, token: str = "") -> tuple[int, dict[str, str], bytes]:
    """Return the answer to a GET over a connection, which may go on."""
    line = f"Authorization: Bearer {token}\r\n" if token else ""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{line}\r\n".encode())
    return read_answer(sock)


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Return one answer that says its length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("the server ended the connection")
        data += more
    status, headers, body = split(data)
    while len(body) < int(headers["content-length"]):
        body += sock.recv(65536)
    return status, headers, body


def split(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(first.split()[1]), headers, body


def problem(body: bytes) -> dict[str, Any]:
    """Return what an error says; it is one line, and nothing of the program's inside."""
    found = json.loads(body)
    error: dict[str, Any] = found["error"]
    assert set(found) <= {"error", "moved_to"} and error["message"] and "\n" not in error["message"]
    assert b"Traceback" not in body and b".py" not in body and b"internal" not in body
    return error
