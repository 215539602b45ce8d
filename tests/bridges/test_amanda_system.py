"""The real Amanda from Debian drives the application: amcheck, levels 0 to 3, fetch, merge, restore, recover."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from amanda_kit import TEST_SECONDS_MAX, Site, amanda_site, as_backup, code_after_retry, descendants, facts, why_not

from dalsegno.assembly.local import open_pool
from dalsegno.chunks.realm import Realm
from dalsegno.dumps.plan import forget_dump

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"!!! Amanda does not run here: {why_not()}"),
    pytest.mark.timeout(TEST_SECONDS_MAX),
]

VOLUMES = ("home", "photos")


@pytest.fixture
def site() -> Iterator[Site]:
    with amanda_site() as site:
        source = site.root / "src" / "home"
        (source / "d").mkdir(parents=True)
        (source / "base").write_bytes(os.urandom(200_000))
        # Enough that a full dump is larger than an increment, wherever the files that change are cut.
        (source / "stays").write_bytes(os.urandom(300_000))
        (source / "d" / "inner").write_bytes(os.urandom(50_000))
        (source / "d" / "stays").write_text("stays\n")
        (source / "goes away").write_text("old")
        os.link(source / "d" / "stays", source / "hard")
        os.symlink("base", source / "link")
        os.setxattr(source / "base", "user.note", b"kept")
        os.chown(source / "d" / "inner", 1234, 4321)
        shutil.copytree(source, site.root / "src" / "photos", symlinks=True)
        site.user.run("init", "--key", str(site.key))
        site.user.run("volume", "create", "home", "--source", str(source))
        site.user.run("import", "photos", str(site.root / "src" / "photos"))
        site.user.run("amanda", "install")
        yield site


def change(site: Site, number: int) -> None:
    """Change both volumes, and let the next run clone them anew. Of photos the same paths change each time."""
    for volume in VOLUMES:
        source = site.root / "src" / volume
        (source / f"new.{number if volume == 'home' else ''}").write_bytes(os.urandom(60_000))
        (source / "d" / "inner").write_bytes(os.urandom(30_000))
        (source / "goes away").unlink(missing_ok=True)
        with open(source / "base", "ab") as file:
            file.write(b"more")
        site.user.quick("unclone", f"{volume}@amanda", code=(0, 6))
    site.user.quick("import", "photos", str(site.root / "src" / "photos"))


def keep(site: Site) -> dict[str, dict[str, tuple[object, ...]]]:
    return {volume: facts(site.root / "src" / volume) for volume in VOLUMES}


def test_amanda_dumps_four_levels_of_two_volumes_and_all_of_it_comes_back(site: Site) -> None:
    lines = site.user.run("amanda", "disklist").out.decode().replace("photos dalsegno", "photos dalsegno-gz")
    assert lines == "localhost home dalsegno\nlocalhost photos dalsegno-gz\n"
    site.configure(lines)
    assert "0 problems found" in as_backup("amcheck", "-c", site.name).stdout.decode()

    seen = []
    for number in range(4):
        if number:
            change(site, number)
            for volume in VOLUMES:
                as_backup("amadmin", site.name, "force-bump" if number > 1 else "force-level-1", "localhost", volume)
        seen.append(keep(site))
        site.amdump()
        for volume in VOLUMES:
            assert [level for _, level in site.found(volume)] == list(range(number + 1)), (volume, site.logs())
            assert site.recorded(volume) == list(range(number + 1))
            assert site.state(volume).lease is None

    for volume in VOLUMES:
        images = []
        for timestamp, level in site.found(volume):
            images.append(f"{volume}.{level}.dump")
            site.fetch(volume, timestamp, site.user.home / images[-1])
        assert os.path.getsize(site.user.home / images[1]) < os.path.getsize(site.user.home / images[0])
        site.user.quick("verify", *images)
        site.user.quick("merge", "-o", f"{volume}.dump", *images)
        site.user.quick("restore", f"{volume}.dump", "--to", f"back-{volume}")
        assert facts(site.user.home / f"back-{volume}") == seen[3][volume]
        site.user.quick("restore", "+".join(images[:3]), "--to", f"older-{volume}")
        assert facts(site.user.home / f"older-{volume}") == seen[2][volume]
        assert site.user.quick("merge", "-o", "wrong.dump", images[0], images[2], code=4).error

    # Without the pool every level is needed, also those of whose paths a later level has each.
    (site.user.home / "pool").rename(site.user.home / "burned")
    for volume in VOLUMES:
        said = site.recover(site.root / f"all-{volume}", f"setdisk {volume}", "add .")
        assert facts(site.root / f"all-{volume}") == seen[3][volume], said
    (site.user.home / "burned").rename(site.user.home / "pool")
    said = site.recover(site.root / "one", "setdisk home", "cd d", "add stays")
    assert list(facts(site.root / "one")) == [".", "d", "d/stays"], said
    assert (site.root / "one" / "d" / "stays").read_text() == "stays\n"
    # Its first half is in the full dump, its end in the last increment: the pool gives what the increment has not.
    said = site.recover(site.root / "two", "setdisk home", "add base", "add new.2")
    assert facts(site.root / "two")["base"] == seen[3]["home"]["base"], said
    assert facts(site.root / "two")["new.2"] == seen[3]["home"]["new.2"], said

    assert as_backup("amcheckdump", site.name, code=None).returncode == 0

    # One volume fails; the other is dumped and recorded.
    change(site, 4)
    (site.root / "src" / "home").rename(site.root / "src" / "away")
    report = site.amdump(code=5)  # 4: a volume failed; 1: its estimate said why
    assert "no such directory" in report and "home" in report
    assert site.recorded("home") == [0, 1, 2, 3] and len(site.found("home")) == 4
    assert len(site.found("photos")) == 5 and site.recorded("photos")[-1] == site.found("photos")[-1][1]
    assert site.state("home").lease is None


def test_amcheck_tells_an_unknown_volume_a_wrong_key_and_a_pool_that_is_not_there(site: Site) -> None:
    site.configure("localhost home dalsegno\nlocalhost nobody dalsegno\n")

    def problems() -> str:
        done = as_backup("amcheck", "-c", site.name, code=1)
        assert b"Traceback" not in done.stdout
        return done.stdout.decode()

    said = problems()
    assert "no volume 'nobody'" in said and "1 problem found" in said
    site.key.rename(site.key.with_suffix(".away"))
    assert problems().count("pool.key: not there") == 2
    other = Realm(bytes(32))
    site.key.write_text(f"dalsegno-key-1 {other.realm_id.hex()} {bytes(32).hex()}\n")
    assert problems().count("belongs to another pool's realm") == 2
    site.key.with_suffix(".away").rename(site.key)
    (site.user.home / "pool").rename(site.user.home / "away")
    assert problems().count("no pool here") == 2


def test_amandas_user_can_neither_restore_as_the_owner_nor_choose_pool_and_key(site: Site) -> None:
    script = "/usr/lib/amanda/application/amdalsegno"
    for words in (
        ("restore", "--disk", "home", "--level", "0", "--target", "/etc"),
        ("discover", "--pool", "/srv/pool"),
    ):
        told = as_backup(script, *words, code=2)
        assert told.stderr.startswith(b"amdalsegno: ") and told.stderr.count(b"\n") == 1
    assert as_backup("cat", site.key, code=1).stderr
    assert as_backup("sudo", "-n", "/bin/true", code=1).stderr


def test_senddiscover_expands_a_pattern_to_volumes(site: Site) -> None:
    request = site.root / "request"
    request.write_text(
        "OPTIONS features=ffffffff9efefbffffffffffffff0f;auth=local;\n<dle>\n<program>APPLICATION</program>\n"
        "<backup-program>\n<plugin>amdalsegno</plugin>\n</backup-program>\n<disk>h*</disk>\n"
        "<diskdevice>h*</diskdevice>\n</dle>\n"
    )
    with open(request, "rb") as stdin:
        told = as_backup("/usr/lib/amanda/senddiscover", "amandad", "local", stdin=stdin)
    found = json.loads(told.stdout.partition(b"\n")[2])
    assert [(each["diskname"], each["dle_name"]) for each in found] == [("h*", "home")], told.stdout


def test_pruned_base_full_holding_disk_and_killed_amandad_leave_nothing_recorded(site: Site) -> None:
    site.configure("localhost photos dalsegno-history\n")
    site.amdump()
    assert site.recorded("photos") == [0]

    # Amanda asks for level 1, but its base is forgotten: it is told so, and makes a full.
    with open_pool(site.user.home / "pool", key_path=site.key) as house:
        state = house.volumes.get("photos")
        house.volumes.update(state.id, lambda current: forget_dump(current, state.dumps[0].dump_id))
    change(site, 1)
    as_backup("amadmin", site.name, "force-level-1", "localhost", "photos")
    site.amdump(retried=True)
    assert [level for _, level in site.found("photos")] == [0, 0] and site.recorded("photos") == [0]

    # The volume has grown since, which Amanda's own history does not know, and the holding disk is small.
    source = site.root / "src" / "photos"
    (source / "big").write_bytes(os.urandom(40_000_000))
    change(site, 2)
    before = site.state("photos").dumps
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700,uid=34,gid=34", "tmpfs", site.root / "holding"], check=True
    )
    try:
        report = site.amdump()
    finally:
        subprocess.run(["umount", site.root / "holding"], check=True)
    assert "Not enough holding disk space" in report and "was successfully retried" in report
    # The half of a dump is not recorded; what Amanda then wrote to tape directly is, and is the one it gives back.
    after = site.state("photos").dumps
    assert len(after) == len(before) + 1 and site.state("photos").lease is None
    site.fetch("photos", site.found("photos")[-1][0], site.user.home / "big.dump")
    assert site.user.value("inspect", "big.dump")["dump"] == after[-1].dump_id.hex()
    before = after

    # Amanda's client is killed in the middle; Amanda begins once more, and only that dump counts.

    change(site, 3)
    night = site.start_amdump()
    try:
        deadline = time.monotonic() + 60
        mine: list[int] = []
        while not mine and time.monotonic() < deadline:
            mine = [
                n
                for n, words in descendants(night.pid).items()
                if "dalsegno.cli.amdalsegno" in words and " backup " in words
            ]
            time.sleep(0.01)
        assert mine, (night.poll(), site.night_log(), site.logs())
        for number in mine:
            os.kill(number, signal.SIGSTOP)
        others = descendants(night.pid)
        for number, words in others.items():
            if "sendbackup" in words or "amandad" in words:
                os.kill(number, signal.SIGKILL)
        for number in [*mine, *(n for n, words in others.items() if "sudo" in words)]:  # sudo stops with its child
            os.kill(number, signal.SIGCONT)
        night.wait(300)
    finally:
        night.kill()
    after = site.state("photos").dumps
    assert night.returncode == code_after_retry(site.night_log()), site.night_log()
    assert len(after) == len(before) + 1 and site.state("photos").lease is None
    site.fetch("photos", site.found("photos")[-1][0], site.user.home / "again.dump")
    assert site.user.value("inspect", "again.dump")["dump"] == after[-1].dump_id.hex()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{number}") for number in mine):
        assert time.monotonic() < deadline, "the application outlives Amanda's client"
        time.sleep(0.1)
