"""The face: terminals, interrupts, completion, JSON, help."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from face_kit import COMMAND, SOURCE, Person, Session, environment

from dalsegno.cli.main import COMMANDS
from dalsegno.cli.terminal import Terminal, progress_line
from dalsegno.terms.errors import Damaged
from dalsegno.terms.events import Progress


@pytest.fixture
def person(tmp_path: Path) -> Person:
    doc = tmp_path / "doc"
    (doc / "sub").mkdir(parents=True)
    (doc / "plan.txt").write_text("first plan\n")
    (doc / "sub" / "big.bin").write_bytes(os.urandom(300_000))
    return Person(tmp_path)


# -- Ctrl-C


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Enough that every command can be caught at work."""
    home = tmp_path_factory.mktemp("large")
    (home / "doc").mkdir()
    for number in range(4):
        (home / "doc" / f"large{number}").write_bytes(os.urandom(24 << 20))
    person = Person(home)
    person.run("backup", "doc", "--name", "one")
    (home / "doc" / "more").write_bytes(os.urandom(24 << 20))
    person.run("dump", "doc@one", "--level", "0", "-o", "0.dump")
    person.run("backup", "doc", "--name", "two")
    person.run("dump", "doc@two", "--level", "1", "-o", "1.dump")
    return person


def started(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [["dump", "doc", "--level", "0"], ["merge", "0.dump", "1.dump"]])
def test_interrupted_dump_and_merge_leave_no_file(large: Person, words: list[str], number: int) -> None:
    out = large.home / "out.dump"
    before = large.value("volume", "show", "doc")["dumps"]
    half = large.home / "out.dump.partial"
    errors = large.interrupt(*words, "-o", "out.dump", when=lambda: started(half), number=number)
    assert errors.count(b"\n") == 1 and b"interrupted" in errors
    assert not list(large.home.glob("out*"))
    assert large.value("volume", "show", "doc")["dumps"] == before
    if number == signal.SIGINT:
        large.run(*words, "-o", "out.dump", "--no-record" if words[0] == "dump" else "--quiet")
        large.run("verify", "out.dump")
        out.unlink()


