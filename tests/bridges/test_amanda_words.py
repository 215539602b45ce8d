"""The words between Amanda and the application: one table for each codec."""

import pytest

from dalsegno.actions.amanda import clone_in_use
from dalsegno.bridges.amanda import (
    chatter_line,
    check_line,
    check_volume,
    decode_path,
    encode_index,
    error_line,
    estimate_line,
    level_line,
    matching,
    parse_call,
    retry_line,
    size_kib,
    size_line,
    strange_line,
    support_lines,
    with_parents,
)
from dalsegno.terms.errors import BadInput
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, VolumeState

BACKUP = (
    "backup --message line --config daily --timestamp 20261121020000 --host h --disk vol.one --device u.one --level 2 "
    "--index line --state-stream 156 --record --clone-age 30m"
)


def test_backup_call_is_taken_apart_as_sendbackup_puts_it_together() -> None:
    call = parse_call(BACKUP.split())
    assert (call.command, call.config, call.host, call.disk, call.device) == (
        "backup",
        "daily",
        "h",
        "vol.one",
        "u.one",
    )
    assert (call.timestamp, call.level, call.index, call.records) == ("20261121020000", 2, True, True)
    assert call.clone_age_seconds == 1800 and call.unknown == () and call.volume == "u.one"
    assert call.recorder == "amanda:daily:h:vol.one"


def test_estimate_call_names_several_levels_and_restore_its_paths() -> None:
    assert parse_call(
        ["estimate", "--disk", "v", "--level", "0", "--level", "3", "--level", "4", "--calcsize"]
    ).levels == (0, 3, 4)
    call = parse_call(["restore", "--disk", "v", "--level", "1", "--clone-aeg", "4h", "./a/b", "."])
    assert call.paths == ("./a/b", ".") and call.unknown == ("clone-aeg",)


@pytest.mark.parametrize(("words", "dense"), [("", False), ("--compression fast", False), ("--compression BEST", True)])
def test_compression_is_the_pools_own_or_a_better_one(words: str, dense: bool) -> None:
    assert parse_call(["backup", *words.split()]).dense is dense
    with pytest.raises(BadInput, match=r"property COMPRESSION 'zstd': expected fast .* or best"):
        _ = parse_call(["backup", "--compression", "zstd"]).dense


@pytest.mark.parametrize(
    ("words", "records"),
    [
        ("backup --record", True),
        ("backup", False),
        ("backup --record --record no", False),
        ("backup --record yes", False),
        ("backup --record yes --record", True),
    ],
)
def test_flag_of_amanda_and_property_of_the_same_name_are_told_apart(words: str, records: bool) -> None:
    assert parse_call(words.split()).records is records


@pytest.mark.parametrize("words", ["", "dance", "backup --level", "backup --level two", "backup --level -1"])
def test_what_cannot_be_understood_is_refused(words: str) -> None:
    with pytest.raises(BadInput):
        parse_call(words.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("backup", "no volume"),
        ("backup --disk u.*", "a pattern"),
        ("backup --disk home --volumes u.*", "not among those"),
    ],
)
def test_volume_must_be_one_that_may_be_dumped(words: str, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        check_volume(parse_call(words.split()))
    assert check_volume(parse_call(["backup", "--disk", "u.one", "--volumes", "u.*"])) == "u.one"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (estimate_line(2, 4096), "2 4 1"),
        (estimate_line(1, 0), "1 1 1"),
        (estimate_line(1, None), "1 -1 -1"),
        (size_line(1025), "sendbackup: size 2"),
        (error_line("no\nvolume"), "sendbackup: error [no volume]"),
        (check_line(True, "fine"), "OK fine"),
        (check_line(False, "not\r\nfine"), "ERROR not fine"),
        (chatter_line("level 0"), "| level 0"),
        (strange_line("a\nb"), "? a b"),
        (retry_line('a "b"', delay_seconds=60), "sendbackup: retry delay 60 message \"a 'b'\""),
        (retry_line("x", delay_seconds=1, level=0), 'sendbackup: retry delay 1 level 0 message "x"'),
    ],
)
def test_every_answer_is_one_line_as_amanda_reads_it(line: str, text: str) -> None:
    assert line == text


def test_a_size_is_never_nothing() -> None:
    assert [size_kib(size) for size in (0, 1, 1024, 1025)] == [1, 1, 1, 2]


def test_support_says_each_thing_once() -> None:
    names = [line.split()[0] for line in support_lines()]
    assert len(set(names)) == len(names) and "MAX-LEVEL 9" in support_lines()


@pytest.mark.parametrize(
    ("path", "directory", "line"),
    [
        (b"", True, b"/\n"),
        (b"a", True, b"/a/\n"),
        (b"a/b c", False, b"/a/b c\n"),
        (b"back\\slash", False, b"/back\\\\slash\n"),
        (b"two\nlines", False, b"/two\\nlines\n"),
        (b"\\n", False, b"/\\\\n\n"),
        (b"\xff\xfe", False, b"/\xff\xfe\n"),
    ],
)
def test_index_line_and_the_path_that_a_restore_names_mean_the_same(path: bytes, directory: bool, line: bytes) -> None:
    assert encode_index(path, directory=directory) == line
    word = "." + line.rstrip(b"\n").decode(errors="surrogateescape")
    assert decode_path(word) == path


def test_every_level_has_a_line_of_its_own_that_means_the_root() -> None:
    lines = [level_line(level) for level in range(10)]
    assert lines[:2] == [b"/./\n", b"/././\n"] and len(set(lines)) == 10
    assert {decode_path("." + line.decode().rstrip("\n")) for line in lines} == {b""}


def test_index_leads_to_everything_from_the_root_and_says_nothing_twice() -> None:
    assert list(with_parents([])) == [(b"", True)]
    found = list(with_parents([(b"a/b/c", False), (b"a/b", True), (b"a/d", False), (b"", True)]))
    assert found == [(b"", True), (b"a", True), (b"a/b", True), (b"a/b/c", False), (b"a/d", False)]


def test_pattern_means_whole_names_and_knows_upper_case() -> None:
    assert matching(["u.one", "u.two", "U.one", "home"], "u.*") == ["u.one", "u.two"]


@pytest.mark.parametrize(
    ("age_seconds", "used"),
    [(14399, True), (14400, False), (0, True), (-1, False)],
    ids=["young", "old", "new", "ahead"],
)
def test_clone_is_used_for_four_hours(age_seconds: int, used: bool) -> None:
    now = 10**18
    clone = Clone(revision=b"r", created_ns=now - age_seconds * 10**9)
    state = VolumeState(id=b"i", name="v", kind=NATIVE, source=b"", created_ns=0, clones={"amanda": clone})
    assert (clone_in_use(state, "amanda", age_seconds=4 * 3600, now_ns=now) is clone) is used
    assert clone_in_use(state, "other", age_seconds=4 * 3600, now_ns=now) is None


@pytest.mark.parametrize("level", ["", "x", "-1", "9" * 5000])
def test_a_level_that_is_none_is_said(level: str) -> None:
    """Kind of fault: Python reads no number of thousands of digits."""
    with pytest.raises(BadInput, match="level"):
        parse_call(["backup", "--level", level])
