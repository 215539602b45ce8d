"""Standard streams that are full, closed, or read by nobody: one line, one exit code, nothing in the wrong place."""

import os
import subprocess

import pytest
from face_kit import COMMAND, Person, environment

from dalsegno.terms.errors import EXIT_NO_READER


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    home = tmp_path_factory.mktemp("streams")
    (home / "doc").mkdir()
    (home / "doc" / "large").write_bytes(os.urandom(1 << 20))
    person = Person(home)
    person.run("backup", "doc", "--name", "one")
    return person


def shell(person: Person, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    variables = {key: text for key, text in environment(person.home, **more).items() if key != "PYTHONUNBUFFERED"}
    dal = " ".join(COMMAND)
    return subprocess.run(
        ["bash", "-c", script.replace("dal ", f"{dal} ")],
        cwd=person.home,
        env={**variables, **more},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ("clones doc --json", {}), ("dump doc -o -", {}), ("ls --help", {}),
        ("cat doc:/large", {"PYTHONUNBUFFERED": "1"}), ("ls doc", {"PYTHONUNBUFFERED": "1"}),
    ],
)  # fmt: skip
def test_full_output_is_an_error_of_one_line(person: Person, words: str, variables: dict[str, str]) -> None:
    """Kind: an output that could not be written is taken for written, or the interpreter complains for itself."""
    done = shell(person, f"dal {words} >/dev/full", **variables)
    assert done.returncode == 10 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done
    assert "Exception" not in done.stderr


def test_reader_that_goes_away_ends_lists_quietly_and_disturbs_no_work(person: Person) -> None:
    """Kind: exit code 120 for a closed pipe."""
    script = "dal cat doc:/large | true; echo ${PIPESTATUS[0]}; dal backup doc --name two | true; echo ${PIPESTATUS[0]}"
    done = shell(person, script)
    assert done.stdout.split() == [str(EXIT_NO_READER), "0"] and done.stderr == ""
    assert "two" in [clone["clone"] for clone in person.value("clones", "doc")]


def test_notes_that_nobody_can_hear_do_not_end_the_work(person: Person) -> None:
    for number, stream in enumerate(("2>/dev/full", "2>&-", ">&- 2>&- <&-")):
        (person.home / "doc" / "new").write_text(str(number))
        os.chmod(person.home / "doc" / "new", 0o600)
        done = shell(person, f"dal backup doc --name quiet{number} {stream}")
        assert done.returncode == 0 and done.stderr == "", done
    assert {"quiet0", "quiet1", "quiet2"} <= {clone["clone"] for clone in person.value("clones", "doc")}


def test_bytes_are_refused_where_the_output_is_closed(person: Person) -> None:
    """Kind: a file that is opened gets a closed stream's number, and words are written into it, or bytes nowhere."""
    dumps = len(person.value("volume", "show", "doc")["dumps"])
    for words in ("dump doc -o -", "cat doc:/large"):
        done = shell(person, f"dal {words} >&-")
        assert done.returncode == 2 and "standard output is closed" in done.stderr
    assert len(person.value("volume", "show", "doc")["dumps"]) == dumps
    done = shell(person, "dal verify - <&-")
    assert done.returncode == 2 and "standard input is closed" in done.stderr
    person.run("verify", "--pool")


def test_names_that_the_output_cannot_spell_are_shown_otherwise(person: Person) -> None:
    """Kind: a name in another script ends a list with an error."""
    odd = os.fsencode(person.home / "doc") + "/größe-вода-".encode() + b"\xff"
    with open(odd, "w"):
        pass
    person.run("backup", "doc", "--name", "odd")
    for variables in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "TERM": "dumb"}):
        done = subprocess.run(
            [*COMMAND, "ls", "doc@odd"], env=environment(person.home, **variables), capture_output=True
        )
        assert done.returncode == 0 and b"-\xff\n" in done.stdout, (done, variables)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")
def test_a_mount_in_the_foreground_says_at_once_that_it_is_there(person: Person) -> None:
    """Kind: a line that a pipe or a journal gets only at the end."""
    (person.home / "old").mkdir()
    process = subprocess.Popen(
        [*COMMAND, "mount", "--foreground", "doc@one", "old"],
        cwd=person.home,
        env={key: text for key, text in environment(person.home).items() if key != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None and b"doc@one is at old" in process.stdout.readline()
        assert (person.home / "old" / "large").exists()
        listed = person.run("mount", "--list").stdout.decode().splitlines()
        assert listed[0].split() == ["shows", "at", "by"] and any(str(person.home / "old") in line for line in listed)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert not os.path.ismount(person.home / "old")
