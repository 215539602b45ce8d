"""Measure replication between servers on one machine beside rsync; prints JSON: seconds by step and tool, and figures.

Servers are real `dal serve` processes over loopback without TLS, as rsync's daemon is; all lies in DIRECTORY.
`bench/run.py` runs it with the interpreter that has dalsegno.

usage: replication.py DIRECTORY TREE-FILES TREE-BYTES MANY-FILES RUNS FEED-SECONDS FEED-FILES COMMITS
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dalsegno.assembly.local import create_pool
from dalsegno.assembly.realm import merge_heads
from dalsegno.formats import objects
from dalsegno.formats.join import format_join, parse_join
from dalsegno.formats.objects import Entry, Revision
from dalsegno.replicas.context import ReplicaContext, side_by_side
from dalsegno.replicas.group import Group
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.peers import Peers
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.writers import Writers
from dalsegno.trees.build import store_directory
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers
from trees import TREE_FILE_BYTES_MAX, build_tree

CHANGED = 100
COMMITS_A_SECOND = 20
MANY_A_DIRECTORY = 1_000
WAIT_SECONDS = 900


class Server:
    """A running `dal serve`."""

    def __init__(self, bench: "Bench", name: str) -> None:
        self.name = name
        self.home = bench.home / name
        words = ["--pool", str(self.home / "pool"), "--json", "serve", "--no-tls", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dalsegno.cli.main", *words, "--realm", bench.database, "--name", name],
            env=bench.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(bench.home / f"{name}.log").open("wb"),
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.rstrip() == b"}":
                break
        if not lines:
            raise SystemExit(f"{name}: {(bench.home / f'{name}.log').read_text()[-500:]}")
        self.join = parse_join(json.loads(b"".join(lines))["join"])

    def peak_mib(self) -> float:
        """Return the largest resident set so far."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0


