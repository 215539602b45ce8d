"""Command targets: any program that takes a file and gives it back."""

from pathlib import Path

import pytest
from archive_kit import flip, make_dump

from dalsegno.archive.command import CommandTarget, fill_words
from dalsegno.backup.policy import CommandPolicy
from dalsegno.backup.records import BAD, GOOD, MISSING
from dalsegno.terms.errors import BadInput, DalError, Damaged, Unavailable
from dalsegno.world.programs import run_program


def copying(tmp_path: Path, **changes: object) -> CommandTarget:
    store = tmp_path / "far away"
    store.mkdir(exist_ok=True)
    commands = {
        "store": f"cp {{file}} '{store}/{{name}}'",
        "fetch": f"cp '{store}/{{name}}' {{file}}",
        "remove": f"rm '{store}/{{name}}'",
        "list": f"ls '{store}'",
        **changes,
    }
    return CommandTarget(CommandPolicy(name="tape", **commands), scratch=tmp_path / "scratch")  # type: ignore[arg-type]


def test_a_dump_is_stored_read_back_fetched_checked_and_removed(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "my home.dump", size_bytes=100_000)
    target = copying(tmp_path)
    (copy,) = target.store(tmp_path / "my home.dump", entry, now_ns=5)
    assert copy.place == f"my home.{entry.dump_id.hex()[:12]}.dump" and copy.medium == "tape"
    target.fetch([copy], entry, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "my home.dump").read_bytes()
    assert target.check(copy, entry) == GOOD and target.open_read([copy], entry) is None
    (found,) = target.scan()
    assert (found.header.dump_id, found.header.dump_digest) == (entry.dump_id, entry.digest)
    flip(tmp_path / "far away" / copy.place)
    assert target.check(copy, entry) == BAD
    with pytest.raises(Damaged, match="not what was stored"):
        target.fetch([copy], entry, tmp_path / "again")
    assert not list(tmp_path.glob("again*"))
    target.remove(copy)
    assert target.check(copy, entry) == MISSING and list(target.scan()) == []
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("true", "fetch ended with exit code 1: cp: cannot stat"),
        ("sh -c 'echo first; echo tape is torn >&2; exit 7'", "store ended with exit code 7: tape is torn"),
        ("sh -c 'kill -9 $$'", "store ended with signal 9"),
        ("no-such-program-here {file}", "no such program"),
        ("sleep 30", "not done after 1 s: killed"),
    ],
)
def test_a_program_that_fails_is_told_with_its_last_words(tmp_path: Path, store: str, message: str) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=10)
    target = copying(tmp_path, store=store, timeout_seconds=1, list="")
    with pytest.raises(DalError, match=f"target tape: .*{message.partition(':')[0]}") as failed:
        target.store(tmp_path / "home.dump", entry, now_ns=5)
    assert message in str(failed.value) and failed.value.exit_code in (6, 9)


def test_a_store_that_loses_bytes_is_found_before_it_is_recorded(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=100_000)
    target = copying(tmp_path, store=f'sh -c \'head -c 5000 "$DAL_FILE" > "{tmp_path}/far away/$DAL_NAME"\'')
    with pytest.raises(Damaged, match="read back, and it is not what was stored"):
        target.store(tmp_path / "home.dump", entry, now_ns=5)


def test_tar_is_a_store_like_any_other(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=100_000)
    archive = f"{tmp_path}/far away/$DAL_NAME.tar"
    target = copying(
        tmp_path,
        store=f'sh -c \'tar -cPf "{archive}" --transform "s,.*,$DAL_NAME," "$DAL_FILE"\'',
        fetch=f'sh -c \'tar -xOf "{archive}" > "$DAL_FILE"\'',
        list=f"sh -c 'cd \"{tmp_path}/far away\" && ls | sed s/.tar$//'",
    )
    (copy,) = target.store(tmp_path / "home.dump", entry, now_ns=5)
    assert [path.name for path in (tmp_path / "far away").iterdir()] == [f"{copy.place}.tar"]
    target.fetch([copy], entry, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()
    assert [each.copy.place for each in target.scan()] == [copy.place]


def test_a_name_is_one_word_and_no_shell_reads_it() -> None:
    values = {"file": "/a b/$(touch x);'", "name": "n"}
    assert fill_words("put {file} --as={name}.x {other}", values) == ["put", "/a b/$(touch x);'", "--as=n.x", "{other}"]
    for bad in ("", "put 'open"):
        with pytest.raises(BadInput):
            fill_words(bad, values)


def test_a_verb_without_a_command_is_bad_input(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=10)
    target = copying(tmp_path, remove="", list="")
    (copy,) = target.store(tmp_path / "home.dump", entry, now_ns=5)
    with pytest.raises(BadInput, match="the policy has no `remove` command"):
        target.remove(copy)
    assert list(target.scan()) == []


def test_children_of_a_killed_program_end_too(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        run_program(["sh", "-c", f"sleep 2; touch {tmp_path}/late & wait"], timeout_seconds=0.2)
    run_program(["sleep", "2.2"])
    assert not (tmp_path / "late").exists()
