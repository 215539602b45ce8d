"""`dal backup --set`: what a night does, what it does when things go wrong, and what Coda's coordinator got wrong."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cycle_kit import Site, change, make_site, night

from cli_kit import KILLED, tree
from dalsegno.archive.catalog import Catalog
from dalsegno.backup.records import JOB_OPEN
from dalsegno.world.files import FileLock

# Every third step is quick enough for every day; 1 takes them all.
KILL_STRIDE = int(os.environ.get("DAL_TEST_KILL_STRIDE", "3"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def test_week_of_nights_is_dumped_at_the_programs_levels_and_restored(site: Site) -> None:
    for day in range(8):
        change(site, f"night {day}")
        report = site.back_up(day)
        assert report["counts"] == {"done": 2, "incomplete": 0, "failed": 0} and report["at_risk"] == {}
    found = site.require_whole()
    assert [entry.level for entry in found["ann"]] == [0, 1, 2, 3, 2, 3, 4, 0]
    assert site.spool() == [], "what is safe on the disk leaves the spool"
    site.quick("restore", "ann@2026-11-21", "--to", "back", DAL_NOW=night(8))
    assert (site.home / "back" / "plan.txt").read_text() == "ann: night 5\n"
    site.quick("catalog", "check", "--read", DAL_NOW=night(8))


def test_missed_nights_are_caught_up_once(site: Site) -> None:
    site.back_up(0)
    change(site, "after a break")
    assert {each["level"] for each in site.back_up(4)["volumes"]} == {1}
    assert {each["level"] for each in site.back_up(5)["volumes"]} == {3}
    change(site, "after a longer break")
    assert {each["level"] for each in site.back_up(9)["volumes"]} == {0}


def test_due_leaves_out_what_has_a_good_dump_of_today(site: Site) -> None:
    shutil.move(site.home / "homes" / "bob", site.home / "bob")
    site.back_up(0)
    shutil.move(site.home / "bob", site.home / "homes" / "bob")
    report = site.back_up(0, "--set", "all", "--due")
    assert [each["volume"] for each in report["volumes"]] == ["bob"] and report["idle"] == ["ann"]


def test_day_without_a_dump_has_nothing_due(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text.replace(", tuesday = 1", ""))
    site.back_up(0)
    report = site.back_up(1)
    assert report["volumes"] == [] and sorted(report["idle"]) == ["ann", "bob"]


def test_nightly_increment_builds_on_no_dump_made_by_hand(site: Site) -> None:
    site.back_up(0)
    site.quick("dump", "ann", "--level", "0", "-o", "mine.dump", DAL_NOW=night(0, "12:00"))
    (site.home / "mine.dump").unlink()  # nobody but its maker knows of it
    change(site, "night 1")
    site.back_up(1)
    full, increment = [entry for entry in site.dumps() if entry.volume_name == "ann"]
    assert increment.level == 1 and increment.base_dump == full.dump_id
    site.quick("restore", "ann@2026-11-17", "--to", "back", DAL_NOW=night(2))


# What Coda's coordinator got wrong (old coda-src/volutil/backup.cc)


def test_exit_code_is_not_0_when_every_volume_failed(site: Site) -> None:
    site.back_up(0)
    shutil.rmtree(site.home / "homes" / "ann")
    (site.home / "homes" / "ann").write_text("not a directory")
    shutil.rmtree(site.home / "homes" / "bob")
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(
        text.replace('sources = ["' + str(site.home) + '/homes/*"]', 'volumes = ["*"]')
    )
    report = site.back_up(1, code=1)
    assert report["counts"]["failed"] == 2 and all("no such directory" in each["error"] for each in report["volumes"])


def test_one_failed_volume_costs_the_others_nothing_and_exits_3(site: Site) -> None:
    site.back_up(0)
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(
        text.replace('sources = ["' + str(site.home) + '/homes/*"]', 'volumes = ["*"]')
    )
    shutil.rmtree(site.home / "homes" / "ann")
    report = site.back_up(3, code=3)
    assert {each["volume"]: each["state"] for each in report["volumes"]} == {"ann": "failed", "bob": "done"}
    assert report["at_risk"] == {"ann": ["no good backup for 3 days"]}
    lines = site.quick("backup", "--set", "all", code=3, DAL_NOW=night(9)).out.decode()
    assert "volume ann: no good backup for 9 days, no good full for 9 days" in lines


def test_one_bad_line_in_the_policy_drops_no_volume_silently(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + '[sets.rest]\nvolume = ["x"]\n')
    error = site.quick("backup", "--set", "all", code=2).error
    assert "site.toml:14: " in error and "did you mean 'volumes'" in error
    assert not (site.home / "state" / "catalog.sqlite").exists(), "nothing was begun"


def test_volume_named_in_the_policy_and_not_there_is_a_failure(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + '[sets.rest]\nvolumes = ["mail", "x*"]\n')
    report = site.back_up(0, code=3)
    assert [each["volume"] for each in report["volumes"] if each["state"] == "failed"] == ["mail"]


def test_second_run_on_the_same_day_backs_up_again(site: Site) -> None:
    site.back_up(0)
    change(site, "later that day")
    report = site.back_up(0)
    assert {(each["level"], each["reason"]) for each in report["volumes"]} == {(1, "again today")}
    assert [entry.level for entry in site.require_whole()["ann"]] == [0, 1]
    site.back_up(1)
    assert site.require_whole()["ann"][-1].level == 1


def test_next_run_never_writes_over_what_was_committed(site: Site) -> None:
    site.back_up(0)
    before = tree(site.home / "disk1" / "dumps")
    change(site, "changed")
    (site.home / "homes" / "ann" / "plan.txt").unlink()
    (site.home / "homes" / "ann").rmdir()
    (site.home / "homes" / "ann").symlink_to("/nowhere")
    site.back_up(0, code=(0, 3))
    after = tree(site.home / "disk1" / "dumps")
    assert {name: after[name] for name in before} == before


def test_spool_is_emptied_only_after_the_copy_was_compared(site: Site) -> None:
    """A disk that takes writes and gives back something else: the dump stays in the spool, and is named."""
    swindle = (
        "from dalsegno.archive.parts import PartialFile as File\n"
        "commit = File.commit\n"
        "def commit_otherwise(file):\n"
        "    commit(file)\n"
        "    if 'disk1' in file.path.parts:\n"
        "        data = bytearray(file.path.read_bytes()); data[len(data) // 2] ^= 1; file.path.write_bytes(data)\n"
        "File.commit = commit_otherwise\n"
    )
    done = site.quick("--json", "backup", "--set", "all", code=3, before=swindle, DAL_NOW=night(0))
    report = json.loads(done.out)
    assert {each["state"] for each in report["volumes"]} == {"incomplete"}
    assert len([name for name in site.spool() if name.endswith(".dump")]) == 2
    assert set(report["at_risk"]) == {"ann", "bob"} and "the spool alone" in str(report["at_risk"])
    report = site.back_up(1)
    assert report["at_risk"] == {} and site.spool() == []
    assert len(site.require_whole()["ann"]) == 2


# Bad nights


def test_disk_that_is_away_leaves_the_dumps_in_the_spool_until_it_is_back(site: Site) -> None:
    away = site.home / "disk1"
    away.rename(site.home / "safe")
    for day in (0, 1, 2):
        change(site, f"night {day}")
        report = site.back_up(day, code=3)
        assert report["counts"] == {"done": 0, "incomplete": 2, "failed": 0}
    assert [entry.level for entry in site.dumps() if entry.volume_name == "ann"] == [0, 1, 2]
    assert len(site.spool()) == 6
    (site.home / "safe").rename(away)
    report = site.back_up(3)
    assert report["counts"]["done"] == 2 and report["at_risk"] == {} and site.spool() == []
    assert all(len(entries) == 4 for entries in site.require_whole().values())


def test_what_waits_for_a_target_is_brought_by_a_run_of_what_is_due_although_nothing_is(site: Site) -> None:
    """The kind: what is put off is only looked at when something else is due."""
    away = site.home / "disk1"
    away.rename(site.home / "safe")
    site.back_up(0, code=3)
    waiting = site.back_up(0, "--set", "all", "--due", code=3)
    assert sorted(waiting["idle"]) == ["ann", "bob"] and len(site.spool()) == 2
    (site.home / "safe").rename(away)
    report = site.back_up(0, "--set", "all", "--due")
    assert report["at_risk"] == {} and len(list(away.rglob("*.dump"))) == 2
    site.require_whole()


def test_enough_copies_are_enough_although_one_target_is_away(site: Site) -> None:
    text = (
        (site.home / "site.toml").read_text().replace('targets = ["disks"]', 'targets = ["disks", "off"]\ncopies = 1')
    )
    more = f'[targets.off]\nkind = "directory"\npaths = ["{site.home}/off"]\n'
    (site.home / "site.toml").write_text(text + more)
    report = site.back_up(0)
    assert report["counts"]["done"] == 2 and "target off" in str(report["volumes"][0]["notes"])


def test_dump_lost_from_the_spool_before_it_was_archived_is_no_base(site: Site) -> None:
    (site.home / "disk1").rename(site.home / "safe")
    site.back_up(0, code=3)
    for path in (site.home / "state" / "spool").glob("ann.*"):
        path.unlink()
    (site.home / "safe").rename(site.home / "disk1")
    report = site.back_up(1, code=3)
    ann, bob = sorted(report["volumes"], key=lambda each: each["volume"])
    assert ann["level"] == 0 and "no base any more" in ann["reason"] and bob["level"] == 1
    site.quick("restore", "ann@2026-11-17", "--to", "back", DAL_NOW=night(2))
    assert tree(site.home / "back") == tree(site.home / "homes" / "ann")


def test_spool_too_small_is_said_before_the_dump_begins_and_others_go_on(site: Site) -> None:
    (site.home / "homes" / "ann" / "big.bin").write_bytes(os.urandom(3_000_000))
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + '[spool]\nmax = "1M"\n')
    report = site.back_up(0, code=3)
    ann, bob = sorted(report["volumes"], key=lambda each: each["volume"])
    assert ann["error_code"] == "full" and "level 0 of ann needs 2.9 MiB, there is room for 1.0 MiB" in ann["error"]
    assert bob["state"] == "done"
    assert [path.name for path in (site.home / "state" / "spool").rglob("ann*")] == []


def test_failing_before_hook_stops_its_volume_alone_and_the_others_run(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    hooks = f"""
[sets.homes.hooks]
before = ['echo before $DAL_VOLUME >> {site.home}/log', 'test $DAL_VOLUME != ann']
cloned = 'echo cloned $DAL_VOLUME $DAL_CLONE >> {site.home}/log'
after = 'echo after $DAL_VOLUME level $DAL_LEVEL >> {site.home}/log'
failed = 'echo failed $DAL_VOLUME: $DAL_ERROR >> {site.home}/log'
finally = ['echo finally $DAL_VOLUME >> {site.home}/log', 'exit 7']
"""
    (site.home / "site.toml").write_text(text + hooks)
    report = site.back_up(0, code=3)
    ann, bob = sorted(report["volumes"], key=lambda each: each["volume"])
    assert ann["state"] == "failed" and "hook before `test $DAL_VOLUME != ann`: exit code 1" in ann["error"]
    assert (
        ann["level"] == 0 and bob["error"] == "" and "hook finally" in bob["problems"][0] and "7" in bob["problems"][0]
    )
    lines = (site.home / "log").read_text().splitlines()
    assert lines[:3] == ["before ann", f"failed ann: {ann['error']}", "finally ann"]
    assert lines[3:] == ["before bob", f"cloned bob {bob['clone_name']}", "after bob level 0", "finally bob"]
    assert [entry.volume_name for entry in site.dumps()] == ["bob"]


def test_unreadable_file_is_named_and_exits_3(site: Site) -> None:
    if os.getuid() == 0:
        pytest.skip("root reads everything")
    (site.home / "homes" / "ann" / "plan.txt").chmod(0)
    report = site.back_up(0, code=3)
    assert "plan.txt" in report["volumes"][0]["unreadable"][0]


def test_second_coordinator_exits_7_or_waits(site: Site) -> None:
    site.back_up(0)
    lock = FileLock(site.home / "state" / "coordinator.lock")
    assert lock.acquire(wait=False)
    try:
        assert "--wait" in site.quick("backup", "--set", "all", code=7).error
        assert "--wait" in site.quick("prune", code=7).error
        waiting = subprocess.Popen(
            [*site.command(), "backup", "--set", "all", "--wait"],
            cwd=site.home,
            env=site.environ({"DAL_NOW": night(1)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert waiting.stderr is not None
        first = waiting.stderr.readline()
        assert b"waiting for it" in first
        assert waiting.poll() is None and len(site.dumps()) == 2
    finally:
        lock.close()
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, (out, err)
    assert len(site.dumps()) == 4


def test_volume_of_two_sets_is_refused_when_the_globs_meet(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + '[sets.rest]\nvolumes = ["a*"]\n')
    site.quick("backup", str(site.home / "homes" / "ann"))
    error = site.quick("backup", "--set", "all", code=2).error
    assert "volume 'ann' belongs to set 'homes' and to 'rest'" in error


def test_several_volumes_at_once_are_all_backed_up(site: Site) -> None:
    for number in range(10):
        (site.home / "homes" / f"u{number}").mkdir()
        (site.home / "homes" / f"u{number}" / "data").write_bytes(os.urandom(50_000))
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + "[limits]\nvolumes_at_once = 4\n")
    for day in range(2):
        assert site.back_up(day)["counts"]["done"] == 12
    assert all(len(entries) == 2 for entries in site.require_whole().values())
    site.quick("catalog", "check", "--read", DAL_NOW=night(2))


def test_retention_is_applied_to_clones_and_archive_and_prune_finds_nothing_more(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    keep = "keep.clones = { last = 2 }\nkeep.archive = { last = 3 }\n"
    (site.home / "site.toml").write_text(text + keep)
    for day in range(10):
        change(site, f"night {day}")
        site.back_up(day)
    found = site.require_whole()
    # Monday's full, Tuesday's level 1 and Wednesday's level 2 are the last three.
    assert [entry.level for entry in found["ann"]] == [0, 1, 2]
    assert len(list((site.home / "disk1" / "dumps").glob("ann*.dump"))) == 3
    clones = json.loads(site.quick("--json", "clones", "ann").out)
    assert len(clones) == 2
    assert json.loads(site.quick("--json", "prune", "--dry-run", DAL_NOW=night(9)).out)["removed"] == []
    site.quick("hold", f"ann@{clones[0]['clone']}")
    for day in range(10, 13):
        site.back_up(day)
    assert clones[0]["clone"] in [each["clone"] for each in json.loads(site.quick("--json", "clones", "ann").out)]


def test_prune_shows_and_then_removes_the_same(site: Site) -> None:
    for day in range(9):
        site.back_up(day)
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + "keep.clones = { last = 1 }\nkeep.archive = { last = 1 }\n")
    shown = json.loads(site.quick("--json", "prune", "--dry-run", DAL_NOW=night(9)).out)
    assert site.require_whole() and len(site.dumps()) == 18
    (site.home / "disk1").rename(site.home / "safe")
    waiting = json.loads(site.quick("--json", "prune", DAL_NOW=night(9)).out)["waiting"]
    assert {each["what"] for each in waiting} == {"archive"} and len(site.dumps()) == 18
    (site.home / "safe").rename(site.home / "disk1")
    gone = json.loads(site.quick("--json", "prune", DAL_NOW=night(9)).out)["removed"]
    archived = [each["name"] for each in shown["removed"] if each["what"] == "archive"]
    assert archived and [each["name"] for each in gone] == archived
    assert [entry.level for entry in site.require_whole()["ann"]] == [0, 1]


def test_plan_says_what_the_nights_then_do(site: Site) -> None:
    site.back_up(0)
    plan = json.loads(site.quick("--json", "plan", "--days", "8", DAL_NOW=night(1)).out)
    levels = [{dump["level"] for dump in day["dumps"]} for day in plan["days"]]
    assert levels == [{1}, {2}, {3}, {2}, {3}, {4}, {0}, {1}]
    assert [day["day"] for day in plan["days"]][:2] == ["2026-11-17", "2026-11-18"]
    for day in range(1, 9):
        assert {each["level"] for each in site.back_up(day)["volumes"]} == levels[day - 1]
    text = site.quick("plan", "--days", "8", DAL_NOW=night(9)).out.decode()
    narrow = site.quick("plan", "--days", "8", DAL_NOW=night(9), COLUMNS="66").out.decode()
    rows = [line for line in narrow.splitlines() if line.endswith("#")]
    assert rows and max(map(len, rows)) <= 66 < max(len(line) for line in text.splitlines() if line.endswith("#"))
    assert "Wed 25 Nov" in text and "retention removes by then: nothing" in text


def test_plan_foresees_no_removal_of_what_coming_increments_rest_on(site: Site) -> None:
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + "keep.archive = { last = 1 }\n")
    site.back_up(0)
    for days, gone in ((3, 0), (8, 2)):
        plan = json.loads(site.quick("--json", "plan", "--days", str(days), DAL_NOW=night(1)).out)
        assert len([each for each in plan["removals"] if each["what"] == "archive"]) == gone


def test_webhook_and_mail_are_told_of_a_failure_and_not_of_success(site: Site) -> None:
    got: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        (site.home / "bin").mkdir()
        program = site.home / "bin" / "sendmail"
        program.write_text(f"#!/bin/sh\ncat > {site.home}/mail\n")
        program.chmod(0o755)
        text = (site.home / "site.toml").read_text()
        url = f"http://127.0.0.1:{server.server_port}/"
        (site.home / "site.toml").write_text(text + f'[notify]\nmail_to = "root"\nwebhook = "{url}"\n')
        path = f"{site.home}/bin:{os.environ['PATH']}"
        site.back_up(0, PATH=path)
        assert got == [] and not (site.home / "mail").exists()
        (site.home / "disk1" / "DALSEGNO-LABEL").unlink()
        site.back_up(1, code=3, PATH=path)
        assert "2 incomplete" in got[0]["subject"] and got[0]["report"]["counts"]["incomplete"] == 2
        mail = (site.home / "mail").read_text()
        assert "To: root" in mail and "Subject: dal on " in mail and "2 incomplete" in mail
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    report = site.back_up(2, code=3, PATH=path)
    assert "webhook http://127.0.0.1" in report["not_told"][0]


# Killed


def start_of_week(site: Site) -> None:
    """Leave one volume with a full and a change, and one that is new."""
    shutil.rmtree(site.home / "homes" / "bob")
    site.back_up(0)
    (site.home / "homes" / "ann" / "plan.txt").write_text("tuesday\n")
    (site.home / "homes" / "carl").mkdir()
    (site.home / "homes" / "carl" / "new").write_text("a volume of today\n")


KEPT = ("homes", "disk1", "state", "pool")


def put_aside(site: Site) -> None:
    for name in KEPT:
        shutil.copytree(site.home / name, site.home / "aside" / name, symlinks=True, copy_function=shutil.copy2)


def put_back(site: Site) -> None:
    shutil.rmtree(site.home / ".local" / "state" / "dalsegno" / "known")  # an older pool is refused else
    for name in KEPT:
        shutil.rmtree(site.home / name)
        shutil.copytree(site.home / "aside" / name, site.home / name, symlinks=True, copy_function=shutil.copy2)


def require_tuesday(site: Site, fault: str) -> None:
    found = site.require_whole()
    levels = {name: [entry.level for entry in entries] for name, entries in found.items()}
    assert levels == {"ann": [0, 1], "carl": [0]}, fault
    assert site.spool() == [], fault
    assert len(list((site.home / "disk1" / "dumps").glob("*.dump"))) == 3, fault


@pytest.mark.timeout(600)
def test_killed_between_any_two_steps_the_next_run_finishes_and_records_nothing_twice(site: Site) -> None:
    start_of_week(site)
    put_aside(site)
    step, killed = 1 - KILL_STRIDE, True
    while killed:
        step += KILL_STRIDE
        done = site.quick("backup", "--set", "all", code=(0, KILLED), DAL_NOW=night(1), DAL_FAULT=f"kill:{step}")
        killed = done.code == KILLED
        if killed:
            site.back_up(1)
        require_tuesday(site, f"kill:{step}")
        if step % 49 == 0:
            for name in ("ann", "carl"):
                site.quick("restore", f"{name}@2026-11-17", "--to", "back", "--delete", DAL_NOW=night(2))
                assert tree(site.home / "back") == tree(site.home / "homes" / name)
            site.quick("catalog", "check", "--read", DAL_NOW=night(2))
        put_back(site)
    assert step > 80, "a run has that many durable steps"


@pytest.mark.timeout(600)
def test_disk_that_fills_up_at_any_step_costs_nothing_once_there_is_room(site: Site) -> None:
    start_of_week(site)
    put_aside(site)
    step, failed = 0, True
    while failed:
        step += 6
        done = site.quick("backup", "--set", "all", code=(0, 1, 3, 10), DAL_NOW=night(1), DAL_FAULT=f"full:{step}")
        failed = done.code != 0
        assert not list((site.home / "state").rglob("*.partial")), step
        if failed:
            site.back_up(1, "--set", "all", "--due")
        require_tuesday(site, f"full:{step}")
        put_back(site)
    assert step > 80


def test_killed_run_of_yesterday_is_finished_and_today_is_backed_up_too(site: Site) -> None:
    site.back_up(0)
    change(site, "tuesday")
    with Catalog.open(f"sqlite:///{site.home}/state/catalog.sqlite") as catalog:
        started = len(catalog.runs())
    step = 40
    while True:
        site.quick("backup", "--set", "all", code=KILLED, DAL_NOW=night(1), DAL_FAULT=f"kill:{step}")
        with Catalog.open(f"sqlite:///{site.home}/state/catalog.sqlite") as catalog:
            open_jobs = [job for job in catalog.open_jobs() if job.state == JOB_OPEN]
        if open_jobs and open_jobs[0].step != "begun":
            break
        step += 1
    change(site, "wednesday")
    report = site.back_up(2)
    assert [each["volume"] for each in report["volumes"] if each["resumed"]] == ["ann"]
    found = site.require_whole()
    assert [entry.level for entry in found["ann"]] == [0, 1, 2] and [entry.level for entry in found["bob"]] == [0, 1]
    site.quick("restore", "ann@2026-11-17", "--to", "back", DAL_NOW=night(3))
    assert (site.home / "back" / "plan.txt").read_text() == "ann: tuesday\n"
    with Catalog.open(f"sqlite:///{site.home}/state/catalog.sqlite") as catalog:
        assert len(catalog.runs()) == started + 2 and all(run.ended_ns for run in catalog.runs())


def test_interrupted_run_stops_soon_and_goes_on_later(site: Site) -> None:
    (site.home / "homes" / "ann" / "big.bin").write_bytes(os.urandom(30_000_000))
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + '[limits]\nbandwidth = "1M"\n')
    running = subprocess.Popen(
        [*site.command(), "backup", "--set", "all"],
        cwd=site.home,
        env=site.environ({"DAL_NOW": night(0)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    halfway = time.monotonic() + 30
    while not list((site.home / "disk1").rglob("*.partial")) and time.monotonic() < halfway:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 130 and b"Traceback" not in err, (out, err)
    (site.home / "site.toml").write_text(text)
    report = site.back_up(0)
    assert [each["volume"] for each in report["volumes"] if each["resumed"]] == ["ann"]
    assert {name: len(entries) for name, entries in site.require_whole().items()} == {"ann": 1, "bob": 1}


def test_what_the_policy_leaves_out_is_left_out_by_hand_too_and_said(site: Site) -> None:
    """Kind of fault: rules that nobody sees, or that outlive who made them."""
    for name in ("plan.tmp", "big"):
        (site.home / "homes" / "ann" / name).write_bytes(bytes(3000))
    policy = (site.home / "site.toml").read_text()
    rules = 'exclude = ["*.tmp"]\nexclude_larger_than = "2K"\nexclude_caches = true\none_file_system = true\nnodump = true\n'
    (site.home / "site.toml").write_text(policy + rules)
    told = site.quick("backup", "--set", "all", DAL_NOW=night(0)).out.decode()
    assert "  ann, bob: leaves out: *.tmp, files over 2.0 KiB, caches (CACHEDIR.TAG), other file systems" in told
    site.back_up(0)

    def there() -> set[str]:
        return {row["path"] for row in site.value("ls", "ann")}

    assert there() == {"plan.txt"}
    shown = site.quick("volume", "show", "ann").out.decode()
    assert "*.tmp  (policy's set homes)" in shown and "files over 2.0 KiB  (policy's set homes)" in shown
    done = site.quick("backup", "ann", "--exclude-larger-than", "none").out.decode()
    assert (
        "leaves out: *.tmp, caches (CACHEDIR.TAG), other file systems, what has the nodump flag (policy's set" in done
    )
    assert there() == {"plan.txt", "big"}
    (site.home / "site.toml").write_text(policy)
    site.back_up(1)
    assert there() == {"plan.txt", "big", "plan.tmp"} and site.value("volume", "show", "ann")["settings"] == {}
    (site.home / "site.toml").write_text(policy + 'exclude = ["x\\\\"]\n')
    assert "sets.homes.exclude: pattern 'x\\\\'" in site.quick("plan", "--check", code=2).out.decode()


def test_fewer_copies_than_the_policy_asks_for_are_incomplete_and_at_risk_until_they_are_made(site: Site) -> None:
    """The kind: some of what redundancy asks for counts as all of it."""
    text = (site.home / "site.toml").read_text()
    more = 'paths = ["' + f'{site.home}/disk2", "'
    (site.home / "site.toml").write_text(text.replace('paths = ["', "copies = 2\n" + more))
    report = site.back_up(0, code=3)
    assert report["counts"]["incomplete"] == 2 and "1 of 2 copies" in str(report["volumes"])
    assert "disks: 1 of 2 copies" in str(report["at_risk"])
    status = site.quick("status", "--check", code=(1, 3), DAL_NOW=night(0, "04:00"))
    assert b"WARNING" in status.out
    assert len(site.spool()) == 2


def test_a_run_makes_the_shares_and_copies_that_an_earlier_one_could_not_and_says_it(site: Site) -> None:
    """The kind: what succeeded in part is never completed, because it is not what failed."""
    text = (site.home / "site.toml").read_text().replace('targets = ["disks"]', 'targets = ["disks", "grid"]')
    text = text.replace(
        'paths = ["HOME/disk1"]'.replace("HOME", str(site.home)), "copies = 2\n" + 'paths = ["DISK1", "DISK2"]'
    )
    for number in (1, 2):
        text = text.replace(f"DISK{number}", f"{site.home}/disk{number}")
    places = ", ".join(f'"{site.home}/g{number}"' for number in (1, 2, 3))
    text = text.replace(
        "[sets.homes]", f'[targets.grid]\nkind = "shares"\nk = 2\nn = 3\npaths = [{places}]\n[sets.homes]'
    )
    (site.home / "site.toml").write_text(text)
    for number in (1, 2, 3):
        site.disk(f"g{number}", target="grid", kind="shares")
    site.disk("disk2")
    lost = {name: (site.home / name).rename(site.home / f"{name}.away") for name in ("g3", "disk2")}
    assert site.back_up(0, code=3)["counts"]["incomplete"] == 2
    assert site.back_up(0, "--set", "all", "--due", code=3)["brought"] == []  # nothing has changed
    lost["g3"].rename(site.home / "g3")
    report = site.back_up(0, "--set", "all", "--due", code=3)
    assert [(each["volume"], each["target"], each["error"]) for each in report["brought"]] == [
        ("ann", "grid", None),
        ("bob", "grid", None),
    ]
    assert report["volumes"] == [] and "1 of 2 copies" in str(report["at_risk"])
    lost["disk2"].rename(site.home / "disk2")
    change(site, "later")
    done = site.quick("backup", "--set", "all", DAL_NOW=night(1)).out.decode()
    assert "complete now in disks: ann level 0 of 2026-11-16" in done
    assert site.quick("archive", "-n").out == b"every dump is where it should be\n"
    site.require_whole()
    assert site.back_up(2)["brought"] == []
    table = [
        line for line in site.quick("status", DAL_NOW=night(2, "23:00")).out.decode().splitlines() if line[:2] == "  "
    ]
    assert len(table) == 3 and max(map(len, table)) <= 80, table


def test_a_turn_that_takes_too_long_fails_alone(site: Site) -> None:
    """Kind: one volume that never ends keeps all others from their backup."""
    (site.home / "site.toml").write_text((site.home / "site.toml").read_text() + '[limits]\nturn = "12h"\n')
    # The clock jumps once, behind the beginning of the first turn.
    clock = "import itertools, dalsegno.actions.turn as c; n = itertools.count(); c.ticks_ns = lambda: 10**15 * (next(n) > 0)"
    done = site.quick("--json", "backup", "--set", "all", code=3, before=clock, DAL_NOW=night(0))
    report = json.loads(done.out)
    assert report["counts"] == {"done": 1, "incomplete": 0, "failed": 1}
    (failed,) = (each for each in report["volumes"] if each["error"])
    assert "longer than 12h" in failed["error"] and "[limits]" in failed["error"]
    assert site.back_up(1)["counts"] == {"done": 2, "incomplete": 0, "failed": 0}
    site.require_whole()
