"""Ways that are seldom taken: maps of owners, pipes, damage, an empty machine, many revisions, other users."""

import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from face_kit import COMMAND, Person, environment, run_forked

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners and other users")


@pytest.fixture
def person(tmp_path: Path) -> Person:
    doc = tmp_path / "doc"
    (doc / "sub").mkdir(parents=True)
    (doc / "plan.txt").write_text("first plan\n")
    (doc / "sub" / "big.bin").write_bytes(os.urandom(300_000))
    (doc / "sub" / "other.bin").write_bytes(os.urandom(3_000_000))
    return Person(tmp_path)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# -- odd names


def test_every_directory_can_be_backed_up_and_restored_by_the_name_of_its_volume(person: Person) -> None:
    for name in ("old.dump", "a..b", "my docs", "a@b", "a:b", "-x", ".hid", "...", "@", "\udcff", "n\nl", "x" * 255):
        (person.home / name).mkdir()
        (person.home / name / "f").write_text(name, errors="surrogateescape")
        volume = person.value("backup", f"./{name}")["volume"]
        (person.home / name).rename(person.home / "gone")
        person.run("restore", volume, "--to", "back")
        assert contents(person.home / "back") == contents(person.home / "gone")
        person.run("dump", volume, "-o", "one.dump")
        for path in ("back", "gone"):
            shutil.rmtree(person.home / path)
        (person.home / "one.dump").unlink()
    for name in ("v.dump", "a..b"):
        person.run("volume", "create", name, code=2)


# -- clones in dumps


def test_clones_of_one_state_all_keep_their_names_in_a_dump(person: Person) -> None:
    for name in ("mon", "tue"):
        person.run("backup", "doc", "--name", name)
    person.run("dump", "doc@mon..tue", "-o", "d.dump")
    person.run("restore", "d.dump@mon", "--to", "back")
    assert contents(person.home / "back") == contents(person.home / "doc")
    person.run("restore", "d.dump", "--volume", "again")
    assert {clone["clone"] for clone in person.value("clones", "again")} == {"mon", "tue"}


def test_a_clone_name_given_again_names_the_newest_state_of_a_chain(person: Person) -> None:
    person.run("backup", "doc", "--name", "daily")
    person.run("dump", "doc@daily", "-o", "d0.dump")
    person.run("unclone", "doc@daily")
    (person.home / "doc" / "plan.txt").write_text("second plan\n")
    person.run("backup", "doc", "--name", "daily")
    person.run("dump", "doc@daily", "--level", "1", "-o", "d1.dump")
    person.run("restore", "d0.dump+d1.dump", "--volume", "again")
    person.run("restore", "again@daily", "--to", "back")
    assert contents(person.home / "back") == contents(person.home / "doc")


def test_a_dump_takes_the_place_of_none_that_it_may_need_and_of_nothing_else(person: Person) -> None:
    person.run("backup", "doc")
    person.run("dump", "doc", "--level", "0", "-o", "mon.dump")
    (person.home / "doc" / "plan.txt").write_text("second plan\n")
    person.run("backup", "doc")
    (person.home / "thesis").write_text("years of work")
    os.mkfifo(person.home / "pipe")
    whole = (person.home / "mon.dump").read_bytes()
    for name, why in (("mon.dump", b"holds another dump"), ("thesis", b"no whole dump"), ("pipe", b"no ordinary file")):
        done = person.run("dump", "doc", "--level", "1", "-o", name, code=4)
        assert why in done.stderr and done.stderr.count(b"\n") == 1
    assert (person.home / "mon.dump").read_bytes() == whole
    assert (person.home / "pipe").is_fifo()
    person.run("dump", "doc", "--level", "1", "-o", "tue.dump")
    person.run("merge", "-o", "thesis", "mon.dump", "tue.dump", code=4)
    assert (person.home / "thesis").read_text() == "years of work"
    assert not list(person.home.glob("*.partial"))

    # A rotation is no mistake: the same level again, also through a symlink, which stays.
    (person.home / "newest").symlink_to("tue.dump")
    person.run("dump", "doc", "--level", "1", "-o", "newest")
    assert (person.home / "newest").is_symlink()
    assert [each["level"] for each in person.value("volume", "show", "doc")["dumps"]] == [0, 1]
    person.run("verify", "mon.dump", "tue.dump")


