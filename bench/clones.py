"""Measure volumes with many clones: what one more costs, and what looking at them costs; prints tables.

Each size gets a pool of its own with one volume, whose clones name as many different revisions; they are put there at
once, or with `--one-by-one` as nights would put them. Whole commands are measured by the processor time of the command
alone, less that of `dal --version`, since other programs may run: the smallest of some runs. Then the same is asked of
a server on this machine, and what crosses is counted.

usage: clones.py [--one-by-one] [--directory DIR] [--more N] [COUNT...]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.formats import messages, objects
from dalsegno.formats.object_records import Record
from dalsegno.formats.objects import Entry, Revision
from dalsegno.replicas import wire
from dalsegno.replicas.blocks import BlockSource
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.build import store_directory
from dalsegno.volumes.clones import NEWEST_MAX, Clone, Clones
from dalsegno.volumes.state import VolumeState, encode_state

COUNTS = (20, 100, 10_000, 100_000)
HOUR_SECONDS = 3600
SECOND_NS = 10**9
FIRST_SECONDS = 1_400_000_000
MORE = 4 * NEWEST_MAX
"""Clones over which the cost of one is averaged: the table is written several times."""
RUNS = 3
VOLUME = "v"
Row = dict[str, float]


def seconds_of(number: int) -> int:
    """Return when a clone is made."""
    return FIRST_SECONDS + number * HOUR_SECONDS


def name_of(number: int) -> str:
    """Return a clone's name as nights give it."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(seconds_of(number)))


def make_pool(path: Path, count: int, *, one_by_one: bool = False) -> None:
    """Make a pool whose volume has `count` clones."""
    with create_pool(path, encryption="keyfile", key_path=path.parent / "key") as house:
        state = house.volumes.create(VOLUME, kind="native", now_ns=seconds_of(0) * SECOND_NS)
        with house.pool.writer() as writer:
            empty = bytes(store_directory(writer, []))
            root = Entry(name=b"", kind=objects.ENTRY_DIRECTORY, content_kind=objects.CONTENT_DIRECTORY, content=empty)
            clones: dict[str, Clone] = {}
            for number in range(count + 1):
                revision = Revision(
                    volume=state.id,
                    parents=[],
                    root=root,
                    links=b"",
                    created_ns=seconds_of(number) * SECOND_NS,
                    author="bench",
                    message="",
                    entry_count=1,
                    total_bytes=1000 + number,
                )
                clones[name_of(number)] = Clone(
                    revision=bytes(writer.put(objects.KIND_REVISION, objects.encode(revision))),
                    created_ns=revision.created_ns,
                    automatic=True,
                    entry_count=1,
                    total_bytes=revision.total_bytes,
                )
            writer.flush()
            writer.commit_guard()
            _, newest = clones.popitem()
            house.volumes.update(state.id, lambda now: msgspec.structs.replace(now, head=newest.revision))
        if one_by_one:
            for name, clone in clones.items():
                house.volumes.update(state.id, partial(with_clone, name, clone))
        else:
            house.volumes.update(state.id, lambda now: msgspec.structs.replace(now, clones=Clones(clones)))


def with_clone(name: str, clone: Clone, state: VolumeState) -> VolumeState:
    """Return a state with one more clone."""
    return msgspec.structs.replace(state, clones=state.clones.put(name, clone))


def stored_bytes(path: Path) -> int:
    """Return how large the packs of a pool are."""
    return sum(file.stat().st_size for file in (path / "packs").rglob("*.pack"))


def measure_inside(path: Path, count: int, more: int) -> Row:
    """Return what one more clone costs inside the process, and writes: refs and packs."""
    with open_pool(path, key_path=path.parent / "key") as house:
        ref = Path(house.pool.where_ref(f"volumes/{house.volumes.get(VOLUME).id.hex()}"))
        before, written, most = stored_bytes(path), 0, 0
        spent = used = 0.0
        for number in range(count, count + more):
            began, began_used = time.perf_counter(), processor_seconds(resource.RUSAGE_SELF)
            house.volumes.add_clone(VOLUME, name_of(number), now_ns=seconds_of(number) * SECOND_NS)
            spent += time.perf_counter() - began
            used += processor_seconds(resource.RUSAGE_SELF) - began_used
            now = stored_bytes(path)
            size = now - before + ref.stat().st_size
            before, written, most = now, written + size, max(most, size)
        state = house.volumes.get(VOLUME)
        return {
            "one clone, ms": spent / more * 1000,
            "one clone, ms of processor": used / more * 1000,
            "one clone writes, bytes (mean)": written / more,
            "one clone writes, bytes (most)": most,
            "ref, bytes": len(encode_state(state)),
            "state as it crosses, bytes": len(messages.encode(state)),
        }


