"""docs/guides/run-a-site.md, step by step: three sets, 14 nights, lost media, restores, and an empty machine."""

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import dalsegno
from cli_kit import User

NIGHTS = 14
DISK_MIB = 8
NOON = "2026-11-15T12:00:00Z"
"""After the last night."""


def night(day: int) -> str:
    """Return DAL_NOW of night 1 to 14: Monday 2 November 2026 and on."""
    return f"2026-11-{1 + day:02}T02:00:00Z"


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything a Linux file has, of all files under `root` and of itself."""
    found: dict[str, tuple[object, ...]] = {}
    first_name: dict[tuple[int, int], str] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(root))
        key = (status.st_dev, status.st_ino)
        linked = first_name.setdefault(key, name) if status.st_nlink > 1 and not path.is_dir() else ""
        data = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        attributes = {
            each: os.getxattr(path, each, follow_symlinks=False) for each in os.listxattr(path, follow_symlinks=False)
        }
        found[name] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, linked, sorted(attributes.items()), data
        )  # fmt: skip
    return found


@dataclass
class Disks:
    """Two disks: ext4 in a file where the machine allows, else plain directories, and that is said aloud."""

    home: Path
    mounted: list[Path] = field(default_factory=list)

    def make(self, name: str) -> Path:
        place, image = self.home / name, self.home / f"{name}.img"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], capture_output=True).returncode == 0
        if (
            made
            and subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True).returncode == 0
        ):
            self.mounted.append(place)
        else:
            warnings.warn("!!! may not loop-mount here: the rehearsal's disks are PLAIN DIRECTORIES", stacklevel=2)
        return place

    def lose(self, place: Path) -> None:
        if place in self.mounted:
            subprocess.run(["umount", str(place)], check=True)
            self.mounted.remove(place)
        shutil.rmtree(place)

    def close(self) -> None:
        for place in self.mounted:
            subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    made = Disks(tmp_path)
    yield made
    made.close()


def real_data(home: Path) -> None:
    """Fill three kinds of directories with our own source and pages, and with what only Linux files have."""
    source = Path(dalsegno.__file__).parent
    for user in ("ann", "bob"):
        shutil.copytree(source / ("pool" if user == "ann" else "host"), home / "homes" / user / "code")
    (home / "homes" / "ann" / "letters").mkdir()
    (home / "homes" / "ann" / "letters" / "offer.txt").write_text("the first offer\n")
    os.link(home / "homes" / "ann" / "letters" / "offer.txt", home / "homes" / "ann" / "offer again.txt")
    os.symlink("letters/offer.txt", home / "homes" / "ann" / "newest")
    (home / "homes" / "ann" / "letters").chmod(0o2750)
    os.mkfifo(home / "homes" / "bob" / "pipe")
    (home / "homes" / "bob" / "näme with\nnewline").write_bytes(os.urandom(800_000))
    with open(home / "homes" / "bob" / "holes", "wb") as file:
        file.seek(2_000_000)
        file.write(b"end")
    try:
        os.setxattr(home / "homes" / "bob" / "holes", "user.comment", b"mostly nothing")
    except OSError:
        pass
    for project in ("sky", "sea"):
        shutil.copytree(source / ("cli" if project == "sky" else "backup"), home / "projects" / project)
    shutil.copytree(source / "formats", home / "mail")
    for path in [
        *(home / "homes").rglob("__pycache__"),
        *(home / "projects").rglob("__pycache__"),
        *(home / "mail").rglob("__pycache__"),
    ]:
        shutil.rmtree(path)


def live_a_day(home: Path, day: int) -> None:
    """Change, make, rename and remove some files."""
    (home / "homes" / "ann" / "letters" / "offer.txt").write_text(f"the offer of day {day}\n")
    (home / "homes" / "bob" / f"new {day}").write_bytes(os.urandom(150_000))
    if day % 3 == 0:
        (home / "homes" / "bob" / f"new {day - 1}").unlink()
    (home / "projects" / "sky" / "TODO").write_text("\n".join(f"task {n}" for n in range(day)) + "\n")
    if day == 5:
        (home / "projects" / "sea").rename(home / "projects" / "ocean")
        (home / "projects" / "ocean").rename(home / "projects" / "sea")
        (home / "projects" / "sea" / "policy.py").rename(home / "projects" / "sea" / "old policy.py")
    with open(home / "mail" / "inbox", "ab") as file:
        file.write(os.urandom(5_000))
    os.utime(home / "mail" / "inbox", ns=(day * 10**18 // 7, day * 10**18 // 7))


POLICY = """
timezone = "Europe/Berlin"
pool = "HOME/pool"
key = "HOME/pool.key"
state = "HOME/state"

[targets.disks]
kind = "directory"
paths = ["HOME/disk-a", "HOME/disk-b"]

[targets.grid]
kind = "shares"
k = 3
n = 5
paths = ["HOME/g1", "HOME/g2", "HOME/g3", "HOME/g4", "HOME/g5"]

[sets.homes]
sources = ["HOME/homes/*"]
exclude = ["*.tmp"]
cycle_days = 7
program = "planned"
targets = ["disks", "grid"]
keep.clones = { last = 2 }
keep.archive = { daily = 30, monthly = 12 }

