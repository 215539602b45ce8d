"""A site when things go wrong: commands killed or out of space at every durable step, and many volumes brought back."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from admin_kit import Admin, date, days, forget_clones, set_up, tree

KILLED = -9
STEPS_MAX = 150
STRIDE = {"kill": 1, "full": 4}
"""A disk that is full from a step on is full at the next ones: not every one is tried."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "home"
    home.mkdir()
    admin = set_up(home)
    admin.run("--pool", "pool", "volume", "create", "empty")
    days(admin, [0, 1])
    (home / "home" / "later.txt").write_text("not archived yet\n")
    admin.run("--pool", "pool", "backup", "home")
    admin.run("--pool", "pool", "dump", "home", "--level", "2", "-o", "new.dump")
    forget_clones(admin)
    subprocess.run(["cp", "-a", str(home), str(home.with_name("kept"))], check=True)
    return home


@pytest.fixture
def admin(made: Path) -> Admin:
    reset(made)
    return Admin(made, day=3)


def reset(home: Path) -> None:
    shutil.rmtree(home)
    subprocess.run(["cp", "-a", str(home.with_name("kept")), str(home)], check=True)


def partials(admin: Admin) -> list[Path]:
    return [path for name in ("disk1", "g1", "g2", "g3") for path in (admin.home / name).rglob("*.partial")]


def rehearse(admin: Admin, action: str, words: list[str], after: Callable[[], None], *, prepare=lambda: None) -> int:
    """Run a command with a fault at step after step, each time followed by the command itself and `after`."""
    for step in range(1, STEPS_MAX, STRIDE[action]):
        reset(admin.home)
        prepare()
        code = admin.fault(f"{action}:{step}", *words)
        if code == 0:
            return step
        assert code in ((KILLED,) if action == "kill" else (3, 9, 10)), (action, step, code)
        admin.run(*words)
        after()
        assert partials(admin) == [], (action, step)
    raise AssertionError("too many steps: use a smaller site")


@pytest.mark.parametrize("action", ["kill", "full"])
def test_archive_stopped_at_any_step_is_finished_by_the_next(admin: Admin, action: str) -> None:
    def after() -> None:
        assert [copy["verdict"] for copy in admin.value("history")[-1]["copies"]] == ["good"] * 4
        assert admin.text("catalog", "check") == "catalog and media agree\n"

    words = ["archive", "new.dump", "--target", "disks", "--target", "grid"]
    assert rehearse(admin, action, words, after) > 30


@pytest.mark.parametrize("action", ["kill", "full"])
def test_repair_stopped_at_any_step_is_finished_by_the_next(admin: Admin, action: str) -> None:
    def prepare() -> None:
        shutil.rmtree(admin.home / "g2")
        (admin.home / "g2").mkdir()
        admin.run("media", "label", "g2", "grid-new", "--target", "grid")

    def after() -> None:
        assert admin.text("archive", "--dry-run") == "every dump is where it should be\n"
        assert admin.text("catalog", "check") == "catalog and media agree\n"

    assert rehearse(admin, action, ["archive", "repair", "grid"], after, prepare=prepare) > 10


@pytest.mark.parametrize("action", ["kill", "full"])
def test_rebuild_stopped_at_any_step_leaves_the_old_catalog_or_the_new(admin: Admin, action: str) -> None:
    before = len(admin.value("history"))

    def after() -> None:
        assert len(admin.value("history")) == before

    for step in range(1, 20, STRIDE[action]):
        code = admin.fault(f"{action}:{step}", "catalog", "rebuild")
        assert len(admin.value("history")) == before
        if code == 0:
            break
    # After one that was stopped there is more to do: what that left is made durable first.
    assert rehearse(admin, action, ["catalog", "rebuild"], after) >= step > 1


@pytest.mark.parametrize("action", ["kill", "full"])
def test_restore_by_date_stopped_at_any_step_is_finished_by_the_next(admin: Admin, action: str) -> None:
    def after() -> None:
        assert (admin.home / "back" / "today.txt").read_text() == "day 2\n" * 50
        assert not list((admin.home / "state" / "spool" / "fetched").glob("*"))

    assert rehearse(admin, action, ["restore", f"home@{date(2)}", "--to", "back"], after) > 5


@pytest.mark.parametrize("action", ["kill", "full"])
def test_site_restore_stopped_at_any_step_is_finished_by_the_next(admin: Admin, tmp_path: Path, action: str) -> None:
    seen = tree(admin.home / "home")
    seen.pop("later.txt")
    for step in range(1, STEPS_MAX, STRIDE[action]):
        new = Admin(tmp_path / f"{action}{step}", day=9)
        new.home.mkdir()
        words = ["--pool", "pool", "--key", admin.home / "site.key", "restore", "--site", "--state", "state"]
        words += ["--media", admin.home / "disk1"]
        code = new.fault(f"{action}:{step}", *words, DAL_POLICY="")
        if code == 0:
            break
        new.run(*words, DAL_POLICY="")
        new.run(*words[:4], "restore", "home", "--to", "back", DAL_POLICY="")
        back = tree(new.home / "back")
        assert {name: value[2] for name, value in back.items()} == {name: value[2] for name, value in seen.items()}
        new.run(*words[:4], "verify", "--pool", DAL_POLICY="")
    assert step > 20