def test_dump_that_others_build_on_is_not_replaced_or_forgotten_by_accident(person: Person) -> None:
    """Kind: one file takes another's place, and a third becomes useless without a word."""
    person.run("backup", "doc")
    for level, name in enumerate(("mon.dump", "wed.dump", "fri.dump")):
        person.run("dump", "doc", "--level", str(level), "-o", name)
    whole = (person.home / "mon.dump").read_bytes()
    for words in (
        ("dump", "doc", "--level", "0", "-o", "mon.dump"),
        ("mark", "--forget", "mon.dump"),
    ):
        done = person.run(*words, code=4)
        assert done.stderr.count(b"\n") == 1 and b"wed.dump" in done.stderr and b"--force" in done.stderr
    person.run("merge", "-o", "full.dump", "mon.dump", "wed.dump")
    person.run("merge", "-o", "mon.dump", "full.dump", "fri.dump", code=4)
    assert (person.home / "mon.dump").read_bytes() == whole

    value = person.value("dump", "doc", "--level", "1", "-o", "wed.dump", "--force")
    assert [each["level"] for each in value["forgotten"]] == [2]
    assert [each["level"] for each in person.value("volume", "show", "doc")["dumps"]] == [0, 1]
    (person.home / "mon.dump").unlink()
    text = person.run("mark", "--forget", "mon.dump", "--force").stdout
    assert b"forgotten: level 0" in text and b"wed.dump" in text
    assert person.value("volume", "show", "doc")["dumps"] == []
    person.run("mark", "--forget", "mon.dump", code=6)
    person.run("mark", "--force", "wed.dump", code=2)


def test_default_names_of_dumps_have_no_colon(person: Person) -> None:
    """Kind: a name that other programs and file systems cannot take."""
    person.run("backup", "doc", "--name", "2026-11-27T02:00:00Z")
    name = person.value("dump", "doc@2026-11-27T02:00:00Z")["path"]
    assert name.endswith("/doc.2026-11-27T020000Z.0.dump") and (person.home / name).exists()


def test_a_change_behind_an_old_time_is_found_when_contents_are_compared(person: Person) -> None:
    plan = person.home / "doc" / "plan.txt"
    times = plan.stat()
    person.run("backup", "doc", "--name", "one")
    person.run("restore", "doc@one", "--to", "back")
    plan.write_text("Fifth plan\n")
    os.utime(plan, ns=(times.st_atime_ns, times.st_mtime_ns))
    person.run("backup", "doc", "--name", "two")
    person.run("restore", "doc@two", "--to", "back", "--compare")
    assert contents(person.home / "back") == contents(person.home / "doc")


# -- owners


@as_root
def test_owners_are_restored_by_a_map_of_names_and_numbers(person: Person) -> None:
    doc = person.home / "doc"
    daemon, games = pwd.getpwnam("daemon").pw_uid, grp.getgrnam("games").gr_gid
    os.chown(doc / "plan.txt", daemon, games)
    os.chown(doc / "sub", 54321, 54322)
    person.run("backup", "doc")
    (person.home / "map").write_text("# old new\nuser daemon 7001\nuser 54321 nobody\ngroup games 7002 # numbers\n")
    person.run("restore", "doc", "--to", "back", "--owners", "map:map")
    back = person.home / "back"
    plan, sub = (back / "plan.txt").stat(), (back / "sub").stat()
    assert (plan.st_uid, plan.st_gid) == (7001, 7002)
    assert (sub.st_uid, sub.st_gid) == (pwd.getpwnam("nobody").pw_uid, 54322)
    person.run("restore", "doc", "--to", "back", "--owners", "number")
    assert (back / "plan.txt").stat().st_uid == daemon and (back / "sub").stat().st_uid == 54321


def test_a_bad_map_is_refused_before_anything_is_written(person: Person) -> None:
    person.run("backup", "doc")
    for text in ("user daemon\n", "person a b\n", "user daemon no-such-user\n"):
        (person.home / "map").write_text(text)
        error = person.run("restore", "doc", "--to", "back", "--owners", "map:map", code=2).stderr
        assert b"map, line 1" in error and error.count(b"\n") == 1
    person.run("restore", "doc", "--to", "back", "--owners", "map:nothing", code=6)
    (person.home / "map").write_bytes(b"user \xff\xfe 7\n")
    person.run("restore", "doc", "--to", "back", "--owners", "map:map", code=2)
    assert not (person.home / "back").exists()


# -- pipes and damage


