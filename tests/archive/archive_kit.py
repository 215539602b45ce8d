"""Things that tests of the backup room share: disks, dumps of any size, a policy's target."""

import os
import random
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from dalsegno.archive.labels import write_label
from dalsegno.backup.policy import DirectoryPolicy
from dalsegno.backup.records import DumpEntry
from dalsegno.formats import objects, pack, pack_header
from dalsegno.pool.pack_write import PackWriter, new_header
from kit import REALM


@dataclass
class Disk:
    """A tmpfs of a few MiB, mounted at `path`."""

    path: Path
    mounted: bool = True

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=True)
            self.mounted = False


def mount_disk(path: Path, *, mib: float) -> Disk | None:
    if os.getuid() != 0:
        return None
    path.mkdir(parents=True, exist_ok=True)
    size = f"size={int(mib * 1024)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)], capture_output=True)
    return Disk(path) if done.returncode == 0 else None


class DiskMaker:
    """Makes small real file systems, so that full is full; plain directories when it may not, and says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disks: list[Disk] = []

    def real(self, name: str, *, mib: float) -> Disk:
        disk = mount_disk(self.directory / name, mib=mib)
        if disk is None:
            warnings.warn("!!! may not mount here: full disks ARE NOT TESTED", stacklevel=2)
            pytest.skip("!!! may not mount here: full disks ARE NOT TESTED")
        self.disks.append(disk)
        return disk

    def close(self) -> None:
        for disk in self.disks:
            disk.unmount()


def move_disk(disk: Disk, to: Path) -> None:
    """Carry a disk to another drive."""
    to.mkdir(exist_ok=True)
    subprocess.run(["mount", "--move", str(disk.path), str(to)], check=True)
    disk.path = to


def label(path: Path, name: str, *, target: str = "disks", kind: str = "directory") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_label(path, label=name, target=target, kind=kind, now_ns=1)
    return path


def note(*, volume: bytes = b"v" * 16, name: str = "home", level: int = 0, at_ns: int = 10) -> pack_header.DumpNote:
    target = pack_header.DumpTarget(revision=os.urandom(32), clone="c", created_ns=at_ns, entry_count=7, total_bytes=70)
    return pack_header.DumpNote(
        volume=volume,
        volume_name=name,
        level=level,
        targets=[target],
        bases=[],
        base_dump=b"",
        merged=[],
        taken_at_ns=at_ns,
    )


def make_dump(path: Path, *, size_bytes: int, seed: int = 1, sealed: bool = True, level: int = 0) -> DumpEntry:
    """Write a dump of about this size; what is in it does not matter to media."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lineage = note(level=level, at_ns=10 + seed)
    header = new_header(REALM, kind=pack.PACK_DUMP, sealed=sealed, note=pack_header.encode_note(lineage))
    noise = random.Random(seed)
    with open(path, "wb") as stream:
        writer = PackWriter(stream.write, realm=REALM, header=header)
        while size_bytes > 0:
            data = noise.randbytes(min(size_bytes, 256 * 1024))
            writer.put(objects.KIND_CHUNK, REALM.identify(objects.KIND_CHUNK, data), data)
            size_bytes -= len(data)
        summary = writer.finish()
    return DumpEntry(
        dump_id=summary.pack_id,
        volume_id=lineage.volume,
        volume_name=lineage.volume_name,
        level=level,
        revision=lineage.targets[-1].revision,
        cloned_at_ns=lineage.targets[-1].created_ns,
        taken_at_ns=lineage.taken_at_ns,
        received_at_ns=lineage.taken_at_ns + 1,
        size_bytes=path.stat().st_size,
        digest=blake3(path.read_bytes()).digest(),
        raw_bytes=70,
        entry_count=7,
        host="tester",
        set_name="homes",
    )


def directory_policy(*paths: Path, **changes: object) -> DirectoryPolicy:
    return DirectoryPolicy(name="disks", paths=paths, **changes)  # type: ignore[arg-type]


def flip(path: Path, offset: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