[sets.projects]
sources = ["HOME/projects/*"]
cycle_days = 7
program = { monday = 0, tuesday = 2, wednesday = 3, thursday = 1, friday = 2, saturday = 3, sunday = 4 }
targets = ["disks", "grid"]
keep.clones = { last = 2 }

[sets.mail]
sources = ["HOME/mail"]
cycle_days = 8
program = "hanoi"
targets = ["disks", "grid"]
keep.clones = { last = 2 }
"""
VOLUMES = {"ann": "homes/ann", "bob": "homes/bob", "sky": "projects/sky", "sea": "projects/sea", "mail": "mail"}


def test_site_from_nothing_to_fourteen_nights_lost_media_and_an_empty_machine(tmp_path: Path, disks: Disks) -> None:
    home = tmp_path
    real_data(home)
    site = User(home, {"DAL_POLICY": str(home / "dalsegno.toml"), "DAL_POOL": ""})
    (home / "dalsegno.toml").write_text(POLICY.replace("HOME", str(home)))
    assert site.quick("plan", "--check").out.decode().endswith("no mistakes; 3 sets\n")
    site.quick("init", "--encryption", "keyfile")
    site.quick("key", "export", str(home / "safe.key"))
    for name in ("disk-a", "disk-b"):
        disks.make(name)
        site.quick("media", "label", str(home / name), name, "--target", "disks", DAL_NOW=night(1))
    for number in range(1, 6):
        (home / f"g{number}").mkdir()
        site.quick("media", "label", str(home / f"g{number}"), f"grid-{number}", "--target", "grid", DAL_NOW=night(1))

    before: dict[int, dict[str, dict[str, tuple[object, ...]]]] = {}
    for day in range(1, NIGHTS + 1):
        live_a_day(home, day)
        before[day] = {volume: facts(home / place) for volume, place in VOLUMES.items()}
        report = json.loads(site.quick("--json", "backup", "--set", "all", DAL_NOW=night(day)).out)
        assert report["counts"] == {"done": 5, "incomplete": 0, "failed": 0} and report["at_risk"] == {}, (day, report)
    history = json.loads(site.quick("--json", "history", DAL_NOW=night(NIGHTS)).out)
    levels = {each["level"] for each in history if each["volume"] == "sky"}
    assert levels == {0, 1, 2, 3, 4} and len(history) == 5 * NIGHTS
    used = {each["label"]: each["files"] for each in json.loads(site.quick("--json", "media", "list").out)}
    if disks.mounted:
        assert used["disk-a"] and used["disk-b"], "the first disk is full, and the second took over"
    site.quick("status", "--check", code=(0, 1), DAL_NOW=night(NIGHTS))
    site.quick("drill", "--files", "5", DAL_NOW=night(NIGHTS))
    site.quick("catalog", "check", "--read", DAL_NOW=night(NIGHTS))

    # One disk and two of five directories are lost.
    disks.lose(home / "disk-a")
    (home / "disk-a").mkdir()
    shutil.rmtree(home / "g2")
    shutil.rmtree(home / "g4")
    for label in ("disk-a", "grid-2", "grid-4"):
        assert b"nowhere else" not in site.quick("media", "lost", label, DAL_NOW=night(NIGHTS)).out

    shown = site.quick("restore", "bob@2026-11-10", "--to", "day9", DAL_NOW=NOON)
    assert b"is not in the pool" in shown.out + shown.err
    assert facts(home / "day9") == before[9]["bob"]
    site.quick("restore", "ann@2026-11-05", "--to", "day4", "--path", "letters/offer.txt", DAL_NOW=NOON)
    (only,) = [path for path in (home / "day4").rglob("*") if path.is_file()]
    assert only.read_text() == "the offer of day 4\n"
    assert facts(only)["."][:4] == before[4]["ann"]["letters/offer.txt"][:4]

    # An empty machine: the media that are left, the policy, and the key.
    for name in ("pool", "state", "homes", "projects", "mail", ".cache", "pool.key"):
        path = home / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    shutil.copy(home / "safe.key", home / "pool.key")
    site.quick("restore", "--site", DAL_NOW=NOON)
    for volume, place in VOLUMES.items():
        (home / place).parent.mkdir(exist_ok=True)
        site.quick("restore", volume, "--to", str(home / place), DAL_NOW=NOON)
        assert facts(home / place) == before[NIGHTS][volume], volume
    site.quick("restore", "bob@2026-11-10", "--to", "again9", DAL_NOW=NOON)
    assert facts(home / "again9") == before[9]["bob"]

    # And the nights go on where they were: new directories for the lost shares, a new disk.
    for number in (2, 4):
        (home / f"g{number}").mkdir()
        site.quick(
            "media", "label", str(home / f"g{number}"), f"grid-{number}-new", "--target", "grid", DAL_NOW=night(15)
        )
    site.quick("media", "label", str(home / "disk-a"), "disk-c", "--target", "disks", DAL_NOW=night(15))
    site.quick("archive", "repair", "grid", DAL_NOW=night(15))
    live_a_day(home, 15)
    report = json.loads(site.quick("--json", "backup", "--set", "all", code=(0, 3), DAL_NOW=night(15)).out)
    assert report["counts"] == {"done": 5, "incomplete": 0, "failed": 0}, report
    site.quick("restore", "sky@2026-11-16", "--to", "day15", DAL_NOW=night(16))
    assert facts(home / "day15") == facts(home / "projects" / "sky")
