"""Root works in a directory of somebody else, who put links and root's own files under the names that are written.

Kind: what root opens there, makes there, or gives to the directory's owner, is any file of the machine.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dalsegno.backends.local import LocalBackend
from dalsegno.host.cache import CacheBuilder
from dalsegno.terms.errors import DalError
from dalsegno.world import files

HIS = 12345
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can be led astray here")


def lock(path: Path) -> None:
    with files.FileLock(path) as made:
        made.acquire()


def upload(path: Path) -> None:
    with files.UploadFile(path, create=True) as made:
        made.write_at(0, b"x")


def resume(path: Path) -> None:
    with files.ResumedFile(path.with_suffix("")) as made:
        made.write(b"x")


OPENERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "lock": ("writers.lock", lock),
    "append": ("heads", lambda path: files.append_lines(path, [b"x"])),
    "upload": ("upload.partial", upload),
    "resume": ("dump.partial", resume),
    "filler": ("reserve.partial", lambda path: files.make_filler(path.with_suffix(""), b"x")),
    "cache": (
        f"v.scan.{os.getpid()}.tmp",
        lambda path: CacheBuilder(1).save(path.with_name("v.scan"), revision=bytes(32)),
    ),
}


@pytest.fixture
def his(tmp_path: Path) -> Path:
    place = tmp_path / "his"
    place.mkdir()
    os.chown(place, HIS, HIS)
    return place


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("how", ["link", "dangling", "hard"])
def test_a_planted_name_leads_to_no_file_of_roots(his: Path, tmp_path: Path, name: str, how: str) -> None:
    place, work = OPENERS[name]
    victim = tmp_path / "shadow"
    if how != "dangling":
        victim.write_bytes(b"")
        victim.chmod(0o600)
    (his / place).hardlink_to(victim) if how == "hard" else (his / place).symlink_to(victim)
    os.chown(his / place, HIS, HIS, follow_symlinks=False) if how != "hard" else None
    try:
        work(his / place)
    except DalError as error:
        assert "link" in str(error)
    if how == "dangling":
        assert not victim.exists(), "root made a file where somebody else wanted it"
        return
    status = victim.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600), "root's file was given away"
    assert how == "hard" or status.st_size == 0, "root wrote to it"


@pytest.mark.parametrize("name", ["lock", "append", "upload", "filler"])
def test_what_root_makes_there_is_the_owners(his: Path, name: str) -> None:
    place, work = OPENERS[name]
    work(his / place)
    (made,) = list(his.iterdir())
    assert made.stat().st_uid == HIS


def test_an_empty_file_that_root_was_killed_over_becomes_the_owners(his: Path) -> None:
    (his / "writers.lock").touch()
    lock(his / "writers.lock")
    assert (his / "writers.lock").stat().st_uid == HIS


def test_a_file_of_roots_that_was_moved_there_stays_roots(his: Path) -> None:
    (his / "writers.lock").write_text("what root had put into this directory for himself")
    lock(his / "writers.lock")
    assert (his / "writers.lock").stat().st_uid == 0


def test_a_link_in_the_place_of_a_directory_is_followed(his: Path, tmp_path: Path) -> None:
    """What is true today: a pool's own directories may be links, and so lead whoever works in somebody else's pool."""
    (tmp_path / "elsewhere").mkdir()
    (his / "refs").symlink_to(tmp_path / "elsewhere")
    LocalBackend(his).create("refs/volumes/x", b"x")
    assert (tmp_path / "elsewhere" / "volumes" / "x").read_bytes() == b"x"


def test_a_scratch_file_is_not_kept_out_by_names_that_others_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind: in a directory that all may write, a file of the name that comes next stops a large backup."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    counter = next(files._temporary_counter)
    for number in range(counter, counter + 100):
        (tmp_path / f"dalsegno-{os.getpid()}-{number}{files.PARTIAL_SUFFIX}").touch()
    scratch = files.ScratchFile()
    assert scratch.read(scratch.append(b"x"), 1) == b"x"
    scratch.close()
