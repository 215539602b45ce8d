"""kill -9 and a full disk at every durable step of every command that writes; and disks that are really full."""

import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli_kit import KILLED, User, tree

SEED = 20261121
STEPS_MAX = 200
Fault = tuple[str, int]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a small pool: three states of one volume, three dumps, and directories `state0` to `state2`."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    user = User(tmp_path_factory.mktemp("made") / "home")
    doc = user.home / "doc"
    (doc / "sub" / "deep").mkdir(parents=True)
    user.quick("init", "--encryption", "none")
    for number in range(3):
        (doc / "plan.txt").write_text(f"plan {number}\n")
        (doc / f"only{number}").write_bytes(chance.randbytes(3000))
        (doc / "sub" / "deep" / "data").write_bytes(chance.randbytes(200_000))
        if number:
            (doc / f"only{number - 1}").unlink()
        shutil.copytree(doc, user.home / f"state{number}", symlinks=True)
        user.quick("backup", "doc", "--name", f"c{number}")
        user.quick("dump", f"doc@c{number}", "--level", str(number), "-o", f"d{number}.dump")
    shutil.rmtree(doc / "sub")
    (doc / "plan.txt").write_text("plan 3\n")
    (doc / "only3").write_bytes(chance.randbytes(150_000))
    shutil.copytree(doc, user.home / "state3", symlinks=True)
    shutil.copytree(user.home, user.home.with_name("kept"), symlinks=True)
    return user.home


@pytest.fixture
def user(house: Path) -> User:
    """The made home as it was, at the same place: a volume knows its source by its path."""
    shutil.rmtree(house)
    shutil.copytree(house.with_name("kept"), house, symlinks=True)
    return User(house)


def faults(user: User, action: str, words: list[str], *, again: Callable[[int], None] | None = None) -> Iterator[int]:
    """Run `words` with the fault before step 1, 2, 3...; yield after each until the command comes through.

    `again` puts things back before each try. What the command says when the disk is full is checked here.
    """
    for step in itertools.count(1):
        assert step < STEPS_MAX, f"{words}: more than {STEPS_MAX} durable steps: use a smaller tree"
        if again is not None:
            again(step)
        done = user.quick(*words, code=(0, KILLED if action == "kill" else 10), DAL_FAULT=f"{action}:{step}")
        if done.code == 0:
            assert step > 1, f"{words}: no durable step met the fault: the rehearsal tests nothing"
            return
        if action == "full":
            assert "no space" in done.error.lower()
        yield step


def put_back(user: User) -> None:
    """Put the pool back as it was, and have nobody remember that it was newer once."""
    shutil.rmtree(user.home / "pool")
    shutil.copytree(user.home / "kept", user.home / "pool")
    shutil.rmtree(user.home / ".local" / "state", ignore_errors=True)


def assert_pool_is_whole(user: User, *, clones: set[str]) -> None:
    assert user.value("verify", "--pool")["whole"]
    assert clones <= {clone["clone"] for clone in user.value("clones", "doc")}


def assert_clone_restores(user: User, clone: str, state: str) -> None:
    target = user.home / f"check-{clone}"
    user.quick("restore", f"doc@{clone}", "--to", target.name)
    assert tree(target) == tree(user.home / state)
    shutil.rmtree(target)


def assert_no_half_pack(user: User) -> None:
    """Every pack and every dump under a final name is whole, read by the command that reads all of it."""
    for dump in user.home.glob("*.dump"):
        assert user.value("verify", dump.name)["whole"], dump


@pytest.mark.parametrize("action", ["kill", "full"])
def test_first_backup_stopped_at_every_step_leaves_nothing_in_the_way(tmp_path: Path, action: str) -> None:
    user = User(tmp_path / "home")
    (user.home / "doc").mkdir()
    (user.home / "doc" / "a").write_bytes(os.urandom(200_000))

    def again(_: int) -> None:
        for name in ("pool", ".config", ".cache", ".local"):
            shutil.rmtree(user.home / name, ignore_errors=True)

    for step in faults(user, action, ["backup", "doc", "--name", "first"], again=again):
        listed = user.quick("--json", "clones", "doc", code=(0, 6))
        clones = json.loads(listed.out) if listed.code == 0 else []
        user.quick("backup", "doc", "--name", "second")
        assert_pool_is_whole(user, clones={"second", *(clone["clone"] for clone in clones)})
        if step % 4 == 0:
            user.quick("restore", "doc@second", "--to", "back", "--delete")
            assert tree(user.home / "back") == tree(user.home / "doc")


