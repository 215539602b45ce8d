"""The reserve is given up for what makes room, and for nothing else, and comes back."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalsegno.backends.local import LocalBackend
from dalsegno.backends.reserve import (
    RESERVE_BYTES_MAX,
    RESERVE_BYTES_MIN,
    RESERVE_BYTES_SMALL,
    RESERVE_NAME,
    keep_reserve,
    reserve_bytes,
    with_reserve,
)
from dalsegno.terms.errors import Full
from dalsegno.terms.sizes import GIB, MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2000k", "tmpfs", place], check=False).returncode:
        pytest.skip("A FULL DISK IS NOT TESTED: no tmpfs can be mounted")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> None:
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass


def test_values_shrink_and_go_on_a_full_disk_but_do_not_grow(disk: Path) -> None:
    """The kind: what makes room needs room."""
    backend = LocalBackend(disk)
    for name, size in (("refs/a", 9_000), ("refs/b", 9_000)):
        assert backend.swap(name, expected=None, value=bytes(size))
    assert keep_reserve(disk)
    fill(disk)
    with pytest.raises(Full):
        backend.swap("refs/a", expected=bytes(9_000), value=bytes(50_000))
    assert (disk / RESERVE_NAME).exists(), "what grows does not get it"
    assert backend.swap("refs/a", expected=bytes(9_000), value=bytes(8_000))
    assert backend.read("refs/a") == bytes(8_000)
    assert backend.swap("refs/b", expected=bytes(9_000), value=None)
    assert keep_reserve(disk), "there is room for it again"


def test_without_a_reserve_a_full_disk_is_full(disk: Path) -> None:
    fill(disk)
    assert not keep_reserve(disk)
    tries = []

    def step() -> None:
        tries.append(1)
        raise Full("no room")

    with pytest.raises(Full):
        with_reserve(disk, step)
    assert tries == [1] and {path.name for path in disk.iterdir()} == {"ballast"}


@pytest.mark.parametrize(
    ("disk_bytes", "large", "expected"),
    [
        (100_000, True, RESERVE_BYTES_MIN),
        (3 * MIB, True, 3 * MIB // 64),
        (3 * MIB, False, 3 * MIB // 64),
        (100 * GIB, False, RESERVE_BYTES_SMALL),
        (100 * GIB, True, RESERVE_BYTES_MAX),
    ],
)
def test_the_reserve_fits_the_disk(disk_bytes: int, large: bool, expected: int) -> None:
    assert reserve_bytes(disk_bytes, large=large) == expected


def test_the_reserve_grows_with_what_it_serves(tmp_path: Path) -> None:
    sizes = []
    for large in (False, True, False):
        assert keep_reserve(tmp_path, large=large)
        sizes.append((tmp_path / RESERVE_NAME).stat().st_size)
    assert sizes == [RESERVE_BYTES_SMALL, RESERVE_BYTES_MAX, RESERVE_BYTES_MAX]
    assert {path.name for path in tmp_path.iterdir()} == {RESERVE_NAME}
