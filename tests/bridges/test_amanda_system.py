"""The real Amanda from Debian drives the application: amcheck, levels 0 to 3, fetch, merge, restore, recover."""

import os
import shutil
from collections.abc import Iterator

import pytest
from amanda_kit import Site, amanda_site, as_backup, facts, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"!!! Amanda does not run here: {why_not()}")

VOLUMES = ("home", "photos")


@pytest.fixture
def site() -> Iterator[Site]:
    with amanda_site() as site:
        source = site.root / "src" / "home"
        (source / "d").mkdir(parents=True)
        (source / "base").write_bytes(os.urandom(200_000))
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
    """Change both volumes, and let the next run clone them anew."""
    for volume in VOLUMES:
        source = site.root / "src" / volume
        (source / f"new.{number}").write_bytes(os.urandom(60_000))
        (source / "d" / "inner").write_bytes(os.urandom(30_000))
        (source / "goes away").unlink(missing_ok=True)
        with open(source / "base", "ab") as file:
            file.write(b"more")
        site.user.quick("unclone", f"{volume}@amanda")
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

    for volume in VOLUMES:
        said = site.recover(site.root / f"all-{volume}", f"setdisk {volume}", "add .")
        assert facts(site.root / f"all-{volume}") == seen[3][volume], said
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
