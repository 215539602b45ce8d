"""The command line as a user types it: the whole tour, and what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass
class User:
    """A person with a home directory of their own."""

    home: Path

    def run(self, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[bytes]:
        base = {key: value for key, value in os.environ.items() if not key.startswith(("DAL_", "XDG_"))}
        done = subprocess.run(
            [sys.executable, "-m", "dalsegno.cli.main", *words],
            cwd=self.home,
            env={**base, "HOME": str(self.home), "PYTHONPATH": str(SOURCE), **environment},
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        assert b"Traceback" not in done.stderr
        return done

    def text(self, *words: str, **environment: str) -> str:
        return self.run(*words, **environment).stdout.decode()

    def value(self, *words: str) -> Any:
        return json.loads(self.run("--json", *words).stdout)


@pytest.fixture
def user(tmp_path: Path) -> User:
    doc = tmp_path / "doc"
    (doc / "sub").mkdir(parents=True)
    (doc / "plan.txt").write_text("first plan\n")
    (doc / "sub" / "big.bin").write_bytes(os.urandom(300_000))
    (doc / "old.txt").write_text("goes away\n")
    os.symlink("plan.txt", doc / "link")
    os.link(doc / "plan.txt", doc / "hard.txt")
    return User(tmp_path)


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (stat.st_mode, stat.st_mtime_ns, data)
    return found


def change(user: User, number: int) -> None:
    (user.home / "doc" / "plan.txt").write_text(f"plan number {number}\n")
    (user.home / "doc" / f"new{number}.txt").write_text(f"new {number}\n" * 100)


def test_whole_tour_from_first_backup_to_continued_volume(user: User) -> None:
    first = user.run("backup", "doc")
    assert b"copy it to another place" in first.stderr and b"made volume doc" in first.stdout
    change(user, 2)
    (user.home / "doc" / "old.txt").unlink()
    second = user.value("backup", "doc")
    assert second["volume"] == "doc" and not second["created"] and second["files_read"] <= 3
    clones = [clone["clone"] for clone in user.value("clones", "doc")]
    assert len(clones) == 2
    assert "plan.txt" in user.text("ls", "doc").split() and "link -> plan.txt" in user.text("ls", "-l", "doc")
    assert user.text("ls", f"doc@{clones[0]}:/sub") == "big.bin\n"
    assert user.text("cat", f"doc@{clones[0]}:/plan.txt") == "first plan\n"
    assert user.text("cat", "doc:/plan.txt") == "plan number 2\n"
    found = user.value("find", "old.*")
    assert [(each["path"], each["first"], each["last"]) for each in found] == [("old.txt", clones[0], clones[0])]
    changes = {each["path"]: each["change"] for each in user.value("diff", f"doc@{clones[0]}", f"doc@{clones[1]}")}
    assert changes["old.txt"] == "removed" and changes["new2.txt"] == "added" and changes["plan.txt"] == "changed"
    (user.home / "doc" / "live.txt").write_text("live")
    assert "+ live.txt" in user.text("diff", "doc@latest")
    (user.home / "doc" / "live.txt").unlink()
    assert [each["size"] for each in user.value("versions", "doc:/plan.txt")] == [11, 14]

    user.run("dump", f"doc@{clones[0]}", "--level", "0", "-o", "monday-0.dump")
    user.run("dump", f"doc@{clones[1]}", "--level", "1", "-o", "wednesday-1.dump")
    change(user, 3)
    user.run("backup")
    assert user.value("estimate", "doc", "--level", "0", "--level", "2")[1]["possible"]
    user.run("dump", "doc", "--level", "2", "-o", "friday-2.dump")
    assert user.value("inspect", "friday-2.dump")["level"] == 2
    user.run("verify", "monday-0.dump", "friday-2.dump")

    wrong = user.run("merge", "-o", "bad.dump", "monday-0.dump", "friday-2.dump", code=4).stderr.decode()
    assert "level 2 of doc" in wrong and "level 0 of doc" in wrong and wrong.count("\n") == 1
    user.run("merge", "-o", "bad.dump", "wednesday-1.dump", "monday-0.dump", code=4)
    assert not (user.home / "bad.dump").exists() and not (user.home / "bad.dump.partial").exists()
    user.run("merge", "-o", "first.dump", "monday-0.dump", "wednesday-1.dump")
    user.run("merge", "-o", "all.dump", "first.dump", "friday-2.dump")

    user.run("restore", "all.dump", "--to", "back")
    assert tree(user.home / "back") == tree(user.home / "doc")
    user.run("restore", "monday-0.dump+wednesday-1.dump+friday-2.dump", "--to", "chain")
    assert tree(user.home / "chain") == tree(user.home / "doc")
    (user.home / "back" / "extra").write_text("extra")
    again = user.value("restore", "doc", "--to", "back", "--delete")
    assert again["deleted"] == 1 and not (user.home / "back" / "extra").exists()
    user.run("restore", "doc", "--to", "part", "--path", "sub")
    assert [path.name for path in (user.home / "part").iterdir()] == ["sub"]

    user.run("--pool", "other", "init", "--key", "other.key", "--encryption", "keyfile")
    assert user.run("inspect", "all.dump", "--pool", "other", "--key", "other.key", code=4).stderr.count(b"\n") == 1

    made = user.value("restore", "first.dump", "--volume", "again")
    assert made["kind"] == "native"
    user.run("restore", "friday-2.dump", "--volume", "again")
    assert user.text("cat", "again:/plan.txt") == "plan number 3\n"
    user.run("restore", "friday-2.dump", "--volume", "again", code=4)
    user.run("import", "again", "back")
    assert user.value("dump", "again", "--level", "9", "-o", "next-9.dump")["bases"]

    user.run("verify", "--pool")
    user.run("gc", "--dry-run")
    user.run("stats")
    user.run("status")


def test_dump_through_a_pipe_is_recorded_and_whole(user: User) -> None:
    user.run("backup", "doc")
    data = user.run("dump", "doc", "-o", "-").stdout
    (user.home / "piped.dump").write_bytes(data)
    user.run("verify", "piped.dump")
    assert user.value("volume", "show", "doc")["dumps"][0]["path"] == "-"
    user.run("dump", "doc", "--level", "0", "--no-record", "-o", "quiet.dump")
    assert len(user.value("volume", "show", "doc")["dumps"]) == 1
    user.run("mark", "quiet.dump")
    assert len(user.value("volume", "show", "doc")["dumps"]) == 2


def test_damaged_dump_is_found(user: User) -> None:
    user.run("backup", "doc")
    user.run("dump", "doc", "-o", "d.dump")
    data = bytearray((user.home / "d.dump").read_bytes())
    data[len(data) // 2] ^= 1
    (user.home / "d.dump").write_bytes(data)
    user.run("verify", "d.dump", code=5)
    (user.home / "d.dump").write_bytes(data[: len(data) // 2])
    user.run("restore", "d.dump", "--to", "back", code=5)
    assert not (user.home / "back").exists()


def test_wrong_passphrase_is_no_access(user: User) -> None:
    user.run("init", "p", "--encryption", "passphrase", DAL_PASSPHRASE="right")
    user.run("--pool", "p", "backup", "doc", DAL_PASSPHRASE="right")
    error = user.run("--pool", "p", "ls", "doc", code=8, DAL_PASSPHRASE="wrong").stderr
    assert error.startswith(b"dal: error: ") and error.count(b"\n") == 1


def test_errors_are_one_line_with_their_code(user: User) -> None:
    user.run("ls", "doc", code=6)
    assert b"./nothing: no such directory" in user.run("backup", "./nothing", code=6).stderr
    user.run("backup", "doc", "--name", "first")
    assert b"the oldest is doc@first" in user.run("ls", "doc@yesterday", code=6).stderr
    for words, code in [
        (["ls", "nothing"], 6),
        (["cat", "doc:/nothing"], 6),
        (["ls", "doc@nothing"], 6),
        (["restore", "no.dump", "--to", "x"], 6),
        (["frobnicate"], 2),
        (["ls", "--frobnicate"], 2),
        (["dump", "doc", "--level", "12"], 2),
        (["restore", "doc"], 2),
        (["dump", "doc", "--level", "1", "-o", "x.dump"], 4),
    ]:
        error = user.run(*words, code=code).stderr
        assert error.startswith(b"dal: error: ") and error.count(b"\n") == 1, words
        value = json.loads(user.run("--json", *words, code=code).stderr)
        assert value["error"]["exit_code"] == code


def test_every_command_has_help_with_an_example(user: User) -> None:
    from dalsegno.cli.main import COMMANDS, main

    for name in COMMANDS:
        assert main([name, "--help"]) == 0
    assert "example: dal ls" in user.text("ls", "--help")
    assert user.text("--version").startswith("dal ")
    assert "complete -F _dal" in user.text("completion", "bash").replace("-o filenames ", "")


def test_version_loads_nothing_heavy(user: User) -> None:
    code = "import sys; from dalsegno.cli.main import main; main(['--version']); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})


def test_volumes_holds_and_clones(user: User) -> None:
    user.run("init")
    user.run("volume", "create", "v", "--source", "doc", "--exclude", "*.bin")
    user.run("clone", "v", "one")
    assert user.text("ls", "-R", "v").count("big.bin") == 0
    user.run("hold", "v@one")
    user.run("unclone", "v@one", code=4)
    user.run("unhold", "v@one")
    user.run("unclone", "v@one")
    user.run("volume", "rename", "v", "w")
    assert [volume["volume"] for volume in user.value("volume", "list")] == ["w"]
    assert len(user.value("log", "w")) == 1
    user.run("volume", "remove", "w")
    user.run("volume", "show", "w", code=6)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_unreadable_file_is_listed_with_exit_code_3(user: User) -> None:
    (user.home / "doc" / "secret").write_text("x")
    (user.home / "doc" / "secret").chmod(0)
    done = user.run("backup", "doc", code=3)
    assert b"secret" in done.stdout
