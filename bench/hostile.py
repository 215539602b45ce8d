"""Measure what a server's honest client feels while others do harm, each kind alone and all at once; prints JSON.

For each kind eight connections of one attacker, from the client's own address, strangers or with one stolen token; the
server is a real `dal serve` over loopback. The client asks all the time, each call in turn. Figures: seconds of its
calls, how many failed, and the server's largest resident set.

usage: hostile.py DIRECTORY [--seconds N] [--kinds a,b] [--tls] [--revisions N] [--files N]
                  [--patience SECONDS] [--apart] [--calls N]

`--apart`: each kind alone, too. With PYTHONPATH=SRC, the src directory of another version, it measures that one.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dalsegno.formats import objects, pack
from dalsegno.formats.join import Join, parse_join
from dalsegno.formats.objects import DirectoryLeaf, Entry, Revision
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.replicas.connections import Patience
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import DalError
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.volumes.state import NATIVE, VolumeState

CONNECTIONS = 8
CALLS_LEAST = 30
PATIENCE_SECONDS = 40.0
"""For the least number of calls."""


class Target:
    """A server, as an attacker sees it."""

    def __init__(self, join: Join, token: str) -> None:
        self.join = join
        self.token = token
        self.ended = threading.Event()

    def connect(self) -> socket.socket:
        """Return a connection; of TLS the certificate is nobody's matter here."""
        sock = socket.create_connection((self.join.host, self.join.port), timeout=5)
        if not self.join.tls:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(sock)

    def head(self, method: str, path: str, *, length: int | None = None) -> bytes:
        """Return the head of a request with the token."""
        more = "" if length is None else f"Content-Length: {length}\r\n"
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n{more}\r\n".encode()


Attack = Callable[[Target, int], None]
"""Does harm over one connection until it is ended, or no more can be done over it."""


def pipelining(target: Target, number: int) -> None:
    with target.connect() as sock:
        while not target.ended.is_set():
            sock.sendall(b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * 5000)


def unknown_paths(target: Target, number: int) -> None:
    with target.connect() as sock:
        while not target.ended.is_set():
            sock.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            if not sock.recv(65536):
                return


def idle_connections(target: Target, number: int) -> None:
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        while not target.ended.wait(0.005) and len(held) < 300:
            held.append(stack.enter_context(target.connect()))
        target.ended.wait()


def slow_heads(target: Target, number: int) -> None:
    with target.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        while not target.ended.wait(0.2):
            sock.sendall(b"X: y\r\n")


def slow_uploads(target: Target, number: int) -> None:
    with target.connect() as sock:
        sock.sendall(target.head("PUT", f"/v1/volumes/home/uploads/{number:032x}?offset=0", length=200 * MIB))
        while not target.ended.wait(0.1):
            sock.sendall(bytes(133))


def fast_uploads(target: Target, number: int) -> None:
    with target.connect() as sock:
        sock.sendall(target.head("PUT", f"/v1/volumes/home/uploads/{number + 99:032x}?offset=0", length=64 * MIB))
        for _ in range(256):
            if target.ended.is_set():
                return
            sock.sendall(bytes(256 * KIB))
        sock.recv(4096)


def slow_readers(target: Target, number: int) -> None:
    with target.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KIB)
        sock.sendall(target.head("GET", "/v1/volumes/home/dump"))
        sock.settimeout(60)
        while not target.ended.wait(0.2):
            if not sock.recv(14 * KIB):
                return


def open_messages(target: Target, number: int) -> None:
    with target.connect() as sock:
        sock.sendall(target.head("POST", "/v1/volumes/home/clone", length=2 * MIB))
        sock.sendall(b'{"name": "' + b" " * (2 * MIB - 1 * KIB))
        while not target.ended.wait(0.2):
            sock.sendall(b" ")


def deep_histories(target: Target, number: int) -> None:
    with target.connect() as sock:
        while not target.ended.is_set():
            body = json.dumps({"revision": os.urandom(32).hex()}).encode()
            sock.sendall(target.head("POST", "/v1/volumes/deep/advance", length=len(body)) + body)
            if not sock.recv(65536):
                return


def calls_in_a_loop(target: Target, number: int) -> None:
    with target.connect() as sock:
        while not target.ended.is_set():
            sock.sendall(target.head("GET", "/v1/states"))
            if not sock.recv(1 << 20):
                return