@pytest.mark.parametrize("action", ["kill", "full"])
def test_second_backup_stopped_at_every_step_loses_no_clone(user: User, action: str) -> None:
    pool = user.home / "pool"
    shutil.copytree(pool, user.home / "kept")

    def again(_: int) -> None:
        put_back(user)

    for step in faults(user, action, ["backup", "doc", "--name", "new"], again=again):
        assert_pool_is_whole(user, clones={"c0", "c1", "c2"})
        new = {clone["clone"] for clone in user.value("clones", "doc")} - {"c0", "c1", "c2"}
        assert new <= {"new"}
        assert_clone_restores(user, "c1", "state1")
        user.quick("backup", "doc", "--name", f"again{step}")
        assert_clone_restores(user, f"again{step}", "state3")
    assert_pool_is_whole(user, clones={"c0", "c1", "c2", "new"})
    assert_clone_restores(user, "new", "state3")


@pytest.mark.parametrize("action", ["kill", "full"])
def test_backups_stopped_one_after_another_pile_up_nothing_in_the_way(user: User, action: str) -> None:
    for step in itertools.count(1):
        done = user.quick("backup", "doc", "--name", f"new{step}", code=(0, 10, KILLED), DAL_FAULT=f"{action}:{step}")
        if done.code == 0:
            break
    assert step > 5
    assert_pool_is_whole(user, clones={"c0", "c1", "c2", f"new{step}"})
    assert_clone_restores(user, f"new{step}", "state3")
    user.quick("gc", "--grace", "0s")
    assert_pool_is_whole(user, clones={"c0", "c1", "c2", f"new{step}"})
    assert_clone_restores(user, "c0", "state0")
    assert not list((user.home / "pool" / "packs").rglob("*.partial"))


@pytest.mark.parametrize("action", ["kill", "full"])
@pytest.mark.parametrize("words", [["clone", "doc", "new"], ["unclone", "doc@c0"], ["hold", "doc@c1"]])
def test_changing_clones_stopped_at_every_step_is_done_or_not_done(user: User, action: str, words: list[str]) -> None:
    kept = {"c0", "c1", "c2"} - ({"c0"} if words[0] == "unclone" else set())
    pool = user.home / "pool"
    shutil.copytree(pool, user.home / "kept")

    def again(_: int) -> None:
        put_back(user)

    for _ in faults(user, action, words, again=again):
        assert_pool_is_whole(user, clones=kept)
        names = {clone["clone"] for clone in user.value("clones", "doc")}
        assert names in (kept, kept | {"c0"}, kept | {"new"})
        done = (words[0] == "clone" and "new" in names) or (words[0] == "unclone" and "c0" not in names)
        user.quick(*words, code=(4 if words[0] == "clone" else 6) if done else 0)
    assert_clone_restores(user, "c1", "state1")


@pytest.mark.parametrize("action", ["kill", "full"])
@pytest.mark.parametrize(
    "words",
    [
        ["dump", "doc@c2", "--level", "0", "-o", "out.dump"],
        ["dump", "doc@c2", "--level", "1", "-o", "out.dump"],
        ["merge", "-o", "out.dump", "d0.dump", "d1.dump", "d2.dump"],
        ["merge", "-o", "out.dump", "d1.dump", "d2.dump"],
    ],
)
def test_dump_and_merge_stopped_at_every_step_leave_no_half_file(user: User, action: str, words: list[str]) -> None:
    output = user.home / "out.dump"
    recorded = len(user.value("volume", "show", "doc")["dumps"])
    for _ in faults(user, action, words, again=lambda _: output.unlink(missing_ok=True)):
        dumps = user.value("volume", "show", "doc")["dumps"]
        if output.exists():
            assert user.value("verify", "out.dump")["whole"]
        if len(dumps) > recorded:
            # Recorded only when durable: what later dumps will start from is there.
            assert output.exists()
        recorded = len(dumps)
        if action == "full":
            assert not list(user.home.glob("*.partial"))
    assert_no_half_pack(user)
    assert not list(user.home.glob("*.partial"))
    if words[0] == "merge" and "d0.dump" in words:
        user.quick("restore", "out.dump", "--to", "back")
        assert tree(user.home / "back") == tree(user.home / "state2")
    assert_pool_is_whole(user, clones={"c0", "c1", "c2"})


