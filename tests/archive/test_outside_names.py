"""Names on media, in the catalog and from programs that would lead out of where they belong."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from archive_kit import directory_policy, label, make_dump

from dalsegno.actions.hooks import HookFailed, run_hooks
from dalsegno.archive.command import CommandTarget
from dalsegno.archive.directory import DirectoryTarget
from dalsegno.archive.shares import SharesTarget
from dalsegno.archive.spool import Spool
from dalsegno.backup.policy import CommandPolicy, SharesPolicy
from dalsegno.backup.records import SPOOL_TARGET, Copy
from dalsegno.dumps.place import dump_name
from dalsegno.formats.media import (
    HEADER_DIGEST_BYTES,
    TAG_BYTES,
    chunk_tag,
    decode_part_header,
    encode_part_header,
    part_header_bytes,
)
from dalsegno.terms.errors import DalError, Damaged, Refused
from dalsegno.terms.events import Event, Note

ELSEWHERE = (
    "/etc/victim.dump",
    "../victim.dump",
    "dumps/../../victim.dump",
    "dumps//victim.dump",
    "dumps/.victim.dump",
    "dumps/a/victim.dump",
    "dumps/-victim.dump",
    "dumps/a\nb.dump",
    "dumps/a\0.dump",
    "victim.dump",
    "dumps",
    "dumps/",
    "",
)


def copy_at(place: str, target: str = "disks") -> Copy:
    return Copy(
        dump_id=b"d" * 16, target=target, medium="a", place=place, size_bytes=1, written_at_ns=1, checked_at_ns=1
    )


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_copy_lies_among_the_dumps_of_its_medium_whatever_the_catalog_says(tmp_path: Path, place: str) -> None:
    """A place from a database that becomes a path by itself: read, and removed."""
    label(tmp_path / "a", "a")
    (tmp_path / "victim.dump").write_bytes(b"precious")
    entry = make_dump(tmp_path / "home.dump", size_bytes=100)
    target = DirectoryTarget(directory_policy(tmp_path / "a"))
    copy = copy_at(place)
    with pytest.raises(Refused, match="not used"):
        target.remove(copy)
    with pytest.raises(Refused, match="not used"):
        target.fetch([copy], entry, tmp_path / "back")
    assert (tmp_path / "victim.dump").read_bytes() == b"precious"
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("place", ["/etc/passwd", "x.dump", "../x.dump", "/a/../x.dump", "/a/.x.dump", "/a\0/x.dump"])
def test_only_a_dump_is_in_the_spool_whatever_the_catalog_says(place: str) -> None:
    """A place from a database that is removed as it comes."""
    with pytest.raises(Refused, match="not used"):
        copy_at(place, SPOOL_TARGET).path_in_spool()
    assert copy_at("/var/spool/x.dump", SPOOL_TARGET).path_in_spool() == Path("/var/spool/x.dump")


@pytest.mark.parametrize(
    "name", ["../victim.dump", "/victim.dump", ".victim.dump", "a/b.dump", "a\nb.dump", "a\0.dump"]
)
def test_a_dump_lies_in_the_spool_whatever_its_volume_is_called(tmp_path: Path, name: str) -> None:
    """A name from a server that becomes a path by itself."""
    with pytest.raises(Refused, match="not used"):
        Spool(tmp_path).place(name)
    with pytest.raises(Refused, match="not used"):
        dump_name(name.removesuffix(".dump"), "clone", 0)
    with pytest.raises(Refused, match="not used"):
        dump_name("home", "x/" + name, 0)


def rename_share(path: Path, name: str) -> None:
    """Write a share's header anew, as who has the medium can, with every tag right."""
    data = path.read_bytes()
    end = part_header_bytes(data)
    header = decode_part_header(data[:end])
    encoded = encode_part_header(msgspec.structs.replace(header, name=name))
    step = header.length + TAG_BYTES
    chunks = [data[start : start + header.length] for start in range(end, len(data), step)]
    digest = encoded[-HEADER_DIGEST_BYTES:]
    path.write_bytes(encoded + b"".join(chunk + chunk_tag(digest, n, chunk) for n, chunk in enumerate(chunks)))


def test_a_share_made_again_lies_where_it_was_whatever_another_says(tmp_path: Path) -> None:
    """A name in a file on a medium that becomes the path of another file."""
    paths = tuple(tmp_path / f"dir{number}" for number in range(2))
    for number, path in enumerate(paths):
        label(path, f"share-{number}", target="grid", kind="shares")
    target = SharesTarget(SharesPolicy(name="grid", paths=paths, k=1, n=2))
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    rename_share(paths[0] / copies[0].place, "../../victim.dump")
    (paths[1] / copies[1].place).unlink()
    with pytest.raises(DalError):
        target.repair(copies, entry, now_ns=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir0", "dir1", "home.dump"]
    renamed = (paths[0] / copies[0].place).read_bytes()
    with pytest.raises(Damaged):
        decode_part_header(renamed[: part_header_bytes(renamed)])


def test_what_a_program_lists_is_no_option_and_no_path(tmp_path: Path) -> None:
    """A line of another program's output that becomes a word of a command."""
    touched = tmp_path / "touched"
    listing = "printf '%s\\n' ' -rf' ../../etc/passwd .x /abs"
    fetch = f"sh -c 'touch {touched}' {{name}}"
    settings = CommandPolicy(name="cmd", store="true", fetch=fetch, remove=fetch, list=listing)
    notes: list[Event] = []
    target = CommandTarget(settings, scratch=tmp_path / "scratch")
    assert list(target.scan(report=notes.append)) == []
    told = [each for each in notes if isinstance(each, Note)]
    assert len(told) == 4 and all("not used" in each.text for each in told)
    assert not touched.exists()
    entry = replace(make_dump(tmp_path / "home.dump", size_bytes=10), volume_name="--delete")
    with pytest.raises(Refused, match="not used"):
        target.store(tmp_path / "home.dump", entry, now_ns=1)
    with pytest.raises(Refused, match="not used"):
        target.remove(copy_at("-rf", "cmd"))


@pytest.mark.parametrize("key", ["DAL_VOLUME", "DAL_CLONE"])
@pytest.mark.parametrize("name", ["../x", "a\nb", "a\0b", "-rf", ".x"])
def test_a_hook_is_not_run_for_a_name_that_is_none(tmp_path: Path, key: str, name: str) -> None:
    """A name that a script makes a path of."""
    with pytest.raises(HookFailed, match="not run"):
        run_hooks([f"touch {tmp_path}/ran"], name="before", environment={key: name}, timeout_seconds=10)
    assert not (tmp_path / "ran").exists()
