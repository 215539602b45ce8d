"""The root of the running system is spared what a backup of something else would do to it."""

import os
from pathlib import Path

import pytest
from host_kit import Machine, as_root, restore_tree, run_apart

from dalsegno.host.target import ROOT_KEPT
from dalsegno.terms.errors import Refused

pytestmark = as_root


def prepare(machine: Machine, tmp_path: Path, *names: str) -> Path:
    """Scan a tree of these directories, and return the root of a small system."""
    root, system = tmp_path / "tree", tmp_path / "system"
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "new").write_text(name)
    root.chmod(0o700)
    machine.scan(root)
    for name in ("etc", "usr", "home"):
        (system / name).mkdir(parents=True)
        (system / name / "old").write_text(name)
    system.chmod(0o755)
    return system


def test_another_backup_restored_to_the_root_leaves_the_root_itself(machine: Machine, tmp_path: Path) -> None:
    """A restore of a home to / that makes the system unusable: its mode is given to /, and --delete removes the rest."""
    system = prepare(machine, tmp_path, "home", "etc")
    revision = machine.revision
    assert revision is not None

    def act() -> None:
        os.chroot(system)
        for dry_run in (True, False):
            with pytest.raises(Refused, match="would remove the system"):
                restore_tree(machine.store, revision, b"/", delete=True, dry_run=dry_run)
        result = restore_tree(machine.store, revision, b"/")
        assert result.failed == [] and result.left == [(b".", ROOT_KEPT)]
        assert restore_tree(machine.store, revision, b"/", paths=[b"home"], delete=True).deleted == 1

    run_apart(act)
    assert system.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in (system / "etc").iterdir()) == ["new", "old"]
    assert sorted(path.name for path in (system / "home").iterdir()) == ["new"]
    assert (system / "usr/old").read_text() == "usr"


def test_a_backup_of_a_system_is_restored_to_the_root_whole(machine: Machine, tmp_path: Path) -> None:
    system = prepare(machine, tmp_path, "usr", "etc")
    revision = machine.revision
    assert revision is not None

    def act() -> None:
        os.chroot(system)
        assert restore_tree(machine.store, revision, b"/", delete=True).left == []

    run_apart(act)
    assert system.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(system)) == ["etc", "usr"]