@pytest.mark.parametrize("action", ["kill", "full"])
def test_a_dump_that_was_there_survives_a_stopped_one_of_the_same_name(user: User, action: str) -> None:
    output = user.home / "out.dump"
    shutil.copy(user.home / "d2.dump", output)
    before = output.read_bytes()
    for _ in faults(user, action, ["merge", "-o", "out.dump", "d1.dump", "d2.dump"]):
        if output.read_bytes() != before:
            assert user.value("verify", "out.dump")["whole"]
            shutil.copy(user.home / "d2.dump", output)
    assert output.read_bytes() != before


@pytest.mark.parametrize("action", ["kill", "full"])
def test_restore_to_a_directory_stopped_at_every_step_goes_on(user: User, action: str) -> None:
    back = user.home / "back"

    def again(step: int) -> None:
        shutil.rmtree(back, ignore_errors=True)
        if step % 2:
            shutil.copytree(user.home / "state0", back)

    for _ in faults(user, action, ["restore", "doc@c2", "--to", "back", "--delete"], again=again):
        whole = {path: row[2] for state in (0, 2) for path, row in tree(user.home / f"state{state}").items()}
        for name, (_, _, data) in tree(back).items() if back.exists() else ():
            if Path(name).name.startswith(".dal-restore-"):
                assert action == "kill", f"{name}: left behind by a restore that could have removed it"
                continue
            olds = [tree(user.home / f"state{state}").get(name, (0, 0, None))[2] for state in (0, 2)]
            assert name in whole and data in olds, f"{name}: half written under its name"
        user.quick("restore", "doc@c2", "--to", "back", "--delete")
        assert tree(back) == tree(user.home / "state2")
    assert tree(back) == tree(user.home / "state2")


@pytest.mark.parametrize("action", ["kill", "full"])
def test_restore_to_a_volume_stopped_at_every_step_is_whole_or_absent(user: User, action: str) -> None:
    pool = user.home / "pool"
    user.quick("volume", "create", "bystander", "--source", "state1")
    user.quick("clone", "bystander", "one")
    user.quick("volume", "remove", "doc", "--yes")
    user.quick("gc", "--grace", "0s")
    shutil.copytree(pool, user.home / "kept")

    def again(_: int) -> None:
        put_back(user)

    for _ in faults(user, action, ["restore", "d0.dump+d1.dump", "--volume", "doc"], again=again):
        assert user.value("verify", "--pool")["whole"]
        assert [clone["clone"] for clone in user.value("clones", "bystander")] == ["one"]
        present = "doc" in {volume["volume"] for volume in user.value("volume", "list")}
        if present and user.value("clones", "doc"):
            assert_clone_restores(user, "c0", "state0")
            user.quick("restore", "d0.dump+d1.dump", "--volume", "doc", code=4)
        else:
            user.quick("restore", "d0.dump+d1.dump", "--volume", "doc")
        assert_clone_restores(user, "c1", "state1")
        assert user.value("verify", "--pool")["whole"]
        user.quick("restore", "d2.dump", "--volume", "doc")
        assert_clone_restores(user, "c2", "state2")


@pytest.mark.parametrize("action", ["kill", "full"])
def test_an_increment_onto_a_volume_stopped_at_every_step_keeps_the_old_state(user: User, action: str) -> None:
    pool = user.home / "pool"
    user.quick("volume", "remove", "doc", "--yes")
    user.quick("restore", "d0.dump", "--volume", "doc")
    shutil.copytree(pool, user.home / "kept")

    def again(_: int) -> None:
        put_back(user)

    for _ in faults(user, action, ["restore", "d1.dump", "--volume", "doc"], again=again):
        assert_pool_is_whole(user, clones={"c0"})
        assert_clone_restores(user, "c0", "state0")
        if {clone["clone"] for clone in user.value("clones", "doc")} == {"c0"}:
            user.quick("restore", "d1.dump", "--volume", "doc")
        assert_clone_restores(user, "c1", "state1")


