"""Names that would steer the terminal of whoever looks at them: they are shown, and do nothing."""

import os
from pathlib import Path

import msgspec
import pytest

from cli_kit import User
from dalsegno.cli.completion import bash_script
from dalsegno.cli.terminal import Terminal, show, show_line
from dalsegno.pool.pool import Pool
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import Lease, VolumeState
from dalsegno.volumes.store import Volumes
from lying_kit import ESC

BAD = f"x{ESC}\r\x9b2J\nfake line"


def test_every_way_to_print_shows_what_would_steer(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is printed as it comes."""
    terminal = Terminal(json=False, quiet=False, verbose=True)
    terminal.result({}, [BAD, "plain"])
    terminal.stream([BAD], value=str, line=str)
    terminal.result({}, terminal.table([[BAD, "1"], ["b", "22"]], right=(1,)))
    terminal.note(BAD)
    terminal.fail(BAD)
    out, err = capsys.readouterr()
    shown = r"x\x1b]0;owned\x07\x1b[2J\r\x9b2J\nfake line"
    assert out.splitlines() == [shown, "plain", shown, shown + "   1", f"{'b':{len(shown)}}  22"]
    assert err.splitlines() == [
        shown,
        "dal: error: " + shown.replace(r"\r", "").replace("\\n", " ").replace(r"J\x9b", r"J \x9b"),
    ]


def test_bytes_that_are_no_text_are_shown_but_those_that_steer_a_terminal_of_eight_bits() -> None:
    """A byte of a name that is not UTF-8, and CSI where nothing is."""
    assert show(b"caf\xe9-\x9b2J-\x85-\xa0") == "caf\udce9-\\x9b2J-\\x85-\udca0"


def test_our_own_colours_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_line("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"


def test_a_script_is_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Text of several lines that is taken for a name."""
    from dalsegno.cli.main import main

    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == bash_script() + "\n"


COMMANDS = (
    ("volume", "list"),
    ("volume", "show", "doc"),
    ("clones", "doc"),
    ("clones",),
    ("log", "doc"),
    ("ls", "doc:/"),
    ("find", "plan", "--all"),
    ("versions", "doc:/plan"),
    ("stats",),
    ("status",),
    ("doctor",),
    ("plan",),
    ("mark", "--forget", "x"),
    ("prune", "doc", "--keep-last", "1", "--dry-run"),
    ("volume", "rename", "doc", BAD),
    ("clone", "doc", BAD),
    ("unclone", f"doc@{BAD}"),
    ("ls", BAD),
)


def test_no_command_prints_what_steers_a_terminal(tmp_path: Path) -> None:
    """Names that are in a pool for whatever reason, or in the words of a command."""
    user = User(tmp_path)
    source = tmp_path / "doc"
    source.mkdir()
    (source / "plan").write_text("a plan")
    (source / f"file{ESC}").write_text("x")
    (source / os.fsdecode(b"eight\x9b2J")).write_text("x")
    user.quick("init", "--encryption", "none")
    user.quick("backup", str(source))
    with Pool.open(tmp_path / "pool") as pool:
        volumes = Volumes(pool)
        state = volumes.get("doc")

        def spoil(current: VolumeState) -> VolumeState:
            clone = next(iter(current.clones.values()))
            record = DumpRecord(
                dump_id=b"d" * 16, level=0, revision=current.head, base_dump=b"", taken_at_ns=5, path=BAD, size_bytes=1
            )
            return msgspec.structs.replace(
                current,
                clones={**current.clones, BAD: msgspec.structs.replace(clone, created_ns=clone.created_ns + 1)},
                dumps=[record],
                settings={"exclude": [BAD], BAD: BAD},
                lease=Lease(owner=BAD, until_ns=1),
            )

        volumes.update(state.id, spoil)
    for words in COMMANDS:
        if any("\0" in word for word in words):
            continue
        done = user.quick_any(*words)
        assert b"Traceback" not in done.err and b"internal" not in done.err, (words, done.err)
        for data in (done.out, done.err):
            assert b"\x1b" not in data and b"\r" not in data and b"\x9b" not in data.replace(b"\xc2\x9b", b"\x9b"), (
                words,
                data,
            )
            assert b"\nfake line" not in data, (words, data)
