"""A volume mounted for writing: what is durable when, what is stored, and programs that people run on it."""

import ctypes
import fcntl
import mmap
import os
import random
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mount_kit import detach, mounted, needs_fuse, needs_program

from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.trees.build import RecipeBuilder, store_directory

pytestmark = needs_fuse

SEED = int(os.environ.get("DAL_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
KIB = 1024
MIB = 1024 * KIB
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")


@pytest.fixture
def home(user: User) -> User:
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    return user


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pool_bytes(user: User) -> int:
    return sum(path.stat().st_size for path in (user.home / "pool" / "packs").rglob("*.pack"))


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def test_what_was_synced_survives_a_kill_and_the_rest_is_a_moment(home: User) -> None:
    with mounted(home, "v") as mount:
        (mount.path / "d").mkdir()
        (mount.path / "d" / "kept").write_bytes(b"kept" * 1000)
        fsync(mount.path / "d" / "kept")
        (mount.path / "later").write_bytes(b"later")
        mount.kill()
    with mounted(home, "v") as mount:
        assert (mount.path / "d" / "kept").read_bytes() == b"kept" * 1000
        assert set(os.listdir(mount.path)) <= {"d", "later"}
    home.quick("verify", "--pool")


def test_unsynced_work_becomes_durable_by_itself(home: User) -> None:
    """How soon is `commit.is_due`'s: test_mount_commit.py. The kind of fault: a test that fails because a machine is busy."""
    with mounted(home, "v") as mount:
        (mount.path / "file").write_bytes(b"x" * 300_000)
        deadline = time.monotonic() + 60
        while home.quick("ls", "v", code=(0, 6)).out != b"file\n":
            assert time.monotonic() < deadline, "never committed"
        mount.kill()
    with mounted(home, "v") as mount:
        assert (mount.path / "file").read_bytes() == b"x" * 300_000


def test_unmounting_stores_the_last_writes(home: User) -> None:
    with mounted(home, "v") as mount:
        (mount.path / "file").write_bytes(b"x")
        mount.end()
    assert home.quick("cat", "v:/file").out == b"x"
    with mounted(home, "v") as mount:
        (mount.path / "file").write_bytes(b"y")
        assert subprocess.run(["umount", str(mount.path)]).returncode == 0 or os.geteuid() != 0
        mount.wait()
    assert home.quick("cat", "v:/file").out == b"y"


@as_root
@needs_program("unshare")
def test_unmounting_says_that_another_mount_namespace_holds_the_mount(home: User) -> None:
    """Kind: a wait for what cannot end, blamed on something else."""
    with mounted(home, "v") as mount:
        holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "echo there; exec sleep 1000"], stdout=subprocess.PIPE
        )
        assert holder.stdout is not None and holder.stdout.readline() == b"there\n"
        (mount.path / "file").write_text("written")
        done = home.quick("umount", str(mount.path))
        assert b"another mount namespace" in done.err and str(holder.pid).encode() in done.err
        assert home.quick("cat", "v:/file").out == b"written"
        holder.kill()
        holder.wait()
        mount.wait()


def test_server_that_is_asked_to_end_stores_the_last_writes(home: User) -> None:
    with mounted(home, "v") as mount:
        (mount.path / "file").write_bytes(b"x")
        os.kill(mount.process, signal.SIGTERM)
        mount.wait()
    assert home.quick("cat", "v:/file").out == b"x"


def test_rewriting_4_kib_of_a_large_file_stores_under_1_mib(home: User) -> None:
    chance = random.Random(1)
    with mounted(home, "v") as mount:
        with open(mount.path / "large", "wb") as file:
            for _ in range(48):
                file.write(chance.randbytes(MIB))
            file.flush()
            os.fsync(file.fileno())
        before = pool_bytes(home)
        assert before > 48 * MIB
        with open(mount.path / "large", "r+b") as file:
            os.pwrite(file.fileno(), chance.randbytes(4096), 20 * MIB + 123)
            os.fsync(file.fileno())
        assert 4096 < pool_bytes(home) - before < MIB