def watches(target: Target, number: int) -> None:
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        while not target.ended.wait(0.02) and len(held) < 64:
            held.append(stack.enter_context(target.connect()))
            head = "0" * 64 if number % 2 else ""
            held[-1].sendall(target.head("GET", f"/v1/volumes/empty/watch?seconds=300&head={head}"))
        target.ended.wait()


KINDS: dict[str, tuple[str, Attack]] = {
    "pipelining": ("requests sent without reading answers, no token", pipelining),
    "unknown paths": ("requests for what is not there, no token", unknown_paths),
    "idle connections": ("300 connections each, held, no token", idle_connections),
    "slow heads": ("a header each 0.2 s, no token", slow_heads),
    "slow uploads": ("1.3 KiB/s each, append", slow_uploads),
    "fast uploads": ("64 MiB each, again and again, append", fast_uploads),
    "slow readers": ("a dump each, taken at 70 KiB/s, read", slow_readers),
    "open messages": ("2 MiB each, not ended, append", open_messages),
    "deep histories": ("advance to what is not there, append", deep_histories),
    "calls in a loop": ("all states, any right", calls_in_a_loop),
    "watches": ("64 each, any right", watches),
}


def attack(kinds: list[str], join: Join, token: str) -> None:
    """Do harm, eight connections of each kind, until standard input ends."""
    target = Target(join, token)

    def go_on(act: Attack, number: int) -> None:
        while not target.ended.is_set():
            with contextlib.suppress(OSError):
                act(target, number)
            target.ended.wait(0.01)

    for kind in kinds:
        for number in range(CONNECTIONS):
            threading.Thread(target=go_on, args=(KINDS[kind][1], number), daemon=True).start()
    print("begun", flush=True)
    sys.stdin.read()
    target.ended.set()
    os._exit(0)