@pytest.mark.parametrize("action", ["kill", "full"])
def test_gc_stopped_at_every_step_keeps_what_clones_name(user: User, action: str) -> None:
    pool = user.home / "pool"
    user.quick("volume", "create", "other", "--source", "state3")
    user.quick("clone", "other", "gone")
    user.quick("volume", "remove", "other", "--yes")
    user.quick("unclone", "doc@c1")
    shutil.copytree(pool, user.home / "kept")

    def again(_: int) -> None:
        put_back(user)

    freed = 0
    for _ in faults(user, action, ["gc", "--grace", "0s"], again=again):
        assert_pool_is_whole(user, clones={"c0", "c2"})
        assert_clone_restores(user, "c0", "state0")
        freed += user.value("gc", "--grace", "0s")["freed_bytes"]
        assert_pool_is_whole(user, clones={"c0", "c2"})
        user.quick("backup", "doc", "--name", "new")
        assert_clone_restores(user, "new", "state3")
    assert freed > 0, "there was nothing to collect: the rehearsal tests nothing"
    assert_pool_is_whole(user, clones={"c0", "c2"})
    assert_clone_restores(user, "c2", "state2")


def test_stale_partial_files_of_every_kind_disturb_nobody(user: User) -> None:
    for name in (
        "d9.dump.partial",
        "pool/pool.toml.1.0.partial",
        "pool/packs/00/x.pack.partial",
        "pool/refs/names/y.1.2.partial",
    ):
        path = user.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left by a killed writer")
    (user.home / "state0" / ".dal-restore-0123456789abcdef").write_bytes(b"left by a killed restore")
    user.quick("backup", "doc", "--name", "new")
    user.quick("dump", "doc@new", "--level", "0", "-o", "d9.dump")
    user.quick("restore", "doc@c0", "--to", "state0")
    assert not (user.home / "state0" / ".dal-restore-0123456789abcdef").exists()
    user.quick("gc", "--grace", "0s")
    assert_pool_is_whole(user, clones={"c0", "new"})
    assert_no_half_pack(user)