def test_rewriting_4_kib_of_10_gib_stores_under_1_mib(home: User) -> None:
    """The file repeats 16 MiB of noise, so that its recipe is as long as that of any file of its size."""
    chance = random.Random(2)
    part = chance.randbytes(16 * MIB)
    size = 10 * 1024 * MIB
    with open_pool(home.home / "pool") as house, house.pool.writer() as writer:
        cuts = Cutter(house.pool.realm.chunk_seed).cut(part, final=True)
        chunks = [
            (end - start, writer.put(objects.KIND_CHUNK, part[start:end]))
            for start, end in zip([0, *cuts[:-1]], cuts, strict=True)
        ]
        builder = RecipeBuilder(writer)
        for _ in range(size // len(part)):
            for length, identity in chunks:
                builder.add(length, identity)
        kind, content = builder.finish()
        file = Entry(
            name=b"huge", kind=objects.ENTRY_FILE, mode=0o644, size=size, node=7, content_kind=kind, content=content
        )
        root = Entry(
            name=b"",
            kind=objects.ENTRY_DIRECTORY,
            mode=0o755,
            node=8,
            content_kind=objects.CONTENT_DIRECTORY,
            content=store_directory(writer, [file]),
        )
        state = house.volumes.get("v")
        house.volumes.commit_revision(
            writer,
            state,
            Revision(
                volume=state.id,
                parents=[],
                root=root,
                links=b"",
                created_ns=1,
                author="test",
                message="",
                entry_count=1,
                total_bytes=size,
            ),
        )
    at = 5 * 1024 * MIB + 12_345
    new = chance.randbytes(4096)
    with mounted(home, "v") as mount:
        before = pool_bytes(home)
        with open(mount.path / "huge", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), new, at)
            os.fsync(file.fileno())
        assert 4096 < pool_bytes(home) - before < MIB
        mount.kill()
    with mounted(home, "v") as mount, open(mount.path / "huge", "rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        start = at - 12_345
        assert os.pread(file.fileno(), len(part), start) == part[:12_345] + new + part[12_345 + 4096 :]
        for place in (0, start - len(part), start + len(part), size - len(part)):
            assert os.pread(file.fileno(), MIB, place) == part[:MIB]


def test_sparse_file_of_10_gib_costs_what_its_data_costs(home: User) -> None:
    size = 10 * 1024 * MIB
    data = os.urandom(MIB)
    with mounted(home, "v") as mount:
        with open(mount.path / "sparse", "wb", buffering=0) as file:
            file.truncate(size)
            for place in (0, 3 * 1024 * MIB + 5, size - MIB):
                os.pwrite(file.fileno(), data, place)
            os.fsync(file.fileno())
            before = pool_bytes(home)
            os.pwrite(file.fileno(), b"x" * 4096, 7 * 1024 * MIB)
            os.fsync(file.fileno())
        assert pool_bytes(home) - before < MIB
        mount.end()
    with mounted(home, "v") as mount, open(mount.path / "sparse", "rb") as file:
        assert os.pread(file.fileno(), MIB, 3 * 1024 * MIB + 5) == data
        assert os.lseek(file.fileno(), 4 * 1024 * MIB, os.SEEK_DATA) == 7 * 1024 * MIB
        assert os.pread(file.fileno(), 8192, 7 * 1024 * MIB - 2048) == bytes(2048) + b"x" * 4096 + bytes(2048)
        assert os.fstat(file.fileno()).st_blocks * 512 < 4 * MIB


def test_file_without_a_name_is_there_until_it_is_closed(home: User) -> None:
    with mounted(home, "v") as mount:
        (mount.path / "file").write_bytes(b"before" * 10_000)
        fsync(mount.path / "file")
        with open(mount.path / "file", "r+b") as file:
            os.unlink(mount.path / "file")
            os.pwrite(file.fileno(), b"AFTER", 30_000)
            fsync(mount.path)
            os.pwrite(file.fileno(), b"again", 0)
            fsync(mount.path)
            expected = bytearray(b"before" * 10_000)
            expected[30_000:30_005] = b"AFTER"
            expected[:5] = b"again"
            assert os.pread(file.fileno(), 60_000, 0) == bytes(expected)
        assert os.listdir(mount.path) == []
        mount.end()
    assert home.quick("ls", "v").out == b""


def test_clone_holds_what_was_written_up_to_the_call(home: User) -> None:
    with mounted(home, "v") as mount:
        for number in range(5):
            (mount.path / "file").write_text(f"{number}")
            home.quick("clone", "v", f"c{number}")
        assert sorted(os.listdir(mount.path / ".clones")) == [f"c{number}" for number in range(5)]
        for number in range(5):
            assert (mount.path / ".clones" / f"c{number}" / "file").read_text() == f"{number}"
        home.quick("clone", "v", "one-more")
        deadline = time.monotonic() + 10
        while "one-more" not in os.listdir(mount.path / ".clones"):
            assert time.monotonic() < deadline, "a list of clones that was read is read again"
            time.sleep(0.1)


def test_the_backup_cycle_holds_what_was_written_up_to_the_call(home: User) -> None:
    policy = home.home / "policy.toml"
    media = home.home / "media"
    media.mkdir()
    policy.write_text(
        f'state = "{home.home}/state"\n[targets.d]\nkind = "directory"\npaths = ["{media}"]\n'
        '[sets.natives]\nvolumes = ["v"]\ntargets = ["d"]\n'
    )
    home.quick("media", "label", str(media), "m", "--target", "d", DAL_POLICY=str(policy))
    with mounted(home, "v") as mount:
        (mount.path / "file").write_text("just now")
        home.quick("backup", "--set", "all", DAL_POLICY=str(policy))
        (clone,) = [each["clone"] for each in home.value("clones", "v")]
        assert (mount.path / ".clones" / clone / "file").read_text() == "just now"


def test_clone_holds_what_was_written_through_a_map(home: User) -> None:
    with mounted(home, "v") as mount:
        with open(mount.path / "file", "w+b") as file:
            file.truncate(MIB)
            with mmap.mmap(file.fileno(), MIB) as shared:
                shared[5000:5005] = b"first"
                home.quick("clone", "v", "one")
                shared[5000:5005] = b"other"
                home.quick("clone", "v", "two")
        for name, expected in (("one", b"first"), ("two", b"other")):
            assert home.quick("cat", f"v@{name}:/file").out[5000:5005] == expected


def test_mount_that_would_hide_its_own_pool_is_refused(home: User) -> None:
    assert "would hide" in home.quick("mount", "v", str(home.home), code=4).error
    home.quick("mount", "v", str(home.home / "pool"), "--read-only", code=(4, 6))


def test_second_mount_for_writing_is_refused(home: User) -> None:
    with mounted(home, "v"):
        (home.home / "second").mkdir()
        try:
            assert "mounted for writing already" in home.quick("mount", "v", "second", code=7).error
            home.quick("mount", "v", "second", "--read-only", code=6)
        finally:
            detach(home.home / "second")


def test_what_somebody_else_commits_is_kept_as_a_clone(home: User) -> None:
    other = home.home / "other"
    other.mkdir()
    (other / "theirs").write_text("theirs")
    with mounted(home, "v") as mount:
        (mount.path / "ours").write_text("ours")
        fsync(mount.path / "ours")
        home.quick("import", "v", "other")
        (mount.path / "more").write_text("more")
        fsync(mount.path / "more")
        assert "somebody else committed" in mount.log
    kept = [each["clone"] for each in home.value("clones", "v")]
    assert len(kept) == 1
    assert home.quick("cat", f"v@{kept[0]}:/theirs").out == b"theirs"
    assert home.quick("cat", "v:/more").out == b"more" and home.quick("cat", "v:/ours").out == b"ours"


def test_automatic_revisions_thin_out_and_named_ones_stay(home: User) -> None:
    with mounted(home, "v") as mount:
        for number in range(12):
            (mount.path / "file").write_text(f"{number}")
            fsync(mount.path / "file")
            if number == 5:
                home.quick("clone", "v", "named")
    assert len(home.value("log", "v")) <= 4, "but for the turn of five minutes, one and the named one"
    assert home.quick("cat", "v@named:/file").out == b"5"


def test_collection_takes_nothing_that_a_mount_still_shows(home: User) -> None:
    with mounted(home, "v") as mount:
        for number in range(200):
            (mount.path / f"f{number}").write_bytes(b"%d" % number * 500)
        mount.end()
    home.quick("clone", "v", "base")
    with mounted(home, "v") as mount:
        for number in range(0, 200, 2):
            (mount.path / f"f{number}").unlink()
        fsync(mount.path)
        base = home.value("clones", "v")[0]["revision"]
        home.quick("unclone", "v@base")
        home.quick("gc", "--grace", "0s")
        home.quick("clone", "v", "now")
        assert pinned_is_whole(home, base)
        drop_caches(mount.path)
        for number in range(1, 200, 2):
            assert (mount.path / f"f{number}").read_bytes() == b"%d" % number * 500
        assert len(os.listdir(mount.path)) == 100
        mount.end()
    assert not list((home.home / "pool" / "refs" / "pins").glob("*"))
    home.quick("gc", "--grace", "0s")
    home.quick("verify", "--pool")


def test_collection_takes_nothing_that_a_read_only_mount_shows_until_it_ends(home: User) -> None:
    with mounted(home, "v") as mount:
        for number in range(200):
            (mount.path / f"f{number}").write_bytes(b"%d" % number * 500)
        mount.end()
    home.quick("clone", "v", "old")
    home.quick("clone", "v", "older")
    other = home.home / "other"
    pins = home.home / "pool" / "refs" / "pins"
    with mounted(home, "v@old") as mount, mounted(home, "v", "--read-only", path=other) as second:
        # Who is in a clone stays there, though its name goes.
        inside = os.open(second.path / ".clones" / "older", os.O_RDONLY)
        assert len(os.listdir(inside)) == 200
        with mounted(home, "v", path=home.home / "work") as third:
            for name in os.listdir(third.path):
                (third.path / name).unlink()
            third.end()
        shown = {clone["revision"] for clone in home.value("clones", "v")}
        home.quick("unclone", "v@old")
        home.quick("unclone", "v@older")
        home.quick("gc", "--grace", "0s")
        # The mount has its packs open still; who opens them anew must find them too.
        assert all(pinned_is_whole(home, revision) for revision in shown)
        for number in range(200):
            assert (mount.path / f"f{number}").read_bytes() == b"%d" % number * 500
            with open(os.open(f"f{number}", os.O_RDONLY, dir_fd=inside), "rb") as file:
                assert file.read() == b"%d" % number * 500
        os.close(inside)
        mount.end()
        second.kill()
    left = list(pins.glob("*"))
    assert left, "a mount that was killed leaves its leases"
    home.quick("gc", "--grace", "0s")
    assert list(pins.glob("*")) == left
    tomorrow = str(time.time_ns() + 24 * 3600 * 10**9)
    before = pool_bytes(home)
    home.quick("gc", "--grace", "0s", DAL_NOW=tomorrow)
    assert not list(pins.glob("*")) and pool_bytes(home) < before
    home.quick("verify", "--pool")


def pinned_is_whole(home: User, revision: str) -> bool:
    """Tell whether all directories of a revision that nothing but a pin names can be read."""
    code = f"""
from pathlib import Path
from dalsegno.pool.pool import Pool
from dalsegno.trees.read import read_revision
from dalsegno.trees.walk import walk
with Pool.open(Path({str(home.home / "pool")!r})) as pool:
    assert len(list(walk(pool, read_revision(pool, bytes.fromhex({revision!r}))))) == 201
"""
    return subprocess.run([sys.executable, "-c", code], env=home.environ({})).returncode == 0


def drop_caches(path: Path) -> None:
    """Let the kernel ask again, where we may."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2")


def test_mount_point_leads_to_another_volume_and_stays(home: User) -> None:
    doc = home.home / "doc"
    doc.mkdir()
    (doc / "old").write_text("old file")
    home.quick("backup", "doc")
    home.quick("clone", "doc", "backup")
    with mounted(home, "v") as mount:
        (mount.path / "sub").mkdir()
        (mount.path / "sub" / "file").write_text("x")
        home.quick("mkmount", str(mount.path / "sub" / "OldFiles"), "doc.backup")
        warned = home.quick("mkmount", str(mount.path / "nowhere"), "no-such-volume").err
        assert b"warning: nothing is there now" in warned and b"no-such-volume" in warned
        # Kind of fault: what a name is changes while the kernel knows it, and it answers with an input/output error.
        for _ in range(2):
            assert stat.S_ISLNK(os.lstat(mount.path / "nowhere").st_mode)
            assert os.readlink(mount.path / "nowhere") == "#no-such-volume"
        listed = subprocess.run(["ls", "-la", str(mount.path)], capture_output=True, text=True)
        assert listed.returncode == 0 and "nowhere -> #no-such-volume" in listed.stdout
        assert (mount.path / "sub" / "OldFiles" / "old").read_text() == "old file"
        assert "exists" in home.quick("mkmount", str(mount.path / "sub" / "OldFiles"), "doc", code=4).error
        with pytest.raises(OSError):
            (mount.path / "sub" / "OldFiles" / "new").write_text("refused")
        mount.end()
    assert [each["kind"] for each in home.value("ls", "v:/sub")] == ["mount", "file"]
    assert (
        b"Mrwxrwxrwx" in home.quick("ls", "-l", "v").out
        and b"nowhere -> no-such-volume" in home.quick("ls", "-l", "v").out
    )
    left = home.value("restore", "v", "--to", str(home.home / "restored"))["left"]
    assert sorted(each["path"] for each in left) == ["nowhere", "sub/OldFiles"] and "mount point" in left[0]["reason"]
    home.quick("clone", "v", "with-points")
    home.quick("dump", "v@with-points", "-o", "v.dump")
    with mounted(home, "v.dump") as mount:
        assert (mount.path / "sub" / "OldFiles").is_symlink() or (mount.path / "sub" / "OldFiles" / "old").exists()
    with mounted(home, "v") as mount:
        assert (mount.path / "sub" / "OldFiles" / "old").read_text() == "old file"
        assert os.readlink(mount.path / "nowhere") == "#no-such-volume"
        found = subprocess.run(["find", str(mount.path)], capture_output=True, text=True)
        assert found.returncode == 0 and "OldFiles/old" in found.stdout
        with pytest.raises(OSError):
            os.rmdir(mount.path / "sub" / "OldFiles")
        home.quick("rmmount", str(mount.path / "sub" / "OldFiles"), str(mount.path / "nowhere"))
        assert os.listdir(mount.path) == ["sub"] and os.listdir(mount.path / "sub") == ["file"]
        assert "not a mount point" in home.quick("rmmount", str(mount.path / "sub" / "file"), code=2).error


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def test_access_lists_are_inherited_follow_the_mode_and_come_back(home: User) -> None:
    nobody = 0xFFFFFFFF
    default = acl((1, 7, nobody), (2, 6, 1234), (4, 5, nobody), (16, 7, nobody), (32, 0, nobody))
    with mounted(home, "v") as mount:
        top = mount.path / "top"
        top.mkdir()
        os.setxattr(top, "system.posix_acl_default", default)
        (top / "file").write_text("x")
        (top / "dir").mkdir()
        assert os.getxattr(top / "dir", "system.posix_acl_default") == default
        assert stat_mode(top / "file") == 0o660
        os.chmod(top / "file", 0o640)
        given = os.getxattr(top / "file", "system.posix_acl_access")
        assert given == acl((1, 6, nobody), (2, 6, 1234), (4, 5, nobody), (16, 4, nobody), (32, 0, nobody))
        os.setxattr(top / "file", "system.posix_acl_access", acl((1, 6, nobody), (4, 4, nobody), (32, 4, nobody)))
        assert stat_mode(top / "file") == 0o644 and os.listxattr(top / "file") == []
        mount.end()
    with mounted(home, "v") as mount:
        assert os.getxattr(mount.path / "top" / "dir", "system.posix_acl_default") == default


def stat_mode(path: Path) -> int:
    return os.stat(path).st_mode & 0o7777


@as_root
def test_set_id_bits_go_when_somebody_else_writes(home: User) -> None:
    for parent in (home.home, *home.home.parents):
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    with mounted(home, "v", "--allow-other") as mount:
        for name in ("write", "truncate", "chown"):
            (mount.path / name).write_text("x")
            os.chmod(mount.path / name, 0o6777)
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
        run(*other, f"open({str(mount.path / 'write')!r}, 'a').write('y')")
        run(*other, f"import os; os.truncate({str(mount.path / 'truncate')!r}, 0)")
        os.chown(mount.path / "chown", 1, 1)
        assert [stat_mode(mount.path / name) for name in ("write", "truncate", "chown")] == [0o777] * 3


def test_database_is_whole_after_a_kill_in_the_middle_of_its_work(home: User) -> None:
    script = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("pragma synchronous=extra")
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("create table if not exists t (id integer primary key, data blob)")
for number in range(100000):
    with db:
        db.execute("insert into t (data) values (randomblob(5000))")
        db.execute("delete from t where id = ?", (number - 30,))
    print(number, flush=True)
"""
    for journal in ("delete", "wal"):
        with mounted(home, "v") as mount:
            path = mount.path / f"{journal}.db"
            writer = subprocess.Popen(
                [sys.executable, "-c", script, str(path), journal], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert writer.stdout is not None
            for _ in range(25):
                acknowledged = int(writer.stdout.readline())
            mount.kill()
            writer.wait()
        with mounted(home, "v") as mount:
            database = sqlite3.connect(path)
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            assert database.execute("select max(id) from t").fetchone()[0] >= acknowledged + 1, (
                "acknowledged is durable"
            )
            database.close()


def test_kill_at_any_moment_leaves_the_tree_as_it_was_at_one_moment(home: User) -> None:
    print(f"seed {SEED}: DAL_TEST_SEED={SEED} repeats this run")
    chance = random.Random(SEED)
    script = """
import os, sys, threading, time
top = sys.argv[1]
def sync():
    while True:
        fd = os.open(top, os.O_RDONLY); os.fsync(fd); os.close(fd); time.sleep(0.01)
threading.Thread(target=sync, daemon=True).start()
for number in range(int(sys.argv[2]), 1000000):
    os.makedirs(f"{top}/d{number % 5}", exist_ok=True)
    with open(f"{top}/d{number % 5}/f{number}", "w") as file:
        file.write(str(number) * 3000)
    os.rename(f"{top}/d{number % 5}/f{number}", f"{top}/d{number % 5}/done{number}")
"""
    first = 0
    for _ in range(4):
        with mounted(home, "v") as mount:
            writer = subprocess.Popen(
                [sys.executable, "-c", script, str(mount.path), str(first)], stderr=subprocess.DEVNULL
            )
            time.sleep(chance.uniform(0.3, 1.2))
            mount.kill()
            writer.wait()
        with mounted(home, "v") as mount:
            there = sorted(
                (int(path.name.removeprefix("done").removeprefix("f")), path) for path in mount.path.glob("d*/*")
            )
            numbers = [number for number, _ in there]
            assert numbers == list(range(len(numbers))), (SEED, "a file is missing that came before others")
            for number, path in there:
                if path.name.startswith("done"):
                    assert path.read_text() == str(number) * 3000, (SEED, path)
                else:
                    assert number == numbers[-1], (SEED, "only the last file was being written")
            first = len(numbers)
            for number, path in there[-1:]:
                path.rename(path.with_name(f"done{number}")).write_text(str(number) * 3000)
    home.quick("verify", "--pool")


def test_kill_before_a_durable_step_of_a_commit_leaves_the_old_state_or_the_new(home: User) -> None:
    print(f"seed {SEED}: DAL_TEST_SEED={SEED} repeats this run")
    with mounted(home, "v") as mount:
        (mount.path / "file").write_text("0")
    # Every third step, from another one in each run.
    state, step, unharmed = 0, -(SEED % 3), False
    while not unharmed:
        step += 3
        assert step < 60, "a commit has fewer durable steps"
        try:
            with mounted(home, "v", DAL_FAULT=f"kill:{step}") as mount:
                with suppress(OSError):
                    (mount.path / "file").write_text(str(step))
                    (mount.path / f"new{step}").write_text(str(step))
                    fsync(mount.path / "file")
                    unharmed = True
                mount.kill() if mount.is_alive() else mount.wait()
        except AssertionError:
            assert step < 20, "killed while it was mounting: the command says so"
        with mounted(home, "v") as mount:
            found = int((mount.path / "file").read_text())
            assert found in (state, step)
            assert (mount.path / f"new{step}").exists() == (found == step)
            state = found
            mount.end()
    assert state == step
    home.quick("verify", "--pool")


@needs_program("git")
def test_repository_is_whole_after_a_crash_and_a_remount(home: User) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.fsync=all")
    here = Path(__file__).resolve().parents[1]
    with mounted(home, "v") as mount:
        repository = mount.path / "repository"
        shutil.copytree(here, repository, ignore=shutil.ignore_patterns("__pycache__"))
        run(*git, "init", "-q", cwd=repository)
        run(*git, "add", "-A", cwd=repository)
        run(*git, "commit", "-q", "-m", "all", cwd=repository)
        run(*git, "clone", "-q", "--no-hardlinks", repository, mount.path / "copy")
        run(*git, "gc", "-q", cwd=repository)
        fsync(mount.path)
        mount.kill()
    with mounted(home, "v") as mount:
        for name in ("repository", "copy"):
            run(*git, "fsck", "--full", "--strict", cwd=mount.path / name)
            assert run(*git, "status", "--short", cwd=mount.path / name) == ""


@needs_program("rsync")
def test_rsync_in_and_out_keeps_everything(home: User) -> None:
    source, back = home.home / "source", home.home / "back"
    for number in range(60):
        directory = source / f"d{number % 7}" / f"s{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(number * 900))
        os.utime(directory / f"f{number}", ns=(1, number * 10**9 + number))
    os.link(source / "d0" / "s0" / "f0", source / "d1" / "linked")
    os.symlink("nowhere", source / "symlink")
    os.mkfifo(source / "fifo")
    os.setxattr(source / "d2", "user.key", b"value")
    nobody = 0xFFFFFFFF
    os.setxattr(
        source / "d3",
        "system.posix_acl_access",
        acl((1, 7, nobody), (2, 6, 1234), (4, 5, nobody), (16, 7, nobody), (32, 0, nobody)),
    )
    with open(source / "sparse", "wb") as file:
        file.truncate(5 * MIB)
        os.pwrite(file.fileno(), b"data", 3 * MIB)
    with mounted(home, "v") as mount:
        run("rsync", "-aHAXS", f"{source}/", f"{mount.path}/")
        assert run("rsync", "-aHAXSni", "--delete", f"{source}/", f"{mount.path}/") == ""
        mount.end()
    with mounted(home, "v") as mount:
        assert run("rsync", "-aHAXSnic", "--delete", f"{source}/", f"{mount.path}/") == ""
        run("rsync", "-aHAXS", f"{mount.path}/", f"{back}/")
        assert run("rsync", "-aHAXSnic", "--delete", f"{source}/", f"{back}/") == ""


def test_random_reads_writes_and_maps_of_one_file_agree_with_memory(home: User) -> None:
    print(f"seed {SEED}: DAL_TEST_SEED={SEED} repeats this run")
    chance = random.Random(SEED)
    size_max = 3 * MIB
    model = bytearray()
    trace: list[str] = []
    with mounted(home, "v") as mount:
        path = mount.path / "file"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        for step in range(400):
            act = chance.choice(["write", "write", "read", "read", "truncate", "map", "mapread", "sync", "reopen"])
            start, length = chance.randrange(size_max), chance.randrange(1, 200_000)
            trace.append(f"{act} {start} {length} of {len(model)}")
            if act == "write":
                data = chance.randbytes(length)
                os.pwrite(descriptor, data, start)
                model.extend(bytes(max(0, start + length - len(model))))
                model[start : start + length] = data
            elif act == "read":
                assert os.pread(descriptor, length, start) == bytes(model[start : start + length]), (SEED, trace[-20:])
            elif act == "truncate" and chance.random() < 0.4:
                os.ftruncate(descriptor, start)
                model[:] = model[:start] + bytes(max(0, start - len(model)))
            elif act in ("map", "mapread") and model:
                start %= len(model)
                end = min(len(model), start + length)
                with mmap.mmap(descriptor, len(model)) as shared:
                    if act == "map":
                        shared[start:end] = model[start:end] = chance.randbytes(end - start)
                        if chance.random() < 0.5:
                            shared.flush()
                    else:
                        assert shared[start:end] == bytes(model[start:end]), (SEED, trace[-20:])
            elif act == "sync":
                os.fsync(descriptor)
            elif act == "reopen":
                os.close(descriptor)
                descriptor = os.open(path, os.O_RDWR)
            if step % 100 == 99:
                assert os.pread(descriptor, size_max + 10**6, 0) == bytes(model), (SEED, trace[-20:])
        os.fsync(descriptor)
        os.close(descriptor)
        mount.kill()
    with mounted(home, "v") as mount:
        assert (mount.path / "file").read_bytes() == bytes(model), SEED


@needs_program("fio")
def test_what_fio_writes_it_reads_again_and_after_a_crash_too(home: User) -> None:
    jobs = {"psync": ["--bsrange=512-64k", "--fsync=64"], "mmap": ["--bs=4k"], "sync": ["--bs=16k", "--sync=1"]}

    def work(top: Path, *more: str) -> None:
        for engine, words in jobs.items():
            run(
                "fio",
                "--name=job",
                f"--filename={top / engine}",
                f"--ioengine={engine}",
                "--rw=randwrite",
                f"--size={'2m' if engine == 'sync' else '12m'}",
                "--verify=crc32c",
                "--verify_fatal=1",
                f"--randseed={SEED}",
                *words,
                *more,
                cwd=home.home,
            )

    with mounted(home, "v") as mount:
        work(mount.path)
        fsync(mount.path)
        mount.kill()
    with mounted(home, "v") as mount:
        work(mount.path, "--verify_only=1")
        mount.end()
    home.quick("verify", "--pool")


@needs_program("cc")
@needs_program("make")
def test_small_program_is_built_and_built_again_where_it_changed(home: User) -> None:
    with mounted(home, "v") as mount:
        place = mount.path / "program"
        place.mkdir()
        (place / "count.h").write_text("int count(void);\n#define MORE 1\n")
        (place / "count.c").write_text('#include "count.h"\nint count(void) { return 41 + MORE; }\n')
        (place / "other.c").write_text("int other(void) { return 0; }\n")
        (place / "main.c").write_text(
            '#include <stdio.h>\n#include "count.h"\nint main(void) { printf("%d\\n", count()); return 0; }\n'
        )
        (place / "Makefile").write_text(
            "program: main.o count.o other.o\n\tcc -o $@ $^\nmain.o count.o: count.h\n%.o: %.c\n\tcc -g -c -o $@ $<\n"
        )
        run("make", "-j2", cwd=place)
        assert run(str(place / "program"), cwd=place) == "42\n"
        assert "up to date" in run("make", cwd=place)
        later = time.time_ns() + 10**9
        (place / "count.h").write_text("int count(void);\n#define MORE 2\n")
        os.utime(place / "count.h", ns=(later, later))
        built = run("make", cwd=place)
        assert "main.c" in built and "other.c" not in built
        assert run(str(place / "program"), cwd=place) == "43\n"
        fsync(place)
        mount.kill()
    with mounted(home, "v") as mount:
        assert run(str(mount.path / "program" / "program"), cwd=home.home) == "43\n"


@as_root
def test_full_pool_fails_the_sync_and_loses_nothing_when_room_comes_back(home: User) -> None:
    disk = home.home / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk)
    try:
        home.quick("--pool", str(disk / "pool"), "init", "--encryption", "none")
        home.quick("--pool", str(disk / "pool"), "volume", "create", "v")
        (disk / "ballast").write_bytes(bytes(10 * MIB))
        with mounted(home, "--pool", str(disk / "pool"), "v") as mount:
            data = os.urandom(16 * MIB)
            with open(mount.path / "file", "wb") as file:
                file.write(data)
                file.flush()
                with pytest.raises(OSError, match="No space left"):
                    os.fsync(file.fileno())
                (disk / "ballast").unlink()
                os.fsync(file.fileno())
            mount.kill()
        with mounted(home, "--pool", str(disk / "pool"), "v") as mount:
            assert (mount.path / "file").read_bytes() == data
    finally:
        detach(disk)


@as_root
def test_what_is_removed_on_a_full_disk_makes_room_for_the_rest(home: User) -> None:
    disk = home.home / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk)
    try:
        user = User(disk)
        user.quick("init", "--encryption", "none")
        user.quick("volume", "create", "v")
        with mounted(user, "v", path=home.home / "mnt") as mount:
            # Pool and spool are on one disk: what is written fills it before it is stored.
            for _ in range(3):
                with (
                    open(mount.path / "large", "wb", buffering=0) as file,
                    pytest.raises(OSError, match="No space left"),
                ):
                    while True:
                        file.write(os.urandom(MIB))
                (mount.path / "small").write_text("small")
                with pytest.raises(OSError, match="No space left"):
                    fsync(mount.path / "small")
                (mount.path / "large").unlink()
            fsync(mount.path / "small")
            with open(mount.path / "large", "wb", buffering=0) as file:
                with pytest.raises(OSError, match="No space left"):
                    while True:
                        file.write(os.urandom(MIB))
                (mount.path / "large").unlink()
                (mount.path / "small").write_text("another")
                closing = threading.Timer(0.3, file.close)
                closing.start()
                fsync(mount.path / "small")
                closing.join()
            mount.kill()
        with mounted(user, "v", path=home.home / "mnt") as mount:
            assert os.listdir(mount.path) == ["small"] and (mount.path / "small").read_text() == "another"
    finally:
        detach(disk)


