"""The commands of docs/guides/amanda.md, as they stand, with other places."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amanda_kit import TEST_SECONDS_MAX, Site, amanda_site, as_backup, facts, why_not

from cli_kit import SOURCE, tree
from realm_kit import Realm, running_realm

GUIDE = SOURCE.parent / "docs" / "guides" / "amanda.md"


def blocks(site: Site) -> list[str]:
    """Return the code of the guide's numbered parts."""
    text = GUIDE.read_text()
    return code_of(site, text[text.index("## 1.") : text.index("## Properties")])


def code_of(site: Site, text: str) -> list[str]:
    """Return the code of a part of the guide, with the places of `site` and without apt-get."""
    found = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    code = "\x00".join(found)
    code = re.sub(r"^apt-get .*\n", "", code, flags=re.MULTILINE)
    for old in ("/srv/", "/tmp/", "/mnt/"):
        code = code.replace(old, f"{site.root}{old}")
    code = code.replace("--source /home ", f"--source {site.root}/src/home ")
    return code.replace("daily", site.name).split("\x00")


def program(home: Path) -> Path:
    """Return a directory with a `dal` that starts anywhere."""
    dal = home / "bin" / "dal"
    if not dal.exists():
        dal.parent.mkdir()
        dal.write_text(f'#!/bin/sh\nexec env PYTHONPATH={SOURCE} {sys.executable} -m dalsegno.cli.main "$@"\n')
        dal.chmod(0o755)
    return dal.parent


def shell(site: Site, script: str, stdin: str = "") -> str:
    """Run commands as root in one shell; return what they print. Every one must succeed."""
    done = subprocess.run(
        ["bash", "-e", "-c", 'asb() { runuser -u backup -- "$@"; }\n' + script],
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=site.root,
        env={"HOME": str(site.user.home), "PATH": f"{program(site.root)}:/usr/sbin:/usr/bin:/sbin:/bin"},
        timeout=300,
    )
    assert done.returncode == 0, script + done.stdout.decode(errors="replace")
    return done.stdout.decode(errors="replace")


@pytest.mark.skipif(bool(why_not()), reason=f"!!! Amanda does not run here: {why_not()}")
@pytest.mark.timeout(TEST_SECONDS_MAX)
def test_guide_leads_from_nothing_to_a_restored_file_and_takes_in_a_server() -> None:
    with amanda_site() as site, running_realm(site.root / "realm", "s1") as realm:
        create, conf, prepare, first, second, recover, session, fetch = blocks(site)
        letters = site.root / "src" / "home" / "letters"
        card = site.root / "mnt" / "card"
        for path in (letters, card, site.config, site.root / "tmp"):
            path.mkdir(parents=True)
        (letters / "offer.txt").write_text("offer\n")
        (letters.parent / "big").write_bytes(os.urandom(100_000))
        (card / "p1.jpg").write_bytes(os.urandom(100_000))
        shell(site, create)
        (site.config / "amanda.conf").write_text(conf)
        said = shell(site, prepare)
        assert "tried as backup: it answers" in said and f"{site.config}/dalsegno.conf" in said
        assert (site.config / "disklist").read_text() == "localhost home dalsegno\nlocalhost photos dalsegno\n"
        shared = add_server(site, realm)
        said = shell(site, first)
        assert "0 problems found" in said and re.search(r"localhost +photos +0 ", said)
        (letters / "offer.txt").write_text("better offer\n")
        (shared / "new").write_bytes(os.urandom(20_000))
        site.user.run("import", "//site/shared", str(shared))
        site.user.run("unclone", "//site/shared@amanda")
        as_backup("amadmin", site.name, "force-level-1", "localhost", "shared")
        assert re.search(rf"localhost home +1 {site.name}", shell(site, second))
        shell(site, f"export TMPDIR={site.root}\n{recover}", session.replace("extract\n", "extract\ny\ny\n"))
        assert (site.root / "tmp" / "back" / "letters" / "offer.txt").read_text() == "better offer\n"
        times = iter([timestamp for timestamp, _ in site.found("home")])
        shell(site, re.sub(r"\b2026112\d020000\b", lambda _: next(times), fetch))
        back = site.root / "tmp" / "home"
        assert (back / "letters" / "offer.txt").read_text() == "better offer\n"
        assert (back / "big").read_bytes() == (letters.parent / "big").read_bytes()

        # What is on the server comes back alike.
        assert [level for _, level in site.found("shared")] == [0, 1], site.logs()
        for timestamp, level in site.found("shared"):
            site.fetch("shared", timestamp, site.user.home / f"shared.{level}.dump")
        site.user.run("restore", "shared.0.dump+shared.1.dump", "--to", "shared")
        assert facts(site.user.home / "shared") == facts(shared)
        said = site.recover(site.root / "all", "setdisk shared", "add .")
        assert facts(site.root / "all") == facts(shared), said
        realm.kill("s1")
        assert b"1 problem found" in as_backup("amcheck", "-c", site.name, code=1).stdout

        # Installed again, it leaves what a person wrote there.
        files = [site.config / "amanda.conf", site.config / "dalsegno.conf"]
        before = [path.read_text() for path in files]
        shell(site, f"dal amanda install --config {site.name}")
        assert [path.read_text() for path in files] == before
        assert {path.owner() for path in files} == {"backup"}