class Bench:
    """A realm of servers, and what was measured."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DAL_", "XDG_"))},
            "HOME": str(home / "client"),
        }
        (home / "client").mkdir()
        self.database = f"sqlite:///{home}/realm.db"
        self.servers: dict[str, Server] = {}
        self.seconds: dict[str, dict[str, list[float]]] = {}
        self.figures: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.notes: list[str] = []
        self._token = ""
        self._client: dict[str, str] = {}
        """What the client's commands have beside `env`: its realm."""

    def dal(self, *words: str | Path, codes: tuple[int, ...] = (0,)) -> bytes:
        """Run a command, which must end with one of `codes`, and return what it printed."""
        env = self.env if words[0] == "--pool" else {**self.env, **self._client}
        done = subprocess.run(
            [sys.executable, "-m", "dalsegno.cli.main", *map(str, words)], env=env, capture_output=True
        )
        if done.returncode not in codes:
            said = (done.stdout[-500:] + done.stderr[-500:]).decode(errors="replace")
            raise SystemExit(f"dal {' '.join(map(str, words))}: {said}")
        return done.stdout

    def start(self, name: str) -> Server:
        """Make a pool, the first one with its realm, and serve it."""
        pool = self.home / name / "pool"
        pool.parent.mkdir()
        if not self.servers:
            self.dal("--pool", pool, "init", "--encryption", "none")
            self.dal("--pool", pool, "key", "export", self.home / "key")
            self.dal("--pool", pool, "realm", "init", "--db", self.database, "--name", "bench")
        else:
            self.dal("--pool", pool, "init", "--join", self.home / "key", "--encryption", "none")
        server = self.servers[name] = Server(self, name)
        if not self._token:
            made = json.loads(self.dal("--pool", pool, "--json", "token", "add", "--right", "administer"))
            self._token = made["token"]
        first = next(iter(self.servers.values()))
        with contextlib.closing(RemoteSite(first.join.url, self._token)) as site:
            self.until(lambda: _knows(site, name))
        return server

    def join(self) -> None:
        """Make the client a part of the realm."""
        first = next(iter(self.servers.values()))
        self.dal("realm", "join", format_join(first.join.__class__(**{**_fields(first.join), "token": self._token})))
        self._client = {"DAL_REALM": "bench"}

    def site(self, name: str) -> RemoteSite:
        """Return a server as a Site."""
        return RemoteSite(self.servers[name].join.url, self._token, name=name)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something."""
        limit = time.monotonic() + WAIT_SECONDS
        while not done():
            if time.monotonic() > limit:
                raise SystemExit("bench: waited too long")
            time.sleep(0.01)

    def time(self, step: str, tool: str, act: Callable[[], object]) -> None:
        """Keep how long something took."""
        started = time.perf_counter()
        act()
        self.add(step, tool, time.perf_counter() - started)

    def add(self, step: str, tool: str, seconds: float) -> None:
        """Keep a measurement."""
        print(f"  {step}: {tool}: {seconds:.3f} s", file=sys.stderr, flush=True)
        self.seconds.setdefault(step, {}).setdefault(tool, []).append(seconds)

    def close(self, *names: str) -> None:
        """End servers, and remember how much memory they took at most."""
        for name in names or list(self.servers):
            server = self.servers.pop(name)
            self.peak_mib[name] = server.peak_mib()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait()


def _fields(join: Any) -> dict[str, Any]:
    return {key: getattr(join, key) for key in ("host", "port", "name", "fingerprint", "token", "tls")}


def _knows(site: RemoteSite, name: str) -> bool:
    try:
        return any(server.name == name for server in site.view().servers)
    except Exception:
        return False


class Rsync:
    """A daemon that takes files into a directory."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = home / "rsyncd.conf"
        (home / "to").mkdir()
        owner = "root" if os.getuid() == 0 else str(os.getuid())
        config.write_text(
            f"use chroot = no\nuid = {owner}\ngid = {owner}\npid file = {home}/pid\n"
            f"[to]\npath = {home}/to\nread only = no\n"
        )
        self.target = f"rsync://127.0.0.1:{port}/to"
        self.place = home / "to"
        self._process = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", "--port", str(port), "--address", "127.0.0.1", "--config", config],
            stdin=subprocess.DEVNULL,
        )
        time.sleep(1)

    def copy(self, tree: Path, name: str) -> None:
        """Make the daemon's directory `name` like `tree`."""
        subprocess.run(["rsync", "-a", "--delete", f"{tree}/", f"{self.target}/{name}/"], check=True)

    def close(self) -> None:
        """End the daemon."""
        self._process.terminate()
        self._process.wait()


class Writer:
    """A client that commits small changes to a volume, as fast as servers take them: no scan, no process start."""

    def __init__(self, bench: Bench, volume: str, names: list[str], files: int) -> None:
        place = bench.home / f"writer-{volume}"
        self._house = create_pool(place, encryption="none", join=bench.home / "key")
        self._sites = {name: bench.site(name) for name in names}
        self._workers = Workers(len(names))
        local = Keeper(
            "local",
            self._house.pool,
            self._house.volumes,
            workers=self._house.workers,
            clock=now_ns,
            scratch=place / "uploads",
        )
        state = next(iter(self._sites.values())).state(volume)
        local.create(state)
        self._local = local
        self._volume = volume
        self._id = state.id
        self._entries = [
            Entry(
                name=b"file-%06d" % number,
                kind=objects.ENTRY_FILE,
                mode=0o644,
                size=20,
                content_kind=objects.CONTENT_INLINE,
                content=os.urandom(20),
            )
            for number in range(files)
        ]
        self._head = b""
        self._time_ns = 0
        self._count = 0
        self.group = Group(
            Writers(
                Peers(
                    volume=volume,
                    sites=self._sites,
                    context=ReplicaContext(
                        realm=self._house.pool.realm,
                        owner=f"bench {os.getpid()}",
                        merge=merge_heads,
                        parallel=side_by_side(self._workers),
                    ),
                    replicas=state.replicas,
                ),
                local=local,
                volume_id=state.id,
            )
        )

    def commit(self) -> bytes:
        """Change one file, commit, and return the revision when the servers have acknowledged it."""
        number = self._count % len(self._entries)
        self._count += 1
        old = self._entries[number]
        self._entries[number] = Entry(
            name=old.name, kind=old.kind, mode=old.mode, size=20, content_kind=old.content_kind, content=os.urandom(20)
        )
        with self._house.pool.writer(refresh=False) as writer:
            root = Entry(
                name=b"",
                kind=objects.ENTRY_DIRECTORY,
                mode=0o755,
                content_kind=objects.CONTENT_DIRECTORY,
                content=store_directory(writer, self._entries),
            )
            self._time_ns = max(now_ns(), self._time_ns + 1)
            revision = Revision(
                volume=self._id,
                parents=[self._head] if self._head else [],
                root=root,
                links=b"",
                created_ns=self._time_ns,
                author="bench",
                message="",
                entry_count=len(self._entries),
                total_bytes=20 * len(self._entries),
            )
            self._head = bytes(writer.put(objects.KIND_REVISION, objects.encode(revision)))
        self.group.push(self._head)
        return self._head

    def close(self) -> None:
        """Give everything back."""
        self._workers.__exit__(None, None, None)
        for site in self._sites.values():
            site.close()
        self._house.__exit__(None, None, None)