class Bench:
    """A pool with a volume, and servers over it."""

    def __init__(self, home: Path, *, tls: bool, revisions: int, files: int, patience: float, calls: int) -> None:
        self.home = home
        self.patience = patience
        self.calls = calls
        self.tls = tls
        home.mkdir(parents=True, exist_ok=True)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("DAL_", "XDG_"))}
        self.env = {**own, "HOME": str(home), "DAL_POOL": str(home / "pool")}
        self.dal("init", "--encryption", "none")
        big = home / "big"
        big.mkdir()
        chance = random.Random(1)
        for number in range(files):
            (big / str(number)).write_bytes(chance.randbytes(4 * MIB))
        for volume in ("home", "empty"):
            self.dal("volume", "create", volume)
        self.dal("import", "home", str(big))
        self.tokens = {
            name: str(json.loads(self.dal("--json", "token", "add", *words))["token"])
            for name, words in (
                ("client", ("--right", "administer")),
                ("thief", ("--right", "append", "--right", "read")),
            )
        }
        with self.server() as (_, join):
            self._make_history(join, revisions)

    def dal(self, *words: str) -> bytes:
        """Run a command."""
        done = subprocess.run([sys.executable, "-m", "dalsegno.cli.main", *words], env=self.env, capture_output=True)
        if done.returncode:
            raise SystemExit(f"dal {' '.join(words)}: {done.stderr.decode()[-500:]}")
        return done.stdout

    @contextlib.contextmanager
    def server(self) -> Any:
        """Give a server's process and how to join it."""
        words = ["--json", "serve", "--listen", "127.0.0.1:0", *([] if self.tls else ["--no-tls"])]
        with (self.home / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dalsegno.cli.main", *words, "--stop-seconds", "1"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            assert process.stdout is not None
            lines: list[bytes] = []
            while lines[-1:] != [b"}\n"]:
                lines.append(process.stdout.readline())
                if not lines[-1]:
                    raise SystemExit(f"dal serve ended: {(self.home / 'server.log').read_text()[-500:]}")
            join = parse_join(json.loads(b"".join(lines))["join"])
            here = Join(host="127.0.0.1", port=join.port, name="", fingerprint=join.fingerprint, tls=join.tls)
            yield process, here
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def site(self, join: Join) -> RemoteSite:
        """Return the server as the client asks it."""
        url = f"{'https' if join.tls else 'http'}://{join.host}:{join.port}"
        token = self.tokens["client"]
        return RemoteSite(url, token, fingerprint=join.fingerprint, patience=Patience(answer_seconds=self.patience))

    def _make_history(self, join: Join, count: int) -> None:
        site = self.site(join)
        realm = site.key()
        volume = bytes(15) + b"\7"
        site.create(VolumeState(id=volume, name="deep", kind=NATIVE, source=b"", created_ns=1))
        parts: list[bytes] = []
        header = new_header(realm, kind=pack.PACK_POOL, sealed=False)
        head = b""
        with PackWriter(parts.append, realm=realm, header=header) as writer:

            def put(kind: int, value: Any) -> bytes:
                payload = objects.encode(value)
                identity = realm.identify(kind, payload)
                writer.put(kind, identity, payload)
                return bytes(identity)

            root = Entry(
                name=b"",
                kind=objects.ENTRY_DIRECTORY,
                mode=0o755,
                content_kind=objects.CONTENT_DIRECTORY,
                content=put(objects.KIND_DIRECTORY, DirectoryLeaf([])),
            )
            for number in range(count):
                revision = Revision(
                    volume=volume,
                    parents=[head] if head else [],
                    root=root,
                    links=b"",
                    created_ns=number + 1,
                    author="",
                    message="",
                    entry_count=1,
                    total_bytes=0,
                )
                head = put(objects.KIND_REVISION, revision)
            writer.finish()
        upload = bytes(header[0].pack_id)
        site.upload("deep", upload, 0, [b"".join(map(bytes, parts))])
        site.adopt("deep", [upload])
        site.advance("deep", head)
        site.close()

    def measure(self, kinds: list[str], seconds: float) -> dict[str, Any]:
        """Return what the client felt and what the server used, while `kinds` went on for so long."""
        with self.server() as (process, join):
            address = f"{join.host} {join.port} {int(join.tls)} {join.fingerprint or '-'}"
            command = [sys.executable, __file__, "--attack", ",".join(kinds), address, self.tokens["thief"]]
            attacker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) if kinds else None
            try:
                if attacker is not None:
                    assert attacker.stdout is not None
                    attacker.stdout.readline()
                    time.sleep(min(2.0, seconds))
                felt, failed = self._ask(join, seconds)
            finally:
                if attacker is not None:
                    attacker.communicate()
            felt.sort()
            return {
                "calls": len(felt),
                "failed": failed,
                "median": round(felt[len(felt) // 2], 3),
                "p99": round(felt[min(len(felt) - 1, len(felt) * 99 // 100)], 3),
                "longest": round(felt[-1], 3),
                "peak_mib": round(_peak_mib(process.pid), 1),
            }

    def _ask(self, join: Join, seconds: float) -> tuple[list[float], int]:
        site = self.site(join)
        felt: list[float] = []
        failed = 0
        end = time.monotonic() + seconds
        upload = os.urandom(16)
        calls: list[Callable[[], object]] = [
            lambda: site.server(),
            lambda: site.state("home"),
            lambda: site.have("home", bytes(32) * 1000),
            lambda: site.upload("home", upload, 0, [bytes(64 * KIB)]),
            lambda: site.block("home", ObjectId(site.state("home").head)),
            lambda: site.watch("home", b"", seconds=0),
            lambda: site.advance("deep", site.state("deep").head),
            lambda: list(site.missing("home", [site.state("home").head], [])),
            lambda: site.states(),
        ]
        while time.monotonic() < end or len(felt) < self.calls:
            for call in calls:
                began = time.monotonic()
                if began > end + PATIENCE_SECONDS:
                    return felt, failed
                try:
                    call()
                except DalError:
                    failed += 1
                felt.append(time.monotonic() - began)
        site.close()
        return felt, failed


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Measure, or be the attacker of a measurement."""
    if sys.argv[1:2] == ["--attack"]:
        host, port, tls, fingerprint = sys.argv[3].split()
        given = fingerprint if fingerprint != "-" else ""
        attack(
            sys.argv[2].split(","),
            Join(host=host, port=int(port), name="", fingerprint=given, tls=tls == "1"),
            sys.argv[4],
        )
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--revisions", type=int, default=99_000)
    parser.add_argument("--files", type=int, default=40, help="of 4 MiB, in the volume that is dumped")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds after which a call has failed")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--calls", type=int, default=CALLS_LEAST, help="that the client makes at least")
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    bench = Bench(
        arguments.directory,
        tls=arguments.tls,
        revisions=arguments.revisions,
        files=arguments.files,
        patience=arguments.patience,
        calls=arguments.calls,
    )
    found = {"nobody": bench.measure([], arguments.seconds)}
    for kind in kinds if arguments.apart else ():
        found[kind] = bench.measure([kind], arguments.seconds)
        print(kind, found[kind], file=sys.stderr, flush=True)
    found["all at once"] = bench.measure(kinds, arguments.seconds)
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
