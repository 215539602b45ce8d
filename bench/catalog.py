#!/usr/bin/env python3
"""Measure the catalog and the archive; prints JSON. `bench/run.py` runs it with the interpreter that has dalsegno.

usage: catalog.py DIRECTORY DUMPS ARCHIVE_BYTES
"""

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from dalsegno.archive.catalog import Catalog
from dalsegno.archive.chains import find_chain
from dalsegno.archive.directory import DirectoryTarget
from dalsegno.archive.labels import write_label
from dalsegno.archive.parts import file_digest
from dalsegno.backup.policy import DirectoryPolicy
from dalsegno.backup.records import Copy, DumpEntry
from dalsegno.formats import pack, pack_header
from dalsegno.terms.events import silent
from dalsegno.world.files import PartialFile, iterate_bytes

DAY_NS = 86400 * 10**9
VOLUMES = 1000
ARCHIVE_RUNS = 3
LEVELS = (0, 9, 8, 9, 7, 9, 8, 1, 9, 8, 9, 7, 9, 8)


def fill(catalog: Catalog, count: int) -> int:
    """Put `count` dumps with a copy each: 1,000 volumes, a dump a day, a full every fortnight. Return days."""
    days = max(1, count // VOLUMES)
    items = []
    for volume in range(VOLUMES):
        newest: dict[int, int] = {}
        for day in range(days):
            level = LEVELS[day % len(LEVELS)]
            if level == 0:
                newest.clear()
            base = max((newest[lower] for lower in newest if lower < level), default=None)
            newest[level] = day
            number, at_ns = volume * days + day + 1, day * DAY_NS + volume
            dump_id, revision = number.to_bytes(16, "big"), number.to_bytes(32, "big")
            base_number = 0 if base is None else volume * days + base + 1
            entry = DumpEntry(
                dump_id=dump_id,
                volume_id=volume.to_bytes(16, "big"),
                volume_name=f"volume{volume}",
                level=level,
                revision=revision,
                base_dump=base_number.to_bytes(16, "big") if base_number else b"",
                base_revisions=(base_number.to_bytes(32, "big"),) if base_number else (),
                cloned_at_ns=at_ns,
                taken_at_ns=at_ns,
                received_at_ns=at_ns,
                size_bytes=1000,
                digest=revision,
            )
            copy = Copy(
                dump_id=dump_id,
                target="disks",
                medium=f"disk{day // 50}",
                place=f"dumps/{number}.dump",
                size_bytes=1000,
                written_at_ns=at_ns,
                checked_at_ns=at_ns,
            )
            items.append((entry, (), (copy,)))
        if len(items) >= 20_000:
            catalog.put_dumps(items)
            items = []
    if items:
        catalog.put_dumps(items)
    return days


def measure_catalog(directory: Path, count: int) -> dict[str, float]:
    """Return milliseconds of a look-up by date, median and largest but two of 300."""
    chance = random.Random(1)
    started = time.perf_counter()
    with Catalog.open(f"sqlite:///{directory}/catalog.sqlite") as catalog:
        days = fill(catalog, count)
        fill_seconds = time.perf_counter() - started
        seconds = []
        for _ in range(300):
            volume, at_ns = chance.randrange(VOLUMES), chance.randrange(days) * DAY_NS + DAY_NS // 2
            started = time.perf_counter()
            chain = find_chain(catalog, f"volume{volume}", at_ns)
            seconds.append(time.perf_counter() - started)
            assert chain[0].is_full and chain[-1].cloned_at_ns <= at_ns
    return {
        "fill_seconds": fill_seconds,
        "chain_ms_median": statistics.median(seconds) * 1000,
        "chain_ms_p99": sorted(seconds)[-3] * 1000,
        "catalog_bytes": (directory / "catalog.sqlite").stat().st_size,
    }


def measure_archive(directory: Path, size_bytes: int) -> dict[str, float]:
    """Return seconds to archive one dump with read-back, to copy it without, and to read it once."""
    source, disk = directory / "big.dump", directory / "disk"
    disk.mkdir()
    write_label(disk, label="bench", target="bench", kind="directory", now_ns=0)
    header = pack_header.PackHeader(
        kind=pack.PACK_DUMP,
        pack_id=bytes(16),
        realm=bytes(16),
        codec=pack.CODEC_ZSTD,
        seal=pack.SEAL_NONE,
        keys=[],
        note=b"n",
    )
    with open(source, "wb") as file:
        file.write(pack_header.encode_front(header))
        for _ in range(size_bytes // 2**20):
            file.write(os.urandom(2**20))
    hasher = blake3()
    for chunk in iterate_bytes(source):
        hasher.update(chunk)
    entry = DumpEntry(
        dump_id=bytes(16),
        volume_id=bytes(16),
        volume_name="bench",
        level=0,
        revision=bytes(32),
        cloned_at_ns=0,
        taken_at_ns=0,
        received_at_ns=0,
        size_bytes=source.stat().st_size,
        digest=hasher.digest(),
    )
    target = DirectoryTarget(DirectoryPolicy(name="bench", paths=(disk,)))
    seconds: dict[str, list[float]] = {"read_seconds": [], "copy_seconds": [], "archive_seconds": []}

    def measured(name: str, action: Callable[[], object]) -> None:
        os.sync()
        started = time.perf_counter()
        action()
        seconds[name].append(time.perf_counter() - started)

    def copy() -> None:
        with PartialFile(directory / "copy") as file:
            for chunk in iterate_bytes(source):
                file.write(chunk)
            file.commit()

    # In turns, so that a busy minute of the machine falls on all of them.
    for _ in range(ARCHIVE_RUNS):
        measured("copy_seconds", copy)
        measured("archive_seconds", lambda: target.store(source, entry, now_ns=0))
        target.remove(*target.store(source, entry, now_ns=0))
        measured("read_seconds", lambda: file_digest(directory / "copy", phase="read", report=silent))
        (directory / "copy").unlink()
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Measure both in a directory that the caller removes."""
    directory, dumps, archive_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    directory.mkdir(parents=True)
    print(json.dumps({**measure_catalog(directory, dumps), **measure_archive(directory, archive_bytes)}))


if __name__ == "__main__":
    main()
