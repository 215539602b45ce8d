"""A user with a policy and a set of two homes, for tests of the backup cycle."""

import json
from pathlib import Path
from typing import Any

from cli_kit import User
from dalsegno.archive.catalog import Catalog
from dalsegno.archive.labels import write_label
from dalsegno.assembly.local import open_pool
from dalsegno.backup.records import SPOOL_TARGET, DumpEntry


def night(day: int, hour: str = "02:00") -> str:
    """Return DAL_NOW of the night `day` days after a Monday."""
    return f"2026-{11 if day < 15 else 12}-{16 + day if day < 15 else day - 14:02}T{hour}:00Z"


class Site(User):
    """A user with a policy: sets of directories, a disk, and a look behind the scenes."""

    def policy(self, text: str) -> None:
        (self.home / "site.toml").write_text(
            f'timezone = "UTC"\npool = "{self.home}/pool"\nstate = "{self.home}/state"\n'
            + text.replace("HOME", str(self.home))
        )

    def disk(self, name: str, *, target: str = "disks", kind: str = "directory") -> Path:
        path = self.home / name
        path.mkdir()
        write_label(path, label=name, target=target, kind=kind, now_ns=1)
        return path

    def back_up(self, day: int, *words: str, code: int | tuple[int, ...] = 0, **environment: str) -> Any:
        done = self.quick(
            "--json", "backup", *(words or ("--set", "all")), code=code, DAL_NOW=night(day), **environment
        )
        return json.loads(done.out) if done.out else None

    def dumps(self) -> list[DumpEntry]:
        with Catalog.open(f"sqlite:///{self.home}/state/catalog.sqlite") as catalog:
            return catalog.dumps()

    def spool(self) -> list[str]:
        return sorted(path.name for path in (self.home / "state" / "spool").glob("*") if path.is_file())

    def require_whole(self) -> dict[str, list[DumpEntry]]:
        """Compare journal, catalog, pool and disks; return the dumps by volume."""
        found: dict[str, list[DumpEntry]] = {}
        with (
            Catalog.open(f"sqlite:///{self.home}/state/catalog.sqlite") as catalog,
            open_pool(self.home / "pool", differs=lambda text: None) as house,
        ):
            assert catalog.open_jobs() == []
            assert all(run.ended_ns for run in catalog.runs())
            known = {entry.dump_id: entry for entry in catalog.dumps()}
            for entry in known.values():
                found.setdefault(entry.volume_name, []).append(entry)
                assert entry.verdict == "good"
                assert not entry.base_dump or entry.base_dump in known
                for copy in catalog.copies(entry.dump_id):
                    place = Path(copy.place) if copy.target == SPOOL_TARGET else self.home / copy.medium / copy.place
                    assert place.is_file(), place
            for state in house.volumes.list():
                assert state.lease is None
                assert {record.dump_id for record in state.dumps} == {
                    entry.dump_id for entry in found.get(state.name, [])
                }
        halves = [path for path in self.home.rglob("*.partial") if "pool" not in path.parts]
        assert halves == []
        return found


HOMES_POLICY = """
[targets.disks]
kind = "directory"
paths = ["HOME/disk1"]
[sets.homes]
sources = ["HOME/homes/*"]
targets = ["disks"]
cycle_days = 7
program = { monday = 0, tuesday = 1, wednesday = 2, thursday = 3, friday = 2, saturday = 3, sunday = 4 }
"""


def make_site(tmp_path: Path) -> Site:
    """Return a site of two homes and one disk, by weekday levels."""
    made = Site(tmp_path)
    made.environment = {"DAL_POLICY": str(tmp_path / "site.toml"), "DAL_POOL": str(tmp_path / "pool")}
    for name in ("ann", "bob"):
        (tmp_path / "homes" / name).mkdir(parents=True)
        (tmp_path / "homes" / name / "plan.txt").write_text(f"{name}'s plan\n")
    made.disk("disk1")
    made.policy(HOMES_POLICY)
    made.quick("init", str(tmp_path / "pool"), "--encryption", "none")
    return made


def change(site: Site, text: str) -> None:
    for name in ("ann", "bob"):
        (site.home / "homes" / name / "plan.txt").write_text(f"{name}: {text}\n")