# Disks that are really full


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount small disks; skipped, loudly, where nobody may mount."""
    mounted: list[Path] = []

    def mount(size_bytes: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},nr_inodes=2000", "tmpfs", str(place)],
            capture_output=True,
        )
        if done.returncode != 0:
            pytest.skip(f"NO REAL FULL DISK WAS TESTED: mount says {done.stderr.decode().strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_pool_on_a_disk_that_fills_stays_good_and_goes_on_when_there_is_room(
    user: User, disk: Callable[[int], Path]
) -> None:
    place = disk(1_500_000)
    user.environment["DAL_POOL"] = str(place / "pool")
    user.quick("init", "--encryption", "none")
    user.quick("backup", "state0", "--name", "one")
    big = user.home / "state0" / "big"
    big.write_bytes(os.urandom(3_000_000))
    assert "free some space" in user.run("backup", "state0", "--name", "two", code=10).error
    big.unlink()
    user.quick("verify", "--pool")
    assert [clone["clone"] for clone in user.value("clones", "state0")] == ["one"]
    assert not list((place / "pool" / "packs").rglob("*.partial"))
    user.quick("backup", "state0", "--name", "three")
    user.quick("restore", "state0@three", "--to", "back")
    assert tree(user.home / "back") == tree(user.home / "state0")


def fill(place: Path) -> None:
    """Leave no byte free."""
    with open(place / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    assert os.statvfs(place).f_bavail == 0


def test_a_disk_without_a_free_byte_still_lets_clones_go_and_collects(user: User, disk: Callable[[int], Path]) -> None:
    """The kind: what makes room needs room: `unclone`, `volume remove`, `unhold` and `gc` on a full disk."""
    place = disk(3_000_000)
    user.environment["DAL_POOL"] = str(place / "pool")
    user.quick("init", "--encryption", "none")
    user.quick("backup", "state0", "--name", "two")
    big = user.home / "state0" / "big"
    big.write_bytes(os.urandom(1_000_000))
    user.quick("backup", "state0", "--name", "one")
    user.quick("hold", "state0@one")
    big.unlink()
    user.quick("backup", "state0", "--name", "three")
    fill(place)
    user.quick("backup", "state1", "--name", "two", code=10)
    user.quick("ls", "state0@one")
    user.quick("restore", "state0@one", "--to", "back")
    user.quick("verify", "--pool")
    user.quick("unhold", "state0@one")
    user.quick("unclone", "state0@one")
    assert user.value("gc", "--grace", "0")["freed_bytes"] > 900_000
    assert os.statvfs(place).f_bavail * os.statvfs(place).f_bsize > 900_000
    user.quick("verify", "--pool")
    user.quick("backup", "state1", "--name", "two")
    assert (place / "pool" / "reserve").exists()
    (place / "ballast").unlink()
    fill(place)
    user.quick("volume", "remove", "state1", "--yes")
    assert user.value("gc", "--grace", "0")["freed_bytes"] > 0
    assert [clone["clone"] for clone in user.value("clones", "state0")] == ["two", "three"]


def test_collecting_says_what_is_free_when(user: User) -> None:
    """The kind: a command that frees nothing today and does not say when it will."""
    user.quick("volume", "remove", "doc", "--yes")
    first = user.run("gc")
    assert b"free from" in first.out
    assert b"--grace 0" in first.out
    assert b"deleted" in user.run("gc", "--grace", "0").out
    assert user.run("gc").out == b"nothing is dead: all that is stored is needed\n"


@pytest.mark.parametrize("command", ["dump", "merge"])
def test_a_dump_whose_disk_fills_at_any_place_leaves_nothing_under_its_name(
    user: User, disk: Callable[[int], Path], command: str
) -> None:
    words = ["dump", "doc@c2", "--level", "0", "--no-record"] if command == "dump" else ["merge"]
    dumps = [] if command == "dump" else ["d0.dump", "d1.dump", "d2.dump"]
    user.quick(*words, "-o", "whole.dump", *dumps)
    size = (user.home / "whole.dump").stat().st_size
    failed = 0
    # In the first block, in the middle, and in the last flush: the index, the trailer, the footer.
    for room in (8192, size // 2 // 4096 * 4096, (size - 4096) // 4096 * 4096, (size - 1) // 4096 * 4096, size + 8192):
        place = disk(room)
        done = user.quick(*words, "-o", str(place / "out.dump"), *dumps, code=(0, 10))
        if done.code == 10:
            failed += 1
            assert "no space" in done.error.lower() and "out.dump" in done.error
            assert list(place.iterdir()) == []
        else:
            assert user.value("verify", str(place / "out.dump"))["whole"]
    assert failed == 4
    assert_pool_is_whole(user, clones={"c0", "c1", "c2"})


def test_a_merge_into_a_full_pipe_is_exit_10(user: User) -> None:
    with open("/dev/full", "wb") as full:
        for words in (
            ["dump", "doc@c2", "--level", "0", "-o", "-"],
            ["merge", "-o", "-", "d0.dump", "d1.dump"],
            ["ls", "doc"],
        ):
            done = subprocess.run(
                [*user.command(), *words], cwd=user.home, env=user.environ({}), stdout=full, stderr=subprocess.PIPE
            )
            assert done.returncode == 10, (words, done.returncode, done.stderr)
            assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr
    assert not [d for d in user.value("volume", "show", "doc")["dumps"] if d["path"] == "-"]


def test_a_restore_whose_disk_fills_is_exit_10_and_resumes(user: User, disk: Callable[[int], Path]) -> None:
    place = disk(120_000)
    assert "nothing was written" in user.quick("restore", "doc@c2", "--to", str(place / "back"), code=10).error
    assert list(place.iterdir()) == []
    begun = user.quick("restore", "doc@c2", "--to", str(place / "back"), "--any-size", code=10)
    assert "no space" in begun.error.lower()
    for path in (place / "back").rglob("*"):
        assert not path.name.startswith(".dal-restore-")
        if path.is_file():
            assert path.read_bytes() == (user.home / "state2" / path.relative_to(place / "back")).read_bytes()
    subprocess.run(["mount", "-o", "remount,size=2000000", str(place)], check=True)
    user.quick("restore", "doc@c2", "--to", str(place / "back"))
    assert tree(place / "back") == tree(user.home / "state2")