def test_a_dump_that_could_not_be_recorded_is_said_to_be_whole(person: Person) -> None:
    person.run("backup", "doc")
    for step in range(1, 40):
        variables = environment(person.home, DAL_FAULT=f"full:{step}")
        done = run_forked(["dump", "doc", "--level", "0", "-o", "d.dump"], person.home, variables, b"")
        if b"whole, but could not be recorded" in done.stderr:
            break
        (person.home / "d.dump").unlink(missing_ok=True)
    assert done.returncode == 10 and b"dal mark" in done.stderr
    person.run("mark", "d.dump")
    person.run("dump", "doc", "--level", "1", "-o", "next.dump")


def test_increments_of_a_clock_that_was_set_back_follow_their_full_dump(person: Person) -> None:
    person.run("backup", "doc")
    person.run("dump", "doc", "--level", "0", "-o", "0.dump")
    for level in (1, 2):
        (person.home / "doc" / "plan.txt").write_text(f"plan {level}\n")
        person.run("backup", "doc", DAL_NOW="2001-02-03T04:05:06Z")
        person.run("dump", "doc", "--level", str(level), "-o", f"{level}.dump", DAL_NOW="2001-02-03T04:05:06Z")
    person.run("restore", "0.dump+1.dump+2.dump", "--to", "back")
    assert contents(person.home / "back") == contents(person.home / "doc")
    person.run("merge", "-o", "all.dump", "0.dump", "1.dump", "2.dump")