def test_interrupted_dump_into_a_pipe_ends(large: Person) -> None:
    process = subprocess.Popen(
        [*COMMAND, "dump", "doc", "--level", "0", "-o", "-"],
        cwd=large.home,
        env=environment(large.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(100_000)
    process.send_signal(2)
    process.stdout.close()
    assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    assert process.wait(30) in (130, 1)
    assert len(large.value("volume", "show", "doc")["dumps"]) == 2


def test_interrupted_restore_leaves_whole_files_and_goes_on(large: Person) -> None:
    back = large.home / "back"
    try:
        large.interrupt("restore", "doc", "--to", "back", when=lambda: back.is_dir() and bool(os.listdir(back)))
        for file in back.iterdir():
            assert file.read_bytes() == (large.home / "doc" / file.name).read_bytes()
        large.run("restore", "doc", "--to", "back")
        assert sorted(os.listdir(back)) == sorted(os.listdir(large.home / "doc"))
    finally:
        shutil.rmtree(back)


def test_interrupted_backup_leaves_the_pool_good(large: Person) -> None:
    packs = large.home / "pool" / "packs"
    large.run("--pool", "pool", "init")
    large.interrupt("--pool", "pool", "backup", "doc", when=lambda: any(map(started, packs.rglob("*.p*"))))
    assert large.value("--pool", "pool", "clones", "doc") == []
    large.run("--pool", "pool", "verify", "--pool", "pool")
    large.run("--pool", "pool", "backup", "doc", "--name", "after")
    assert [clone["clone"] for clone in large.value("--pool", "pool", "clones", "doc")] == ["after"]
    shutil.rmtree(large.home / "pool")


def test_interrupted_passphrase_prompt_is_130(person: Person) -> None:
    session = Session(person, [*COMMAND, "init", "--encryption", "passphrase"])
    session.expect(b"Passphrase: ")
    session.send(b"\x03")
    code, seen = session.finish()
    assert code == 130 and b"Traceback" not in seen


# -- terminals


def test_passphrase_is_asked_for_twice_at_first_then_once_and_never_shown(person: Person) -> None:
    def say(words: list[str], *answers: bytes) -> tuple[int, bytes]:
        session = Session(person, [*COMMAND, *words])
        for number, answer in enumerate(answers):
            session.expect(b"Again: " if number else b"Passphrase: ")
            session.send(answer + b"\n")
        code, seen = session.finish()
        assert not any(answer in seen for answer in answers)
        return code, seen

    code, seen = say(["init", "--encryption", "passphrase"], b"one-secret", b"another")
    assert code == 2 and b"differ" in seen
    assert say(["init", "--encryption", "passphrase"], b"one-secret", b"one-secret")[0] == 0
    assert say(["backup", "doc"], b"one-secret")[0] == 0
    code, seen = say(["ls", "doc"], b"one-secret")
    assert code == 0 and b"plan.txt" in seen
    code, seen = say(["ls", "doc"], b"not-that")
    assert code == 8 and b"wrong passphrase" in seen
    error = person.run("ls", "doc", code=2).stderr
    assert b"DAL_PASSPHRASE" in error and error.count(b"\n") == 1


def test_passphrase_is_asked_for_although_the_dump_comes_through_a_pipe(person: Person) -> None:
    person.run("init", "--encryption", "passphrase", DAL_PASSPHRASE="one-secret")
    person.run("backup", "doc", DAL_PASSPHRASE="one-secret")
    person.run("dump", "doc", "-o", "0.dump", DAL_PASSPHRASE="one-secret")
    session = Session(person, ["sh", "-c", f"cat 0.dump | {' '.join(COMMAND)} verify -"])
    session.expect(b"Passphrase: ")
    session.send(b"one-secret\n")
    code, seen = session.finish()
    assert code == 0 and b"whole" in seen


def test_progress_is_drawn_on_a_terminal_and_erased(large: Person) -> None:
    session = Session(large, [*COMMAND, "verify", "0.dump", "1.dump"])
    session.expect(b"\r\x1b[Kverify  ")
    session.expect(b" %")
    code, seen = session.finish()
    assert code == 0 and seen.rpartition(b"\x1b[K")[2].startswith(b"0.dump: whole")
    for more in (["--quiet"], ["--json"]):
        session = Session(large, [*COMMAND, "verify", "0.dump", *more])
        code, seen = session.finish()
        assert code == 0 and b"\x1b" not in seen


def test_nothing_is_drawn_into_pipes(large: Person) -> None:
    done = large.run("verify", "0.dump")
    assert done.stderr == b"" and b"\r" not in done.stdout and b"\x1b" not in done.stdout
    assert large.run("backup", "doc", "--name", "quiet").stderr == b""


SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("event", "elapsed_ns", "line"),
    [
        (Progress(phase="scan"), 0, "scan"),
        (
            Progress(phase="dump", done_bytes=30 << 20, total_bytes=120 << 20),
            10 * SECOND_NS,
            "dump  30.0 MiB of 120.0 MiB  3.0 MiB/s  25 %  30 s left",
        ),
        (
            Progress(phase="dump", done_bytes=30 << 20, total_bytes=120 << 20),
            SECOND_NS,
            "dump  30.0 MiB of 120.0 MiB  25 %",
        ),
        (
            Progress(phase="scan", done_count=500, total_count=2000, done_bytes=0),
            60 * SECOND_NS,
            "scan  500 of 2,000 files  25 %  3 min 0 s left",
        ),
        (
            Progress(phase="scan", done_count=500, done_bytes=40 << 20, share=0.4),
            4 * SECOND_NS,
            "scan  500 files  40.0 MiB  10.0 MiB/s  about 40 %  about 6.0 s left",
        ),
        (
            Progress(phase="restore", done_count=900, total_count=1000, done_bytes=0, total_bytes=1 << 30),
            9 * SECOND_NS,
            "restore  900 of 1,000 files  0 B of 1.0 GiB  90 %  1.0 s left",
        ),
        (Progress(phase="x", done_bytes=7, total_bytes=5), 3 * SECOND_NS, "x  7 B of 5 B  2 B/s  100 %  0.0 s left"),
    ],
)
def test_progress_line_says_how_far_how_fast_and_how_long_still(event: Progress, elapsed_ns: int, line: str) -> None:
    assert progress_line(event, elapsed_ns=elapsed_ns) == line


def test_first_backup_says_about_how_far_it_is(large: Person) -> None:
    deep = large.home / "deep"
    for number in range(8):
        (deep / f"part{number}").mkdir(parents=True)
        (deep / f"part{number}" / "data").write_bytes(os.urandom(12 << 20))
    session = Session(large, [*COMMAND, "backup", "deep"])
    session.expect(b"about ")
    session.expect(b" %")
    assert session.finish()[0] == 0


# -- completion


@pytest.fixture
def with_command(person: Person) -> Person:
    """A person whose shell finds `dal`."""
    (person.home / "bin").mkdir()
    script = person.home / "bin" / "dal"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{SOURCE}" exec "{sys.executable}" -m dalsegno.cli.main "$@"\n')
    script.chmod(0o755)
    person.run("backup", "doc")
    person.run("volume", "create", "two words")
    (person.home / "my file.dump").write_bytes(b"")
    return person


def shell(person: Person, *words: str) -> str:
    path = f"{person.home}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=person.home, env=environment(person.home, PATH=path), capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done
    assert done.stderr == b""
    return done.stdout.decode()


CASES = [
    (["b"], {"backup"}),
    (["ver"], {"verify", "versions"}),
    (["--json", "--pool", "x", "bac"], {"backup"}),
    (["volume", "sh"], {"show"}),
    (
        ["key", ""],
        {
            "show",
            "export",
            "import",
            "list",
            "check",
            "passphrase",
            "add",
            "remove",
            "rotate",
            "signers",
            "trust-signer",
            "remove-signer",
        },
    ),
    (["backup", "--exclude-"], {"--exclude-larger-than", "--exclude-caches", "--exclude-from"}),
    (["volume", "create", "--so"], {"--source"}),
    (["init", "--encryption", "p"], {"passphrase"}),
    (["completion", "f"], {"fish"}),
    (["hel"], {"help"}),
    (["help", "env"], {"environment"}),
    (["verify", "my"], {"my file.dump"}),
    (["ls", "two"], {"two words"}),
    (["ls", "do"], {"doc"}),
    (["restore", "doc", "--to", "my"], {"my file.dump"}),
]


def test_bash_completes(with_command: Person) -> None:
    calls = [
        f"COMP_WORDS=(dal {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}; COMPREPLY=(); _dal;"
        " printf '%s\\n' \"${COMPREPLY[@]}\"; echo ====\n"
        for words, _ in CASES
    ]
    said = shell(with_command, "bash", "-c", 'eval "$(dal completion bash)"\n' + "".join(calls))
    for (words, expected), part in zip(CASES, said.split("====\n"), strict=False):
        assert set(part.splitlines()) == expected, words
    assert "_dal" in shell(with_command, "bash", "-c", 'eval "$(dal completion bash)"; complete -p dal')


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(with_command: Person) -> None:
    calls = [f"; complete -C '{' '.join(['dal', *words])}'; echo ====" for words, _ in CASES]
    said = shell(with_command, "fish", "-c", "dal completion fish | source" + "".join(calls))
    for (words, expected), part in zip(CASES, said.split("====\n"), strict=False):
        found = {line.partition("\t")[0].removesuffix("/").replace("\\ ", " ") for line in part.splitlines()}
        assert expected <= found and len(found) <= max(3, len(expected)), (words, found)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(with_command: Person) -> None:
    path = f"{with_command.home}/bin:{os.environ['PATH']}"
    session = Session(with_command, ["zsh", "-f", "-i"], PATH=path)
    try:
        session.send(b'PS1="READY> "; eval "$(dal completion zsh)"; echo LOA""DED\n')
        session.expect(b"LOADED")
        for typed, whole in [
            (b"dal bac", b"backup"),
            (b"dal volume sh", b"show"),
            (b"dal init --encr", b"yption"),
            (b"dal verify my", b"file.dump"),
        ]:
            session.expect(b"READY> ")
            session.send(typed + b"\t")
            session.expect(whole)
            session.send(b"\x15\n")
    finally:
        session.stop()


# -- JSON and help


def test_every_answer_in_json_is_valid_also_the_errors(person: Person) -> None:
    person.run("backup", "doc", "--name", "one")
    (person.home / "doc" / "plan.txt").write_text("second plan\n")
    os.mkdir(os.fsencode(person.home / "doc") + b"/odd-\xff-\n")
    person.run("backup", "doc", "--name", "two")
    calls: list[tuple[int, str]] = [
        (0, "init other --encryption none"), (4, "init other"), (2, "init --encryption rot13"),
        (0, "backup"), (0, "backup doc"), (6, "backup nothing"), (4, "backup doc --name one"),
        (0, "volume create v"), (4, "volume create v"), (0, "volume list"), (0, "volume show v"), (6, "volume show w"),
        (0, "volume rename v w"), (0, "volume remove w"), (4, "volume remove doc"), (2, "volume"),
        (0, "import native doc"), (6, "import native nothing"), (2, "import doc doc"),
        (0, "clone doc three"), (4, "clone doc three"), (0, "clones doc"), (6, "clones nothing"),
        (0, "log doc"), (2, "log doc -n many"), (0, "hold doc@one"), (4, "unclone doc@one"), (0, "unhold doc@one"),
        (0, "unclone doc@three"), (6, "unclone doc@three"),
        (0, "ls"), (0, "ls doc"), (0, "ls -R -l doc"), (0, "ls doc:/sub"), (6, "ls doc:/nothing"), (2, "cat doc:/plan.txt"),
        (0, "find *"), (0, "find nothing"), (0, "diff doc@one doc@two"), (0, "diff doc@one"), (6, "diff doc@nine"),
        (0, "versions doc:/plan.txt"), (6, "versions doc:/nothing"),
        (0, "dump doc@one --level 0 -o 0.dump"), (0, "dump doc --level 1 -o 1.dump"), (2, "dump doc -o -"),
        (2, "dump doc --level 10"), (4, "dump native --level 3 -o x.dump"), (0, "mark 0.dump"), (6, "mark no.dump"),
        (0, "estimate doc"), (0, "merge -o m.dump 0.dump 1.dump"), (4, "merge -o n.dump 1.dump 0.dump"),
        (2, "merge -o n.dump 0.dump"), (0, "inspect 0.dump"), (0, "inspect 0.dump 1.dump"), (6, "inspect no.dump"),
        (5, "inspect doc/plan.txt"), (0, "verify 0.dump"), (0, "verify 0.dump m.dump"), (5, "verify doc/plan.txt"),
        (0, "verify --pool"), (0, "verify 0.dump --salvage s.dump"), (4, "verify 0.dump --salvage s.dump"),
        (0, "restore doc --to back --dry-run"), (0, "restore doc --to back"), (2, "restore doc"),
        (0, "restore m.dump --volume again"), (4, "restore 1.dump --to b2"), (6, "restore nothing --to b2"),
        (0, "gc --dry-run"), (2, "gc --grace soon"), (0, "stats"), (0, "status"), (0, "doctor"),
        (0, "key show"), (0, "key export k"), (2, "key export"), (2, "key export -"), (2, "key frob"), (0, "key list"),
        (0, "key check"), (0, "key check k"), (8, "key check no.key"),
        (0, "completion bash"), (2, "completion tcsh"), (2, "frobnicate"), (2, ""), (0, "--version"),
    ]  # fmt: skip
    tried = {words.split()[0] for _, words in calls if words}
    calls += [(2, f"{name} --no-such-option") for name in COMMANDS if name not in tried]
    script = (
        "import io, sys, json\nfrom dalsegno.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.stdout, sys.stderr = [io.TextIOWrapper(io.BytesIO(), 'utf-8', 'surrogateescape') for _ in '12']\n"
        "    code = main(['--json', *words.split()])\n"
        "    said = []\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        stream.flush()\n"
        "        said.append(stream.buffer.getvalue().decode())\n"
        "    print(json.dumps([code, *said]), file=sys.__stdout__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([words for _, words in calls])],
        cwd=person.home,
        env=environment(person.home),
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    for (expected, words), line in zip(calls, done.stdout.splitlines(), strict=True):
        code, out, errors = json.loads(line)
        assert code == expected, (words, code, out, errors)
        if out:
            json.loads(out)
        if code not in (0, 1, 3) and not (code == 5 and out):
            error = json.loads(errors)["error"]
            assert error["exit_code"] == code and error["message"] and error["code"] and not out, words
        else:
            assert out, words


def test_list_that_ends_in_an_error_is_still_valid_json(capsys: pytest.CaptureFixture[str]) -> None:
    def items() -> "list[int]":
        yield 1  # type: ignore[misc]
        raise Damaged("the rest is lost")

    with pytest.raises(Damaged):
        Terminal(json=True, quiet=False, verbose=False).stream(items(), value=lambda item: item, line=str)
    assert json.loads(capsys.readouterr().out) == [1]


def test_every_command_and_verb_shows_an_example_and_all_its_options(person: Person) -> None:
    script = (
        "import sys\nfrom dalsegno.cli.main import main\n"
        "for words in sys.argv[1].split(','):\n"
        "    assert main([*words.split(), '--help']) == 0\n    print('====')\n"
    )
    verbs = [f"volume {verb}" for verb in ("create", "set", "list", "show", "rename", "remove")]
    names = [*COMMANDS, *verbs]
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(names)], env=environment(person.home), capture_output=True, check=True
    )
    for name, text in zip(names, done.stdout.decode().split("====\n"), strict=False):
        assert "\nexample: " in text and f"dal {name}" in text.partition("\nexample: ")[2], name
