"""Durable files: whole or not there; faults are injected at each step."""

import os
from pathlib import Path

import pytest

from dalsegno.terms.errors import AlreadyThere, Full, Refused
from dalsegno.world import chance, clock, files
from dalsegno.world.workers import Workers


@pytest.mark.parametrize("step", [1, 2, 3])
def test_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    path = tmp_path / "value"
    files.write_durable(path, b"old")
    monkeypatch.setattr(files, "_steps_taken", 0)
    monkeypatch.setenv("DAL_FAULT", f"full:{step}")
    with pytest.raises(Full, match="value"):
        files.write_durable(path, b"new")
    assert [child.name for child in tmp_path.iterdir()] == ["value"] and path.read_bytes() == b"old"


def test_write_without_replace_refuses_a_taken_name(tmp_path: Path) -> None:
    files.write_durable(tmp_path / "a", b"1", replace=False)
    with pytest.raises(AlreadyThere):
        files.write_durable(tmp_path / "a", b"2", replace=False)
    assert [child.name for child in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"1"


def test_stale_partial_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "p.partial").write_bytes(b"left by a killed writer")
    with files.PartialFile(tmp_path / "p") as file:
        file.write(b"good")
        assert file.offset == 4
        file.commit()
    assert [child.name for child in tmp_path.iterdir()] == ["p"] and (tmp_path / "p").read_bytes() == b"good"


def test_lock_is_exclusive_between_openings(tmp_path: Path) -> None:
    with files.FileLock(tmp_path / "l") as first, files.FileLock(tmp_path / "l") as second:
        assert first.acquire(shared=True) and second.acquire(shared=True)
        assert not first.acquire(wait=False)
        second.close()
        assert first.acquire(wait=False)


def test_clock_stops_for_a_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAL_NOW", "2026-11-21T02:00:00.000001+00:00")
    assert clock.now_ns() == 1795226400000001000
    monkeypatch.setenv("DAL_NOW", "17")
    assert clock.now_ns() == 17


def test_nodes_are_63_bits_and_never_zero() -> None:
    assert all(0 < chance.random_node() < 2**63 for _ in range(1000))


def test_crew_ends_with_its_block() -> None:
    with Workers(2) as crew:
        futures = [crew.submit(pow, 2, number) for number in range(10)]
    assert [future.result() for future in futures] == [2**number for number in range(10)]


def test_a_file_never_takes_the_place_of_a_device_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="no ordinary file"):
        files.PartialFile(tmp_path / "pipe")
    with pytest.raises(Refused, match="no ordinary file"):
        files.write_durable(tmp_path / "pipe", b"text")
    assert os.listdir(tmp_path) == ["pipe"] and (tmp_path / "pipe").is_fifo()