def test_a_dump_is_verified_from_a_pipe(person: Person) -> None:
    person.run("backup", "doc")
    person.run("dump", "doc", "-o", "0.dump")
    data = (person.home / "0.dump").read_bytes()
    assert b"-: whole" in person.run("verify", "-", data=data).stdout
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    for bad in (bytes(flipped), data[:-1], data[: len(data) // 2], data + b"x", b"", b"no dump at all\n"):
        said = person.run("verify", "-", data=bad, code=5)
        assert b"DAMAGED" in said.stdout, bad[:20]
    piped = f"{' '.join(COMMAND)} dump doc --level 0 -o - | {' '.join(COMMAND)} verify -"
    done = subprocess.run(["sh", "-c", piped], cwd=person.home, env=environment(person.home), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"-: whole\n")


def test_what_is_whole_in_a_damaged_dump_is_saved_and_restored(person: Person) -> None:
    for number in range(8):
        (person.home / "doc" / f"more{number}").write_bytes(os.urandom(3 << 20))
    person.run("backup", "doc")
    person.run("dump", "doc", "-o", "0.dump")
    data = bytearray((person.home / "0.dump").read_bytes())
    data[len(data) // 2] ^= 1
    (person.home / "bad.dump").write_bytes(data)
    person.run("verify", "bad.dump", code=5)
    said = person.run("verify", "bad.dump", "--salvage", "saved.dump", code=5)
    assert b"lost: " in said.stdout and not list(person.home.glob("*.partial"))
    person.run("inspect", "saved.dump")
    named = person.run("verify", "bad.dump", "--salvage", "saved2.dump", "--json", code=5)
    listed = {each["path"] for each in json.loads(named.stdout)["lost"]}
    said = person.run("restore", "saved.dump", "--to", "back", code=5)
    original, back = contents(person.home / "doc"), contents(person.home / "back")
    assert back.items() < original.items() and len(back) >= len(original) - 4
    for lost in original.keys() - back.keys():
        assert said.stderr.count(lost.encode() + b": ") == 1
    assert listed == original.keys() - back.keys()
    # Cut short, it has lost the lists of names, which come last.
    (person.home / "cut.dump").write_bytes(data[: len(data) // 4])
    said = person.run("verify", "cut.dump", "--salvage", "rest.dump", code=5)
    assert b"all of it: its list of names is lost" in said.stdout
    said = person.run("restore", "rest.dump", "--to", "nothing", code=5)
    assert b"its list of files is lost" in said.stderr
    person.run("verify", "0.dump", "--salvage", "whole.dump")
    person.run("restore", "whole.dump", "--to", "all")
    assert contents(person.home / "all") == original
    person.run("verify", "0.dump", "--salvage", "whole.dump", code=4)
    person.run("verify", "-", "--salvage", "x.dump", code=2)


# -- an empty machine


@pytest.mark.parametrize("encryption", ["keyfile", "passphrase"])
def test_dumps_and_an_exported_key_are_enough_on_an_empty_machine(person: Person, encryption: str) -> None:
    secret = {"DAL_PASSPHRASE": "lost with the old house"}
    person.run("init", "--encryption", encryption, **secret)
    person.run("backup", "doc", "--name", "one", **secret)
    person.run("dump", "doc", "--level", "0", "-o", "0.dump", **secret)
    (person.home / "doc" / "plan.txt").write_text("second plan\n")
    person.run("backup", "doc", "--name", "two", **secret)
    person.run("dump", "doc", "--level", "1", "-o", "1.dump", **secret)
    person.run("key", "export", "rescue.key", **secret)
    assert (person.home / "rescue.key").stat().st_mode & 0o777 == 0o600

    empty = Person(person.home / "empty-machine")
    empty.home.mkdir()
    for name in ("0.dump", "1.dump", "rescue.key"):
        shutil.copy(person.home / name, empty.home)
    empty.run("init")
    error = empty.run("verify", "0.dump", code=4).stderr
    assert b"--join" in error and error.count(b"\n") == 1
    shutil.rmtree(empty.home / ".local")
    empty.run("init", "--join", "rescue.key")
    (empty.home / "rescue.key").unlink()
    empty.run("verify", "0.dump", "1.dump")
    assert empty.value("inspect", "1.dump")["level"] == 1
    empty.run("merge", "-o", "all.dump", "0.dump", "1.dump")
    empty.run("restore", "all.dump", "--to", "back")
    assert contents(empty.home / "back") == contents(person.home / "doc")
    empty.run("restore", "0.dump", "--volume", "doc")
    empty.run("restore", "1.dump", "--volume", "doc")
    assert [clone["clone"] for clone in empty.value("clones", "doc")] == ["one", "two"]
    assert empty.run("cat", "doc@one:/plan.txt").stdout == b"first plan\n"
    empty.run("import", "doc", "back")
    assert empty.value("dump", "doc", "-o", "next.dump")["level"] == 2
    person.run("inspect", str(empty.home / "next.dump"), **secret)


def test_joining_asks_for_a_key_and_does_not_write_over_one(person: Person) -> None:
    person.run("init")
    person.run("key", "export", "a.key")
    for place, text, code in [("no.key", None, 6), ("bad.key", "rubbish\n", 8), ("torn.key", "dalsegno-key-1 00", 8)]:
        if text is not None:
            (person.home / place).write_text(text)
        error = person.run("init", "new", "--join", place, code=code).stderr
        assert place.encode() in error and not (person.home / "new").exists()
    error = person.run("init", "new", "--key", "a.key", code=4).stderr
    assert b"--join" in error and not (person.home / "new" / "pool.toml").exists()
    person.run("init", "new", "--key", "a.key", "--join", "a.key")
    person.run("init", "open", "--join", "a.key", "--encryption", "none")
    keys = {"new": ("--key", "a.key"), "open": ()}  # a key beside a pool that needs none is refused
    realms = {person.value("--pool", pool, *key, "key", "show")["realm"] for pool, key in keys.items()}
    assert realms == {person.value("key", "show")["realm"]}


# -- many revisions


def test_a_dump_of_many_revisions_restores_each_of_them(person: Person) -> None:
    plan = person.home / "doc" / "plan.txt"
    for number in range(4):
        plan.write_text(f"plan {number}\n")
        person.run("backup", "doc", "--name", f"day{number}")
    single = person.value("dump", "doc@day1", "--level", "0", "--no-record", "-o", "single.dump")
    many = person.value("dump", "doc@day1..@day3", "--level", "0", "-o", "many.dump")
    assert [target["clone"] for target in many["targets"]] == ["day1", "day2", "day3"]
    assert many["bytes"] < single["bytes"] + 20_000
    person.run("verify", "many.dump")
    for number in (1, 2, 3):
        person.run("restore", f"many.dump@day{number}", "--to", f"back{number}")
        assert (person.home / f"back{number}" / "plan.txt").read_text() == f"plan {number}\n"
    assert person.run("cat", "many.dump@day2:/plan.txt").stdout == b"plan 2\n"
    assert person.run("cat", "many.dump:/plan.txt").stdout == b"plan 3\n"
    error = person.run("restore", "many.dump@day0", "--to", "back0", code=6).stderr
    assert error.count(b"\n") == 1 and not (person.home / "back0").exists()
    person.run("restore", "many.dump", "--volume", "again")
    assert [clone["clone"] for clone in person.value("clones", "again")] == ["day1", "day2", "day3"]
    assert person.run("cat", "again@day1:/plan.txt").stdout == b"plan 1\n"
    person.run("dump", "doc@day3..@day1", "-o", "x.dump", code=2)
    plan.write_text("plan 4\n")
    person.run("backup", "doc", "--name", "day4")
    person.run("backup", "doc", "--name", "day5")
    person.run("dump", "doc@day4..@day5", "--level", "1", "-o", "more.dump")
    person.run("merge", "-o", "all.dump", "many.dump", "more.dump")
    assert person.run("cat", "all.dump:/plan.txt").stdout == b"plan 4\n"


# -- other users


@as_root
def test_backup_by_a_user_lists_what_it_could_not_read_and_exits_3(person: Person) -> None:
    doc = person.home / "doc"
    (doc / "secret").write_text("not for nobody")
    (doc / "closed").mkdir()
    (doc / "closed" / "inner").write_text("x")
    (doc / "secret").chmod(0)
    (doc / "closed").chmod(0)
    home = person.home / "nobody"
    home.mkdir()
    os.chown(home, 65534, 65534)
    for parent in [person.home, *person.home.parents]:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    # The interpreter may lie where only root looks: everything is loaded before the rights are given up.
    script = (
        "import os, sys\nfrom dalsegno.cli import main, completion\ncompletion.command_parsers()\n"
        "os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\nsys.exit(main.main(sys.argv[1:]))\n"
    )

    def as_nobody(*words: str, code: int) -> bytes:
        done = subprocess.run(
            [sys.executable, "-c", script, *words], cwd=home, env=environment(home), capture_output=True
        )
        assert done.returncode == code, (words, done)
        assert b"Traceback" not in done.stderr
        return done.stdout + done.stderr

    for name in ("one", "two"):
        said = as_nobody("backup", str(doc), "--name", name, code=3)
        assert b"2 could not be read and are NOT in the backup" in said
        for path in (b"secret", b"closed"):
            assert said.count(path + b": Permission denied") == 1
    assert as_nobody("ls", "-R", "doc", code=0).split() == [b"plan.txt", b"sub/", b"sub/big.bin", b"sub/other.bin"]
    (doc / "secret").unlink()
    (doc / "closed").chmod(0o755)
    as_nobody("backup", str(doc), "--name", "three", code=0)
    assert b"closed/inner" in as_nobody("ls", "-R", "doc", code=0)


def test_a_restore_takes_no_files_away_unless_it_is_told_to(person: Person) -> None:
    person.run("backup", "doc")
    mine = person.home / "back" / "plan.txt" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    for more in (["--dry-run"], []):
        errors = person.run("restore", "doc", "--to", "back", *more, code=3).stderr
        assert b"plan.txt: a directory that is not empty" in errors
        assert mine.read_text() == "years of work"
    assert contents(person.home / "back" / "sub") == contents(person.home / "doc" / "sub")
    person.run("restore", "doc", "--to", "back", "--delete")
    assert contents(person.home / "back") == contents(person.home / "doc")


def test_dry_run_of_a_restore_touches_nothing(person: Person) -> None:
    person.run("backup", "doc")
    said = person.value("restore", "doc", "--to", "back", "--dry-run")
    assert said["created"] == 4 and not (person.home / "back").exists()
    person.run("restore", "doc", "--to", "back")
    back = person.home / "back"
    (back / "plan.txt").write_text("changed")
    (back / "extra").write_text("extra")
    before = [(path, path.lstat()) for path in sorted([back, *back.rglob("*")])]
    said = person.value("restore", "doc", "--to", "back", "--delete", "--dry-run")
    assert (said["updated"], said["deleted"]) == (2, 1)  # the file, and the times of its directory
    after = [(path, path.lstat()) for path in sorted([back, *back.rglob("*")])]
    assert [(path, stat[:7], stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in after] == [
        (path, stat[:7], stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in before
    ]


def test_times_are_shown_and_read_in_the_zone_of_the_person(person: Person) -> None:
    """Kind: what one command prints, another takes for something else."""
    new_york = {"TZ": "America/New_York"}
    person.run("backup", "doc", DAL_NOW="2026-11-23T02:00:00.25Z", **new_york)
    listed = person.run("clones", "doc", **new_york).stdout.decode()
    assert "doc@2026-11-23T020000Z" in listed and "2026-11-22T21:00:00-05:00" in listed
    assert "05:00" not in person.run("clones", "doc", "--utc", **new_york).stdout.decode()  # the name says it
    for shown in ("2026-11-22", "2026-11-22T21:00:00-05:00", "2026-11-22T21:00", "2026-11-23T02:00:00Z"):
        person.run("ls", f"doc@{shown}", **new_york)
    missing = person.run("ls", "doc@2026-11-22", "--utc", code=6, **new_york).stderr.decode()
    assert "no clone at or before 2026-11-22T23:59:59Z" in missing
    odd = person.run("ls", "doc@lastweek", code=6).stderr.decode()
    assert "not a time" in odd and "yesterday" in odd