def test_large_directory_is_listed_whole_while_it_changes(home: User) -> None:
    with mounted(home, "v") as mount:
        names = {f"name-{number:05d}" for number in range(3_000)}
        for name in names:
            (mount.path / name).touch()
        mount.end()
    with mounted(home, "v") as mount:
        seen = set()
        with os.scandir(mount.path) as entries:
            for number, entry in enumerate(entries):
                seen.add(entry.name)
                if number % 3 == 0 and entry.name in names:
                    os.unlink(mount.path / entry.name)
                    (mount.path / f"new-{number}").touch()
        assert names <= seen, "what was there all the time is listed"
        left = set(os.listdir(mount.path))
        assert len(left) == 3_000 and "new-0" in left
        mount.end()
    assert {each["path"] for each in home.value("ls", "v")} == left


def test_locks_hold_between_processes(home: User) -> None:
    code = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    for lock in (lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)):
        try:
            lock()
            print("got")
        except BlockingIOError:
            print("refused")
"""
    with mounted(home, "v") as mount:
        path = mount.path / "file"
        path.write_bytes(bytes(100))
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert run(sys.executable, "-c", code, path) == "refused\ngot\n"
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_EX, 20, 0)
            assert run(sys.executable, "-c", code, path) == "got\nrefused\n"
        assert run(sys.executable, "-c", code, path) == "got\ngot\n"


def test_holes_are_found_in_what_was_written_and_in_what_was_stored(home: User) -> None:
    with mounted(home, "v") as mount, open(mount.path / "file", "w+b", buffering=0) as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, b"a" * 4096, 0)
        os.pwrite(descriptor, b"b" * 4096, MIB)
        os.ftruncate(descriptor, 3 * MIB)
        for _ in range(2):
            assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 4096
            assert os.lseek(descriptor, 4096, os.SEEK_DATA) == MIB
            assert os.lseek(descriptor, MIB, os.SEEK_HOLE) == MIB + 4096
            with pytest.raises(OSError, match="No such device or address"):
                os.lseek(descriptor, MIB + 4096, os.SEEK_DATA)
            assert os.lseek(descriptor, MIB + 4096, os.SEEK_HOLE) == MIB + 4096
            os.fsync(descriptor)
        os.pwrite(descriptor, b"c", 2 * MIB)
        assert os.lseek(descriptor, MIB + 4096, os.SEEK_DATA) <= 2 * MIB


def test_every_other_page_that_is_punched_is_found_as_a_hole(home: User) -> None:
    page, count = 4096, 300
    with mounted(home, "v") as mount, open(mount.path / "file", "w+b", buffering=0) as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, os.urandom(2 * page * count), 0)
        os.fsync(descriptor)
        for number in range(count):
            libc_fallocate(descriptor, 3, 2 * page * number, page)
        for _ in range(2):
            at, found = 0, []
            while at < 2 * page * count:
                data = os.lseek(descriptor, at, os.SEEK_DATA)
                at = os.lseek(descriptor, data, os.SEEK_HOLE)
                found.append((data, at))
            assert found == [(2 * page * number + page, 2 * page * (number + 1)) for number in range(count)]
            with pytest.raises(OSError, match="No such device or address"):
                os.lseek(descriptor, at, os.SEEK_DATA)
            os.fsync(descriptor)


def libc_fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) == 0


def test_room_shown_is_that_of_the_pool(home: User) -> None:
    with mounted(home, "v") as mount:
        shown, real = os.statvfs(mount.path), os.statvfs(home.home / "pool")
        assert shown.f_blocks == real.f_blocks and shown.f_namemax == 255
        assert 0 < shown.f_bavail <= shown.f_blocks
