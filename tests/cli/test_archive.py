"""Archive, catalog, media and restore by date at the command line: a small site with a disk set, shares and a command."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from admin_kit import Admin, date, days, forget_clones, set_up, tree

from dalsegno.world.files import FileLock


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict]]:
    home = tmp_path_factory.mktemp("site")
    admin = set_up(home)
    seen = days(admin, [0, 1, 2, 1])
    forget_clones(admin)
    return home, seen


@pytest.fixture
def site(finished: tuple[Path, dict], tmp_path: Path) -> tuple[Admin, dict[int, dict]]:
    """A site of its own, at the place where it was made: the finished one is put back afterwards."""
    home, seen = finished
    backup = tmp_path / "as-it-was"
    subprocess.run(["cp", "-a", str(home), str(backup)], check=True)
    yield Admin(home, day=4), seen
    shutil.rmtree(home)
    subprocess.run(["cp", "-a", str(backup), str(home)], check=True)


def test_history_shows_levels_sizes_and_where_every_copy_is(site) -> None:
    admin, _ = site
    rows = admin.value("history", "home")
    assert [row["level"] for row in rows] == [0, 1, 2, 1]
    assert {copy["target"] for copy in rows[0]["copies"]} == {"disks", "grid", "far"}
    text = admin.text("history")
    assert "disks: week-1" in text and "grid: 3 of 3 shares (2 needed)" in text and "far" in text
    assert "no dump of volume 'mail'" in admin.error("history", "mail", code=6)


def test_a_date_comes_back_byte_for_byte_and_says_its_media_first(site) -> None:
    admin, seen = site
    for day in (1, 2, 3, 4):
        done = admin.run("restore", f"home@{date(day)}", "--to", f"back{day}")
        assert tree(admin.home / f"back{day}") == seen[day], day
        told = done.stderr.decode()
        assert "media needed: week-1 (here)" in told and "level 0" in told
    assert "level 2" in admin.run("restore", f"home@{date(3)}", "--to", "b3", "--dry-run").stdout.decode()
    value = admin.value("restore", f"home@{date(3)}", "--to", "b3")
    assert [dump["level"] for dump in value["dumps"]] == [0, 1, 2] and value["media"] == ["week-1"]
    assert not list((admin.home / "state" / "spool" / "fetched").glob("*"))
    assert "no usable dump at or before" in admin.error("restore", f"home@{date(0)}", "--to", "x", code=6)
    assert "in pool or catalog" in admin.error("restore", "home@nonsense", "--to", "x", code=6)


def test_one_path_fetches_nothing_from_a_disk_that_is_here(site) -> None:
    admin, seen = site
    admin.run("restore", f"home@{date(2)}", "--to", "back", "--path", "sub/day2.txt")
    assert list(tree(admin.home / "back")) == ["sub", "sub/day2.txt"]
    assert tree(admin.home / "back")["sub/day2.txt"] == seen[2]["sub/day2.txt"]
    admin.run("restore", f"home@{date(2)}:/today.txt", "--to", "back2")
    assert (admin.home / "back2" / "today.txt").read_text() == "day 2\n" * 50
    shutil.rmtree(admin.home / "disk1")
    done = admin.run("restore", f"home@{date(3)}:/today.txt", "--to", "back3")  # from the shares
    assert b"grid-1 (here), grid-2 (here)" in done.stderr
    assert (admin.home / "back3" / "today.txt").read_text() == "day 3\n" * 50
    assert not (admin.home / "state" / "spool" / "fetched").exists()


def test_one_path_from_a_damaged_disk_comes_from_another_copy(site) -> None:
    admin, seen = site
    for path in (admin.home / "disk1" / "dumps").glob("*.dump"):
        data = bytearray(path.read_bytes())
        data[200:-300] = bytes(len(data) - 500)
        path.write_bytes(data)
    done = admin.run("restore", f"home@{date(2)}:/big.bin", "--to", "back")
    assert b"fetching the dumps" in done.stderr
    assert (admin.home / "back" / "big.bin").read_bytes() == seen[2]["big.bin"][2]


def test_the_pools_own_clone_is_read_when_no_dump_is_newer(site) -> None:
    admin, _ = site
    admin.day = 6
    (admin.home / "home" / "today.txt").write_text("day 6\n")
    admin.run("--pool", "pool", "backup", "home")
    done = admin.run("restore", f"home@{date(7)}", "--to", "back")
    assert b"is not in the pool" not in done.stderr and (admin.home / "back" / "today.txt").read_text() == "day 6\n"
    done = admin.run("restore", f"home@{date(3)}", "--to", "back3")
    assert b"is not in the pool" in done.stderr and (admin.home / "back3" / "today.txt").read_text() == "day 3\n" * 50


def test_a_lost_disk_and_two_ways_on(site) -> None:
    admin, seen = site
    shutil.rmtree(admin.home / "disk1")
    (admin.home / "disk1").mkdir()
    done = admin.run("restore", f"home@{date(3)}", "--to", "back")  # shares take its place
    assert tree(admin.home / "back") == seen[3] and b"grid-1 (here), grid-2 (here)" in done.stderr
    shutil.rmtree(admin.home / "g1")
    done = admin.run("restore", f"home@{date(3)}", "--to", "back2")
    assert tree(admin.home / "back2") == seen[3] and b"grid-2 (here), grid-3 (here)" in done.stderr
    shutil.rmtree(admin.home / "g2")
    admin.run("restore", f"home@{date(3)}", "--to", "back3")  # the program
    assert tree(admin.home / "back3") == seen[3]
    shutil.rmtree(admin.home / "far")
    error = admin.error("restore", f"home@{date(3)}", "--to", "back4", code=9)
    assert "far" in error or "not here" in error
    assert "away" in admin.text("media", "list")
    assert {each["label"]: each["files"] for each in admin.value("media", "list")}["week-1"] == 4
    admin.run("media", "lost", "week-1")
    assert "lost" in admin.text("media", "list")


def test_medium_that_was_said_to_be_lost_is_not_written_to_until_it_is_found(site) -> None:
    """Kind: what a person said of a thing is forgotten as soon as the thing shows up again."""
    admin, _ = site
    assert "`dal media found week-1` takes it back" in admin.text("media", "lost", "week-1")
    before = tree(admin.home / "disk1")
    told = admin.run("archive", "--target", "disks", code=(3, 4))
    assert b"`dal media found week-1`" in told.stdout + told.stderr and tree(admin.home / "disk1") == before
    assert "lost" in admin.text("media", "list") and "disks: week-1 (missing)" in admin.text("history")
    assert ": disks: week-1 (missing)\n" in admin.text("archive", "--dry-run")
    assert "no medium 'week-9'" in admin.error("media", "found", "week-9", code=6)
    admin.run("media", "found", "week-1")
    assert "nobody said that it is lost" in admin.error("media", "found", "week-1", code=4)
    assert admin.text("catalog", "check") == "catalog and media agree\n"
    assert admin.text("archive", "--dry-run") == "every dump is where it should be\n"


def test_what_was_lost_is_archived_again_from_what_is_left(site) -> None:
    admin, seen = site
    assert admin.text("archive", "--dry-run") == "every dump is where it should be\n"
    for name in ("disk1", "g2"):
        shutil.rmtree(admin.home / name)
        (admin.home / name).mkdir()
    admin.run("media", "lost", "week-1")
    admin.run("media", "label", "disk2", "week-2", "--target", "disks")
    admin.run("media", "label", "g2", "grid-new", "--target", "grid")
    assert len(admin.value("archive", "--dry-run")) == 8
    done = admin.value("archive", "repair", "grid")
    assert [len(each["copies"]) for each in done] == [1] * 4
    assert all(each["copies"][0]["medium"] == "grid-new" for each in done)
    assert len(admin.value("archive")) == 4
    assert admin.text("archive") == "every dump is where it should be\n"
    admin.run("media", "lost", "grid-new")
    shutil.rmtree(admin.home / "g2")
    (admin.home / "g2").mkdir()
    admin.run("media", "label", "g2", "grid-newer", "--target", "grid")
    assert admin.text("archive", "repair").count("grid: 1 of 3 shares made again") == 4
    for name in ("far", "g1"):
        shutil.rmtree(admin.home / name)
    admin.run("restore", f"home@{date(2)}", "--to", "back")
    assert tree(admin.home / "back") == seen[2]
    shutil.rmtree(admin.home / "disk2")
    admin.run("restore", f"home@{date(2)}", "--to", "back2")  # the share that was made again is good
    assert tree(admin.home / "back2") == seen[2]


def test_a_damaged_copy_is_left_for_another_and_remembered(site) -> None:
    admin, seen = site
    for path in (admin.home / "disk1" / "dumps").glob("*.dump"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    done = admin.run("-v", "restore", f"home@{date(3)}", "--to", "back")
    assert tree(admin.home / "back") == seen[3] and b"not what was written" in done.stderr
    assert "week-1 (bad)" in admin.text("history")
    assert "is damaged" in admin.text("catalog", "check", "--read", code=5)


def test_check_tells_where_the_catalog_is_wrong_and_believes_the_files(site) -> None:
    admin, _ = site
    assert admin.text("catalog", "check", "--read") == "catalog and media agree\n"
    dumps = sorted((admin.home / "disk1" / "dumps").glob("*.dump"))
    dumps[0].rename(admin.home / "hidden")
    shutil.copy(dumps[1], admin.home / "disk1" / "dumps" / "stray.dump")
    found = {each["place"]: each["text"] for each in admin.value("catalog", "check", code=5)}
    assert "is not there any more" in found[f"dumps/{dumps[0].name}"]
    assert "rebuild --add" in found["dumps/stray.dump"]
    # A run's dump is on its medium a moment before it is in the catalog.
    with FileLock(admin.home / "state" / "coordinator.lock") as at_work:
        assert at_work.acquire(wait=False)
        done = admin.run("catalog", "check")
        assert b"a run is at work" in done.stderr and b"stray.dump" not in done.stdout
    (admin.home / "hidden").rename(dumps[0])
    (admin.home / "disk1" / "dumps" / "stray.dump").unlink()
    admin.run("catalog", "check")
    assert admin.text("archive", "--dry-run") == "every dump is where it should be\n"


def test_a_second_disk_with_a_known_label_is_told(site) -> None:
    admin, _ = site
    label = (admin.home / "disk1" / "DALSEGNO-LABEL").read_text()
    shutil.rmtree(admin.home / "disk1")
    (admin.home / "disk1").mkdir()
    admin.run("media", "lost", "week-1")
    assert b"is no mount point" in admin.run("media", "label", "disk1", "week-1", "--target", "disks").stderr
    assert admin.value("media", "list")[0]["problem"] is None
    (admin.home / "disk1" / "DALSEGNO-LABEL").write_text(label)
    assert "another medium" in admin.value("media", "list")[0]["problem"]
    assert "another medium than the one" in admin.text("catalog", "check", code=5)


def test_the_catalog_is_made_again_from_media_alone(site) -> None:
    admin, seen = site
    before = admin.value("history")
    for path in (admin.home / "state").glob("catalog.sqlite*"):
        path.unlink()
    assert "no catalog" in admin.error("history", code=6)
    assert "the catalog knows 4 dumps in 20 files" in admin.text("catalog", "rebuild")
    after = admin.value("history")

    def known(rows: list) -> list:
        return [
            {
                **{key: value for key, value in row.items() if key != "verdict"},
                "copies": [
                    {key: value for key, value in copy.items() if key not in ("verdict", "checked")}
                    for copy in row["copies"]
                ],
            }
            for row in rows
        ]

    assert known(after) == known(before)
    admin.run("restore", f"home@{date(3)}", "--to", "back")
    assert tree(admin.home / "back") == seen[3]


def test_a_torn_catalog_is_told_with_its_remedy(site) -> None:
    admin, _ = site
    for path in (admin.home / "state").glob("catalog.sqlite*"):
        path.unlink()
    (admin.home / "state" / "catalog.sqlite").write_bytes(b"torn" * 5000)
    assert "rebuild" in admin.error("history", code=5)


def test_dumps_are_retrieved_for_programs_that_want_the_files(site) -> None:
    admin, seen = site
    chain = admin.text("retrieve", f"home@{date(3)}", "-o", "out").strip()
    assert len(chain.split("+")) == 3
    admin.run("--pool", "pool", "restore", chain, "--to", "back")
    assert tree(admin.home / "back") == seen[3]
    first = admin.value("history")[0]["dump"]
    admin.run("retrieve", first[:12], "-o", "one")
    assert [path.stat().st_size for path in (admin.home / "one").iterdir()] == [admin.value("history")[0]["bytes"]]


def test_a_new_medium_is_labelled_once_and_for_a_known_target(site) -> None:
    admin, _ = site
    assert "no target 'nothing'" in admin.error("media", "label", "disk2", "x", "--target", "nothing", code=6)
    assert "looks for media at" in admin.error("media", "label", "home", "x", "--target", "disks", code=2)
    assert "has it: choose another" in admin.error("media", "label", "disk2", "week-1", "--target", "disks", code=2)
    assert "is labelled 'week-1'" in admin.error("media", "label", "disk1", "week-9", "--target", "disks", code=4)


def test_another_disk_in_the_drive_is_refused_naming_both(site) -> None:
    admin, _ = site
    policy = (admin.home / "site.toml").read_text()
    start, end = policy.index("[targets.grid]"), policy.index("[sets.homes]")
    (admin.home / "site.toml").write_text((policy[:start] + policy[end:]).replace('"disks", "grid", "far"', '"disks"'))
    (admin.home / "disk1").rename(admin.home / "shelf")
    for name in ("disk1", "disk2"):
        (admin.home / name).mkdir(exist_ok=True)
        admin.run("media", "label", name, f"other-{name}", "--target", "disks")
    error = admin.error("restore", f"home@{date(3)}", "--to", "back", code=4)
    assert "'other-disk1'" in error and "'week-1'" in error and "week-1 (insert it)" in error


def test_the_whole_site_comes_back_from_media_and_key_alone(site, tmp_path: Path) -> None:
    admin, seen = site
    new = Admin(tmp_path / "new machine", day=-300)  # whose clock is wrong: the newest is the newest all the same
    new.home.mkdir()
    media = [word for name in ("disk1", "g1", "g3") for word in ("--media", str(admin.home / name))]
    empty = {"DAL_POLICY": ""}
    assert (
        b"give the key"
        in new.run("--pool", "pool", "restore", "--site", "--state", "state", *media, code=2, **empty).stderr
    )
    done = new.run(
        "--pool", "pool", "--key", admin.home / "site.key", "restore", "--site", "--state", "state", *media, **empty
    )
    assert b"1 volume came back" in done.stdout and b"4 dumps" in done.stdout
    keyed = ("--pool", "pool", "--key", admin.home / "site.key")
    new.run(*keyed, "restore", "home", "--to", "back", **empty)
    assert tree(new.home / "back") == seen[4]
    again = new.run(*keyed, "restore", "--site", "--state", "state", *media, **empty)
    assert b"was there already" in again.stdout
    (new.home / "site.toml").write_text(
        (admin.home / "site.toml").read_text().replace(f'state = "{admin.home}', f'state = "{new.home}')
    )
    new.run("catalog", "rebuild", *keyed)
    new.run(*keyed, "retrieve", "home@9999-12-31", "-o", "got", "--dry-run")
    new.run(*keyed, "restore", f"home@{date(2)}", "--to", "back2")
    assert tree(new.home / "back2") == seen[2]


def test_a_wrong_key_restores_nothing(site, tmp_path: Path) -> None:
    admin, _ = site
    new = Admin(tmp_path / "new machine", day=9)
    new.home.mkdir()
    new.run("--pool", "other", "init", "--key", "other.key", DAL_POLICY="")
    words = ("--pool", "pool", "--key", "other.key", "restore", "--site", "--state", "state")
    words += ("--media", admin.home / "disk1")
    done = new.run(*words, code=3, DAL_POLICY="")
    assert b"0 volumes came back" in done.stdout and b"belongs to realm" in done.stdout


def test_a_drill_restores_from_media_compares_and_is_written_down(site) -> None:
    admin, seen = site
    admin.day = 5
    (sample,) = admin.value("drill", "home", "--files", "3")
    assert (sample["verdict"], sample["kind"], sample["files"], sample["media"]) == ("good", "sample", 3, ["week-1"])
    (whole,) = admin.value("drill", "--whole")
    files = [value for value in seen[4].values() if value[2]]
    assert (whole["verdict"], whole["files"]) == ("good", len(files) - 1)  # without the symlink
    assert admin.value("drill", f"home@{date(2)}")[0]["verdict"] == "good"
    assert not list((admin.home / "state" / "spool" / "drill").iterdir())
    assert "all as it was backed up" in admin.text("drill")
    (volume,) = admin.value("status")["sets"][0]["volumes"]
    assert volume["last_drill_good"] is True
    assert "no dump of volume 'mail'" in admin.error("drill", "mail", code=6)


def test_a_drill_finds_a_failing_disk(site) -> None:
    admin, _ = site
    for path in (admin.home / "disk1" / "dumps").glob("*.dump"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data)
    (found,) = admin.value("drill", "home", "--whole", code=5)
    assert found["verdict"] == "bad" and "not what was written" in found["findings"][0]
    value = admin.value("status")
    assert value["state"] == "critical" and value["sets"][0]["volumes"][0]["last_drill_good"] is False
    assert "its last drill failed" in admin.text("status")


def test_a_drill_without_its_media_is_not_a_failed_drill(site) -> None:
    admin, _ = site
    for name in ("disk1", "far", "g1", "g2", "g3"):
        shutil.rmtree(admin.home / name)
        (admin.home / name).mkdir()
    assert "far" in admin.error("drill", "home", code=9)
    assert admin.value("status")["sets"][0]["volumes"][0]["last_drill"] is None


def test_status_for_people_programs_monitors_and_prometheus(site) -> None:
    admin, _ = site
    text = admin.text("status")
    assert "homes: 1 of 1 volume is well" in text and "3 of 3" in text and "never" in text
    volume = admin.value("status")["sets"][0]["volumes"][0]
    assert (volume["state"], volume["level"], volume["targets"]) == ("ok", 1, 3)
    assert volume["last_good_backup"] == date(4)
    assert admin.text("status", "--check") == "DALSEGNO OK - 1 volume backed up | ok=1 warning=0 critical=0 shrunk=0\n"
    admin.run("status", "--prometheus", "dal.prom")
    assert 'dalsegno_state{set="homes",volume="home"} 0' in (admin.home / "dal.prom").read_text()
    admin.day = 20
    assert admin.text("status", "--check", code=2).startswith("DALSEGNO CRITICAL - home: no good backup for 16 days")
    assert "no set 'mails'" in admin.error("status", "--set", "mails", code=2)
    (admin.home / "site.toml").write_text("torn = [")
    assert admin.text("status", "--check", code=3).startswith("DALSEGNO UNKNOWN - ")


def test_find_and_versions_show_pool_and_dumps_in_one_list(site) -> None:
    admin, _ = site
    admin.day = 5
    (admin.home / "home" / "today.txt").write_text("day 5, longer\n")
    (admin.home / "home" / "sub" / "day1.txt").unlink()
    admin.run("--pool", "pool", "backup", "home")
    found = {each["path"]: each for each in admin.value("find", "day*.txt")}
    assert set(found) == {f"sub/day{day}.txt" for day in (1, 2, 3, 4)}
    assert found["sub/day1.txt"]["first"] < found["sub/day1.txt"]["last"] < found["sub/day4.txt"]["last"]
    sizes = [each["size"] for each in admin.value("versions", "home:/today.txt")]
    assert sizes == [300, 300, 300, 300, 14]
    clones = [each["first"] for each in admin.value("versions", "home:/today.txt")]
    admin.run("restore", f"home@{clones[1]}", "--to", "back", "--path", "today.txt")
    assert (admin.home / "back" / "today.txt").read_text() == "day 2\n" * 50
    assert len(admin.value("versions", "home:/today.txt", "--no-dumps")) == 1
    assert "no volume 'mail'" in admin.error("find", "x", "mail", code=6)
    shutil.rmtree(admin.home / "disk1")
    assert [each["size"] for each in admin.value("versions", "home:/today.txt")] == sizes  # from the shares
    for name in ("g1", "g2"):
        shutil.rmtree(admin.home / name)
    done = admin.run("versions", "home:/today.txt")
    assert b"4 states are in dumps that cannot be read in place" in done.stderr and b"week-1" in done.stderr
    assert done.stdout.count(b"\n") <= 2


def test_volumes_that_only_dumps_have_are_found_too(site) -> None:
    admin, _ = site
    admin.run("--pool", "pool", "volume", "remove", "home", "--yes")
    assert [each["path"] for each in admin.value("find", "day2.txt", "home")] == ["sub/day2.txt"]


def spoil_label(place: Path, how: str) -> None:
    label = place / "DALSEGNO-LABEL"
    if how == "torn":
        os.truncate(label, 30)
        return
    label.rename(place / "elsewhere")
    os.mkfifo(label) if how == "fifo" else label.symlink_to("elsewhere")


@pytest.mark.parametrize("how", ["torn", "fifo", "symlink"])
def test_a_bad_label_is_named_and_the_other_media_are_gone_on_with(site, how: str) -> None:
    """The kind: the first medium that is in disorder ends what is asked of all of them, or nobody says so."""
    admin, seen = site
    spoil_label(admin.home / "g2", how)
    bad = str(admin.home / "g2" / "DALSEGNO-LABEL")
    (disagreement,) = admin.value("catalog", "check", code=5)
    assert bad in disagreement["text"] and bad in admin.text("catalog", "check", code=5)
    value = admin.value("catalog", "rebuild", code=5)
    assert value["dump_count"] == 4 and set(value["media"]) == {"week-1", "grid-1", "grid-3", "far"}
    assert bad in value["bad_labels"][0] and not value["unreadable"]
    for words in (("media", "list"), ("archive", "-n"), ("status", "--prometheus", "metrics.prom")):
        assert bad in admin.run(*words, code=5).stderr.decode(), words
    assert f"DAMAGED: {bad}" in admin.text("status", code=5)
    assert bad in admin.text("status", "--check", code=(1, 2))
    assert bad in admin.value("doctor", code=5)["findings"][0]
    admin.run("restore", f"home@{date(4)}", "--to", "back")
    assert tree(admin.home / "back") == seen[4]
    shutil.rmtree(admin.home / "disk1")  # two of three shares are enough
    admin.run("restore", f"home@{date(3)}", "--to", "back3")
    assert tree(admin.home / "back3") == seen[3]