def add_server(site: Site, realm: Realm) -> Path:
    """Put a volume on a server of a realm, and take it in as the guide says; return what it was imported from."""
    text = GUIDE.read_text()
    (code,) = code_of(site, text[text.index("## Volumes on servers") : text.index("## When something")])
    join, disklist, pattern = code.replace("dal://backup1:8420/?name=s1&...", realm.join_string()).partition(
        "dal amanda disklist"
    )
    shell(site, join)
    shared = site.root / "src" / "shared"
    shared.mkdir()
    (shared / "big").write_bytes(os.urandom(100_000))
    site.user.run("volume", "create", "//site/shared", "--replicas", "s1")
    site.user.run("import", "//site/shared", str(shared))
    shell(site, disklist + pattern)
    assert (site.config / "disklist").read_text().splitlines()[-1] == "localhost shared dalsegno-site"
    return shared


def test_bpipe_reader_and_writer_carry_dumps_that_merge(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    text = text[text.index("## Bacula") :]
    reader, writer = re.findall(r"^```sh\n(#!.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for name, script in (("dal-out", reader.replace("/root/.dal/bin", str(program(tmp_path)))), ("dal-in", writer)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    # What Bacula starts, without a shell: the second and third part of bpipe:FILE:READER:WRITER.
    line = re.search(r'"bpipe:/DAL/home.0.dump:/usr/local/sbin/(.*):/usr/local/sbin/(.*)"', text)
    assert line is not None
    environment = {"HOME": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    dal = tmp_path / "bin" / "dal"

    def run(*words: str | Path, code: int = 0, stdin: bytes = b"") -> bytes:
        done = subprocess.run(words, input=stdin, capture_output=True, env=environment, cwd=tmp_path)
        assert done.returncode == code, (words, done.stderr)
        return done.stdout

    home = tmp_path / "home"
    home.mkdir()
    (home / "kept").write_bytes(os.urandom(50_000))
    run(dal, "init")
    run(dal, "volume", "create", "home", "--source", home)
    for level in range(2):
        (home / "new").write_text(f"level {level}")
        out, back = (part.replace("home 0", f"home {level}").replace(".0.", f".{level}.") for part in line.groups())
        image = run(*f"{tmp_path}/{out}".split())
        run(*f"{tmp_path}/{back}".replace("/var/tmp", str(tmp_path)).split(), stdin=image)
    run(dal, "merge", "-o", "home.dump", "home.0.dump", "home.1.dump")
    run(dal, "restore", "home.dump", "--to", "back")
    assert tree(tmp_path / "back") == tree(home)
    assert run(tmp_path / "dal-out", "nobody", "0", code=6) == b""
