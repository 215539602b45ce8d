"""Media that somebody else has prepared: they neither lead out of themselves nor hold a run up."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archive_kit import directory_policy, label, make_dump

from dalsegno.archive.directory import DirectoryTarget
from dalsegno.archive.shares import SharesTarget
from dalsegno.backup.policy import SharesPolicy
from dalsegno.terms.errors import DalError, Refused
from dalsegno.terms.events import Event, Note, silent


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """End a test that waits for a writer of a FIFO."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture(params=["directory", "shares"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A target whose first medium is at `m1`."""
    if request.param == "directory":
        return DirectoryTarget(directory_policy(label(tmp_path / "m1", "m1")))
    places = tuple(label(tmp_path / f"m{n}", f"m{n}", target="grid", kind="shares") for n in (1, 2, 3))
    return SharesTarget(SharesPolicy(name="grid", paths=places, k=2, n=3))


def lead_astray(tmp_path: Path) -> Path:
    """Make the medium's `dumps` a link to a directory that is not the medium's."""
    victim = tmp_path / "etc"
    dumps = tmp_path / "m1" / "dumps"
    if dumps.exists():
        dumps.rename(victim)
    else:
        victim.mkdir()
    dumps.symlink_to(victim)
    return victim


def test_nothing_is_written_through_a_link_in_the_place_of_the_dumps(target: Any, tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=100_000)
    victim = lead_astray(tmp_path)
    with pytest.raises(Refused, match="dumps: is no directory"):
        target.store(tmp_path / "home.dump", entry, now_ns=5, report=silent)
    assert list(victim.iterdir()) == []


def test_nothing_is_removed_or_found_through_such_a_link(target: Any, tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=100_000)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=5, report=silent)
    victim = lead_astray(tmp_path)
    before = sorted(victim.iterdir())
    own = next(copy for copy in copies if copy.medium == "m1")
    with pytest.raises(Refused, match="dumps: is no directory"):
        target.remove(own)
    said: list[Event] = []
    assert all(found.copy.medium != "m1" for found in target.scan(report=said.append))
    assert any(isinstance(event, Note) and "is no directory" in event.text for event in said)
    assert sorted(victim.iterdir()) == before


def test_fifos_among_the_dumps_hold_nothing_up(target: Any, tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=100_000)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=5, report=silent)
    own = next(copy for copy in copies if copy.medium == "m1")
    place = tmp_path / "m1" / own.place
    for path in (place.with_name(place.name + ".note"), place):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    assert target.check(own, entry, report=silent) != "good"
    assert all(found.copy.medium != "m1" for found in target.scan(report=silent))
    try:
        target.fetch(copies, entry, tmp_path / "back", report=silent)
    except DalError:
        assert not (tmp_path / "back").exists()
    else:
        assert (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()
