"""docs/guides/upkeep.md and machines-and-databases.md, as typed; the files in share/ that they name."""

import shutil
import subprocess
from pathlib import Path

import pytest
from guide_house import ROOT
from guide_kit import Scene, follow

NO_SYSTEMD = "no systemd in a test"
UPKEEP = Scene(
    page="docs/guides/upkeep.md",
    before=f"""
        mkdir -p /media/usb ~/documents ~/pictures ~/.dal/bin ~/project ~/.cache/dalsegno
        echo offer > ~/documents/offer.txt; echo tree > ~/pictures/tree.jpg
        ln -s "$(command -v dal)" ~/.dal/bin/dal
        cp -r {ROOT}/share ~/project; cd ~/project""",
    between={
        "rm -rf ~/.dal": """
            [ -s ~/.local/share/man/man1/dal.1 ] && [ -f ~/.config/systemd/user/dal-backup.timer ]
            dal --pool /media/usb/pool restore documents --to /tmp/back && diff -r ~/documents /tmp/back""",
    },
    after="[ ! -e ~/.local/share/dalsegno ] && [ ! -e ~/.config/dalsegno ] && [ -f ~/documents/offer.txt ]",
    left_out={
        "~/.dal/bin/pip install": "typed by the test of README.md, which has a network",
        "systemctl": NO_SYSTEMD,
        "loginctl": NO_SYSTEMD,
        "git pull": "no network",
    },
)
MACHINES = Scene(
    page="docs/guides/machines-and-databases.md",
    before="sqlite3 ~/app.db 'create table t (x); insert into t values (7)'",
    after="""
        [ "$(dal cat dumps:/app.db > /tmp/app.db && sqlite3 /tmp/app.db 'select x from t')" = 7 ]
        dal volume show machine | grep -q /var/cache""",
    left_out={
        "dal backup -n /": "reads the whole machine",
        "pg_dump": "no server here: tests/actions has hooks",
        "~/dumps/shop": "of pg_dump",
        "btrfs": "no btrfs here",
        "dal backup /srv/.now": "no btrfs here",
    },
    only_read={"[sets.databases]": "a part of a policy"},
)


def test_upkeep_as_typed() -> None:
    follow(UPKEEP, person="root")


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_machines_and_databases_as_typed() -> None:
    follow(MACHINES, person="root")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", sorted(Path(ROOT / "share" / "user").glob("dal-*")), ids=lambda path: path.name)
def test_units_of_a_user_are_well_formed(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        env={"HOME": str(unit.parent), "XDG_RUNTIME_DIR": "/tmp", "PATH": "/usr/bin:/bin"},
    )
    # The program is not where a person has it; everything else that is said is about the unit.
    told = [line for line in done.stderr.splitlines() if unit.stem in line and "not executable" not in line]
    assert told == []
