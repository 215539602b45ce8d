"""Fourteen days of a site, as docs/guides/run-a-site.md tells them: two disks, shares 3 of 5, losses, and all back.

The disks are ext4 images on loop devices where this machine allows it; else plain directories, which is said.
"""

import os
import random
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_kit import Admin, date, tree

SEED = 20261121
DAYS = 14
DISK_MIB = 24


class LoopDisk:
    """An ext4 image, mounted; unmounted at the end."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self.mounted = False
        place.mkdir()
        with open(image, "wb") as file:
            file.truncate(DISK_MIB * 2**20)
        try:
            subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", image], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
            self.mounted = True
        except (OSError, subprocess.CalledProcessError):
            warnings.warn("!!! may not mount images here: the disks are plain directories", stacklevel=2)

    def lose(self) -> None:
        if self.mounted:
            subprocess.run(["umount", self.place], check=True)
            self.mounted = False
        else:
            shutil.rmtree(self.place)
            self.place.mkdir()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[LoopDisk]]]:
    home = tmp_path_factory.mktemp("rehearsal")
    disks = [LoopDisk(home / f"{name}.img", home / name) for name in ("disk-a", "disk-b")]
    yield home, disks
    for disk in disks:
        if disk.mounted:
            disk.lose()


POLICY = """
pool = "{home}/pool"
state = "{home}/state"
timezone = "UTC"

[targets.disks]
kind = "directory"
paths = ["{home}/disk-a", "{home}/disk-b"]

[targets.grid]
kind = "shares"
paths = ["{home}/g1", "{home}/g2", "{home}/g3", "{home}/g4", "{home}/g5"]
k = 3
n = 5

[sets.homes]
sources = ["{home}/homes/*"]
cycle_days = 7
targets = ["disks", "grid"]
keep.clones = {{ last = 2 }}

[sets.projects]
sources = ["{home}/projects/sky"]
program = {{ monday = 0, tuesday = 2, wednesday = 2, thursday = 1, friday = 2, saturday = 2, sunday = 2 }}
targets = ["disks", "grid"]
keep.clones = {{ last = 2 }}

[sets.mail]
sources = ["{home}/mail"]
cycle_days = 4
program = "hanoi"
targets = ["grid"]
keep.clones = {{ last = 2 }}
"""
SOURCES = {"ann": "homes/ann", "ben": "homes/ben", "sky": "projects/sky", "mail": "mail"}


def make_data(home: Path, chance: random.Random) -> None:
    for source in SOURCES.values():
        root = home / source
        (root / "deep" / "er").mkdir(parents=True)
        for number in range(12):
            (root / "deep" / f"file{number}.txt").write_text(f"{source} {number}\n" * chance.randrange(200))
        (root / "deep" / "er" / "blob.bin").write_bytes(chance.randbytes(400_000))
        os.symlink("deep/er/blob.bin", root / "link")
        os.link(root / "deep" / "file1.txt", root / "hard")
        (root / "deep" / "file2.txt").chmod(0o600)


def change_data(home: Path, day: int, chance: random.Random) -> None:
    for source in SOURCES.values():
        root = home / source
        (root / "diary.txt").write_text(f"{source}, day {day}\n" * 20)
        (root / f"day{day}").write_bytes(chance.randbytes(chance.randrange(50_000)))
        gone = root / f"day{day - 3}"
        if gone.exists():
            gone.unlink()
        with open(root / "link", "r+b") as file:
            file.seek(chance.randrange(390_000))
            file.write(chance.randbytes(500))
        if day % 4 == 0:
            old, new = sorted((root / "deep", root / "moved"), key=lambda each: not each.exists())
            old.rename(new)
            (root / "link").unlink()
            os.symlink(f"{new.name}/er/blob.bin", root / "link")


def test_fourteen_days_of_a_site_and_all_of_it_back(home: tuple[Path, list[LoopDisk]], tmp_path: Path) -> None:
    place, disks = home
    chance = random.Random(SEED)
    admin = Admin(place)
    (place / "site.toml").write_text(POLICY.format(home=place))
    make_data(place, chance)
    for name in ("g1", "g2", "g3", "g4", "g5"):
        (place / name).mkdir()
    admin.run("init", "--pool", "pool")
    admin.run("key", "export", place / "site.key")
    admin.run("media", "label", "disk-a", "week-a", "--target", "disks")
    admin.run("media", "label", "disk-b", "week-b", "--target", "disks")
    for number in range(1, 6):
        admin.run("media", "label", f"g{number}", f"grid-{number}", "--target", "grid")

    seen: dict[str, dict[int, dict]] = {name: {} for name in SOURCES}
    for day in range(1, DAYS + 1):
        admin.day = day
        change_data(place, day, chance)
        admin.run("backup", "--set", "all")
        for name, source in SOURCES.items():
            seen[name][day] = tree(place / source)
    history = admin.value("history")
    assert len(history) == DAYS * len(SOURCES)
    levels = {name: [row["level"] for row in history if row["volume"] == name] for name in SOURCES}
    assert all(each[0] == 0 and len(set(each)) >= 3 for each in levels.values()), levels
    assert admin.value("status")["state"] == "ok" and admin.text("catalog", "check") == "catalog and media agree\n"
    assert admin.value("drill", "--count", "4")[3]["verdict"] == "good"
    assert len(admin.value("clones", "sky")) <= 3

    # One disk and two share directories are lost; the spool with them.
    disks[0].lose()
    for name in ("g2", "g5"):
        shutil.rmtree(place / name)
    shutil.rmtree(place / "state" / "spool")
    admin.day = DAYS + 1
    done = admin.run("restore", f"sky@{date(9)}", "--to", "sky9")
    assert tree(place / "sky9") == seen["sky"][9] and b"is not in the pool" in done.stderr
    admin.run("restore", f"ann@{date(4)}", "--to", "ann4", "--path", "diary.txt")
    assert tree(place / "ann4") == {"diary.txt": seen["ann"][4]["diary.txt"]}

    # What was lost is made again, and the site goes on.
    admin.run("media", "lost", "week-a", code=(0, 3))
    for name in ("g2", "g5"):
        (place / name).mkdir()
        admin.run("media", "label", name, f"new-{name}", "--target", "grid")
    admin.run("archive", "repair", "grid")
    for name in ("g1", "g3"):
        shutil.rmtree(place / name)
    admin.run("restore", f"mail@{date(6)}", "--to", "mail6")
    assert tree(place / "mail6") == seen["mail"][6]

    # An empty machine: media and key alone.
    new = Admin(tmp_path / "new", day=DAYS + 2)
    new.home.mkdir()
    media = [word for name in ("g2", "g4", "g5") for word in ("--media", str(place / name))]
    keyed = ("--pool", "pool", "--key", place / "site.key")
    new.run(*keyed, "restore", "--site", "--state", "state", *media, DAL_POLICY="")
    for name in SOURCES:
        new.run(*keyed, "restore", name, "--to", f"back-{name}", DAL_POLICY="")
        assert tree(new.home / f"back-{name}") == seen[name][DAYS], name
    new.run(*keyed, "verify", "--pool", DAL_POLICY="")