def measure_initial(bench: Bench, rsync: Rsync, tree: Path, runs: int) -> None:
    """Bring the tree to a new standby, and to a new directory by rsync."""
    bench.dal("volume", "create", "tree", "--replicas", "s1")
    bench.time("first import", "dal", lambda: bench.dal("import", "tree", tree))
    for number in range(runs):
        name = f"standby{number}"
        bench.start(name)
        bench.time("initial transfer", "dal", partial(bench.dal, "follow", "tree", "--to", name, "--once"))
        bench.time("initial transfer", "rsync -a", partial(rsync.copy, tree, f"tree{number}"))
        shutil.rmtree(rsync.place / f"tree{number}")
        if number < runs - 1:
            bench.close(name)
            shutil.rmtree(bench.home / name)


def measure_increment(bench: Bench, rsync: Rsync, count: int, runs: int) -> None:
    """Change 100 files of a very large volume, and bring that to a standby."""
    tree = bench.home / "many"
    paths = []
    for index in range(count):
        if index % MANY_A_DIRECTORY == 0:
            place = tree / f"{index // 100_000:03d}" / f"{index // MANY_A_DIRECTORY:05d}"
            place.mkdir(parents=True)
        path = place / f"file-{index:08d}.txt"
        path.write_bytes(b"record %d of a very large volume\n" % index)
        if index % max(1, count // CHANGED) == 0:
            paths.append(path)
    bench.dal("volume", "create", "many", "--replicas", "s1")
    step = f"{count:,} files"
    bench.time(f"{step}: first import", "dal", lambda: bench.dal("import", "many", tree))
    bench.time(f"{step}: initial transfer", "dal", lambda: bench.dal("follow", "many", "--to", "s2", "--once"))
    bench.time(f"{step}: initial transfer", "rsync -a", lambda: rsync.copy(tree, "many"))
    with contextlib.closing(bench.site("s1")) as origin, contextlib.closing(bench.site("s2")) as standby:
        for number in range(runs):
            for path in paths[:CHANGED]:
                path.write_bytes(b"changed %d\n" % number)
            before = origin.state("many").head
            begun: list[float] = []

            def watch(before: bytes = before, begun: list[float] = begun) -> None:
                while origin.watch("many", before, seconds=20).head == before:
                    pass
                begun.append(time.perf_counter())

            watcher = threading.Thread(target=watch)
            watcher.start()
            bench.dal("import", "many", tree)
            watcher.join()
            wanted = origin.state("many").head
            seen = standby.state("many").head
            while seen != wanted:
                seen = standby.watch("many", seen, seconds=20).head
            # Mostly over before the import's process has ended: the standby's own account is the better witness.
            bench.add(f"{step}: {CHANGED} changed", "dal", max(0.0, time.perf_counter() - begun[0]))
            bench.time(f"{step}: {CHANGED} changed", "rsync -a", lambda: rsync.copy(tree, "many"))
    shutil.rmtree(tree)
    shutil.rmtree(rsync.place / "many")


def measure_feed(bench: Bench, seconds: int, files: int) -> None:
    """Commit 20 times a second, and note when the standby has each."""
    bench.dal("volume", "create", "feed", "--replicas", "s1")
    bench.dal("follow", "feed", "--to", "s2", "--once")
    writer = Writer(bench, "feed", ["s1"], files)
    writer.commit()
    bench.dal("follow", "feed", "--to", "s2", "--once")
    seen: dict[bytes, float] = {}
    ended = threading.Event()

    def watch() -> None:
        head = b""
        with contextlib.closing(bench.site("s2")) as standby:
            while not ended.is_set():
                head = standby.watch("feed", head, seconds=1).head
                seen.setdefault(head, time.perf_counter())

    watcher = threading.Thread(target=watch)
    watcher.start()
    committed: list[tuple[bytes, float]] = []
    begun = time.perf_counter()
    for number in range(seconds * COMMITS_A_SECOND):
        time.sleep(max(0.0, begun + number / COMMITS_A_SECOND - time.perf_counter()))
        committed.append((writer.commit(), time.perf_counter()))
    took = committed[-1][1] - begun
    bench.until(lambda: committed[-1][0] in seen)
    ended.set()
    watcher.join()
    lags = []
    arrived = float("inf")
    for revision, at in reversed(committed):  # the standby skips states: one is there when a later one is
        arrived = min(arrived, seen.get(revision, arrived))
        lags.append(max(0.0, arrived - at))
    lags.sort()
    bench.figures["feed_commits_a_second"] = len(committed) / took
    bench.figures["feed_lag_p50_seconds"] = lags[len(lags) // 2]
    bench.figures["feed_lag_p99_seconds"] = lags[int(len(lags) * 0.99)]
    writer.close()


def measure_commits(bench: Bench, files: int, count: int) -> None:
    """Time one small commit to one server and to three."""
    for volume, names in (("one", ["s1"]), ("three", ["s1", "s2", "s3"])):
        bench.dal("volume", "create", volume, "--replicas", ",".join(names))
        writer = Writer(bench, volume, names, files)
        writer.commit()
        times = []
        for _ in range(count):
            started = time.perf_counter()
            writer.commit()
            times.append(time.perf_counter() - started)
        writer.close()
        bench.add("commit of one small file", f"dal, servers: {len(names)}", statistics.median(times))


def measure_pauses(bench: Bench, standby: str) -> None:
    """Clone the tree on two writers, and move it: how long users wait."""
    bench.dal("replica", "add", "tree", standby)
    writer = Writer(bench, "tree", ["s1", standby], 1)
    bench.figures["clone_pause_seconds"] = max(
        writer.group.freeze_and_clone(f"pause-{number}").pause_ns / 1e9 for number in range(5)
    )
    writer.close()
    # 3: the standbys of the transfers before are gone, so that they do not hear of it.
    moved = json.loads(bench.dal("--json", "move", "tree", "s1", "s3", codes=(0, 3)))
    bench.figures["move_pause_seconds"] = moved["pause_seconds"]


def main() -> None:
    """Measure."""
    home = Path(sys.argv[1])
    tree_files, tree_bytes, many, runs, feed_seconds, feed_files, commits = map(int, sys.argv[2:9])
    bench = Bench(home / "replication")
    rsync = Rsync(home / "rsync") if shutil.which("rsync") else None
    try:
        for name in ("s1", "s2", "s3"):
            bench.start(name)
        bench.join()
        tree = home / "tree"
        build_tree(tree, files_min=tree_files, bytes_min=tree_bytes, file_bytes_max=TREE_FILE_BYTES_MAX)
        measure_feed(bench, feed_seconds, feed_files)
        measure_commits(bench, feed_files, commits)
        if rsync is None:
            bench.notes.append("rsync: MISSING, not measured")
        else:
            measure_initial(bench, rsync, tree, runs)
            measure_pauses(bench, f"standby{runs - 1}")
            if many:
                measure_increment(bench, rsync, many, runs)
    finally:
        bench.close()
        if rsync is not None:
            rsync.close()
    print(
        json.dumps(
            {
                "seconds": bench.seconds,
                "figures": bench.figures,
                "peak_mib": bench.peak_mib,
                "notes": bench.notes,
            }
        )
    )


if __name__ == "__main__":
    main()
