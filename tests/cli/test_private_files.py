"""What holds other people's files or names is for its owner alone, whatever the umask lets others have."""

from pathlib import Path

from cycle_kit import Site, change, make_site

from cli_kit import User

LEAKS = 0o077
WIDE = "import os; os.umask(0)"


def test_a_sites_catalog_spool_and_media_are_their_owners_alone(tmp_path: Path) -> None:
    """Kind of fault: all homes in the open, in the directory where the backup passes through."""
    site: Site = make_site(tmp_path)
    state = site.home / "state"
    change(site, "one")
    site.back_up(0)
    assert state.stat().st_mode & LEAKS == 0
    assert (state / "catalog.sqlite").stat().st_mode & LEAKS == 0
    dumps = [path for path in site.home.rglob("*.dump") if path.is_file()]
    assert dumps and not [path for path in dumps if path.stat().st_mode & LEAKS]


def test_a_dump_and_a_realms_database_are_their_owners_alone(tmp_path: Path) -> None:
    user = User(tmp_path)
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc" / "a").write_text("a")
    user.quick("init", "--encryption", "none")
    user.quick("import", "doc", "doc")
    user.quick("dump", "doc", "-o", "full.dump", before=WIDE)
    (tmp_path / "doc" / "b").write_text("b")
    user.quick("import", "doc", "doc")
    user.quick("dump", "doc", "--level", "1", "-o", "more.dump", before=WIDE)
    user.quick("merge", "full.dump", "more.dump", "-o", "all.dump", before=WIDE)
    user.quick("realm", "init", "--db", f"sqlite:///{tmp_path}/directory.db", "--name", "site", before=WIDE)
    for name in ("full.dump", "more.dump", "all.dump", "directory.db"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name


def test_a_stricter_umask_counts(tmp_path: Path) -> None:
    user = User(tmp_path)
    (tmp_path / "doc").mkdir()
    user.quick("init", "--encryption", "none")
    user.quick("import", "doc", "doc")
    user.quick("dump", "doc", "-o", "full.dump", before="import os; os.umask(0o277)")
    assert (tmp_path / "full.dump").stat().st_mode & 0o777 == 0o400