def processor_seconds(who: int) -> float:
    """Return what this process, or its children that ended, have used."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def measure(run: Callable[[], object]) -> float:
    """Return the processor time of a command, the smallest of some runs, in seconds."""
    found = []
    for _ in range(RUNS):
        began = processor_seconds(resource.RUSAGE_CHILDREN)
        run()
        found.append(processor_seconds(resource.RUSAGE_CHILDREN) - began)
    return min(found)


def measure_commands(words: list[str], environ: dict[str, str], address: str, count: int) -> Row:
    """Return what whole commands take, in seconds of the processor."""
    dal = str(Path(sys.executable).parent / "dal")
    middle = count // 2

    def run(*arguments: str) -> float:
        command = [dal, *words, *arguments]
        return measure(lambda: subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True))

    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds_of(middle) + 5))
    start = run("--version")
    return {
        "`dal clones`, all, s": run("clones", address) - start,
        "`dal clones --last 20`, s": run("clones", address, "--last", "20") - start,
        "`dal ls` of a name, s": run("ls", f"{address}@{name_of(middle)}") - start,
        "`dal ls` of a time, s": run("ls", f"{address}@{at}") - start,
    }


@contextmanager
def serving(scratch: Path, environ: dict[str, str]) -> Iterator[tuple[RemoteSite, int]]:
    """Serve the pool; give the server as a client sees it, and its process."""
    command = [str(Path(sys.executable).parent / "dal"), "--json", "--pool", str(scratch / "pool")]
    words = ["serve", "--no-tls", "--listen", "127.0.0.1:0", "--name", "s1"]
    with open(scratch / "log", "wb") as log:
        server = subprocess.Popen([*command, *words], env=environ, stdout=subprocess.PIPE, stderr=log)
    try:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line.rstrip() == b"}":
                break
        made = subprocess.run(
            [*command, "token", "add", "--right", "administer"], env=environ, stdout=subprocess.PIPE, check=True
        )
        site = RemoteSite(json.loads(b"".join(lines))["url"], json.loads(made.stdout)["token"], name="s1")
        yield site, server.pid
        site.close()
    finally:
        server.terminate()
        server.wait()


class Counting:
    """Counts what is asked of a server for older clones."""

    def __init__(self, site: RemoteSite) -> None:
        self._site = site
        self.calls = 0
        self.bytes = 0

    def block(self, volume: str, identity: ObjectId, *, bytes_max: int = 0) -> list[Record]:
        """Ask for a block."""
        found = self._site.block(volume, identity, bytes_max=bytes_max)
        self.calls += 1
        self.bytes += sum(len(payload) for _, _, payload in found)
        return found


def measure_served(scratch: Path, environ: dict[str, str], count: int, more: int) -> Row:
    """Return what the same costs of a server: seconds of both processors, calls, and bytes that cross."""
    with serving(scratch, environ) as (site, pid):

        def used() -> float:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            served = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            return served + processor_seconds(resource.RUSAGE_SELF)

        state = site.state(VOLUME)
        source, began = Counting(site), used()
        listed = sum(1 for _ in state.clones.read_from(BlockSource(source, VOLUME)).by_time())
        listing = used() - began
        assert listed == len(state.clones)
        path = Counting(site)
        assert state.clones.read_from(BlockSource(path, VOLUME)).get(name_of(count // 2)) is not None
        began, crossed = used(), 0
        for number in range(count + more, count + 2 * more):
            clone = Clone(revision=state.head, created_ns=seconds_of(number) * SECOND_NS, automatic=True)
            answer = site.clone(VOLUME, name_of(number), clone)
            crossed += len(messages.encode(wire.NamedClone(name=name_of(number), clone=clone)))
            crossed += len(messages.encode(answer))
        return {
            "of a server: list all, s": listing,
            "of a server: list all, calls": source.calls,
            "of a server: list all, bytes": source.bytes,
            "of a server: a name, calls": path.calls,
            "of a server: a name, bytes": path.bytes,
            "of a server: one clone, ms of processor": (used() - began) / more * 1000,
            "of a server: one clone, bytes": crossed / more,
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", nargs="*", type=int, default=list(COUNTS))
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--more", type=int, default=MORE, help="clones over which the cost of one is averaged")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for count in arguments.counts:
        scratch = Path(tempfile.mkdtemp(dir=arguments.directory))
        try:
            make_pool(scratch / "pool", count, one_by_one=arguments.one_by_one)
            environ = {**os.environ, "DAL_KEY": str(scratch / "key"), "HOME": str(scratch)}
            found = measure_commands(["--pool", str(scratch / "pool")], environ, VOLUME, count)
            inside = measure_inside(scratch / "pool", count, arguments.more)
            rows.append({**found, **inside, **measure_served(scratch, environ, count, arguments.more)})
        finally:
            shutil.rmtree(scratch)
    print("| | " + " | ".join(f"{count:,}" for count in arguments.counts) + " |")
    print("|---|" + "---|" * len(rows))
    for name in rows[0]:
        cells = [f"{row[name]:,.0f}" if "bytes" in name or "calls" in name else f"{row[name]:.2f}" for row in rows]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
