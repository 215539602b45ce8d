"""`dal key rotate`: what is written after it opens with the new key alone, and all that is older stays readable."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_kit import KILLED, User
from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.pool.generations import realm_of
from dalsegno.pool.keys import read_key_file
from dalsegno.pool.settings import PoolSettings, decode_settings
from dalsegno.terms.errors import Damaged
from kit import opens

OLD, OTHER = "the old words", "of somebody else"
CHEAP = (
    "import dalsegno.pool.pool as p, dalsegno.cli.key_holders as h, dalsegno.pool.settings as s; "
    "h.KdfCost = p.KdfCost = lambda: s.KdfCost(memory_kib=64, passes=1, lanes=1)"
)
SECRET_LINE = b"what only the new key may open\n"


class Owner(User):
    """Somebody with a pool."""

    def dal(self, *words: str, code: int = 0, **environment: str) -> str:
        done = self.quick(*words, code=code, before=CHEAP, **environment)
        return done.error if code else done.out.decode()

    def value(self, *words: str, **environment: str) -> Any:
        return json.loads(self.dal("--json", *words, **environment))

    @property
    def settings_file(self) -> Path:
        return self.home / "pool" / "pool.toml"

    @property
    def settings(self) -> PoolSettings:
        return decode_settings(self.settings_file.read_bytes(), self.settings_file)

    @property
    def key_file(self) -> Path:
        return self.home / ".config" / "dalsegno" / "keys" / f"{self.settings.pool_id.hex()}.key"

    def packs(self) -> set[Path]:
        return set((self.home / "pool" / "packs").glob("*/*.pack"))

    def forget(self) -> None:
        """Be somebody who has seen nothing of the pool."""
        shutil.rmtree(self.home / ".local" / "state" / "dalsegno" / "known")


def make(home: Path, encryption: str = "keyfile", **environment: str) -> Owner:
    owner = Owner(home)
    (home / "doc").mkdir()
    (home / "doc" / "letter").write_bytes(b"dear\n" * 2000)
    (home / "doc" / "large").write_bytes(os.urandom(300_000))
    owner.dal("init", "--encryption", encryption, **environment)
    owner.dal("backup", "doc", "--name", "before", **environment)
    return owner


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """Somebody whose pool opens with a key file."""
    return make(tmp_path / "home")


def write_after(owner: Owner, **environment: str) -> set[Path]:
    """Back up what came after a change; return the packs that this made."""
    before = owner.packs()
    (owner.home / "doc" / "new").write_bytes(SECRET_LINE * 1000)
    owner.dal("backup", "doc", "--name", "after", **environment)
    return owner.packs() - before


def test_what_is_written_after_it_opens_with_the_new_key_alone(owner: Owner) -> None:
    """Kind of fault: whoever had the key once reads everything for ever. He has his key file and all of the pool."""
    stolen, old_settings = owner.home / "stolen.key", owner.settings_file.read_bytes()
    shutil.copy(owner.key_file, stolen)
    old_packs = owner.packs()
    owner.dal("key", "rotate")
    new_packs = write_after(owner)
    his = read_key_file(stolen, owner.settings.realm_id)
    assert new_packs
    assert not any(opens(his, file) for file in new_packs) and all(opens(his, file) for file in old_packs)
    assert realm_of(owner.settings, his.secret) is None
    for ref in (path for path in (owner.home / "pool" / "refs").rglob("*") if path.is_file()):
        name = str(ref.relative_to(owner.home / "pool" / "refs"))
        context = b"dalsegno ref 2\0" + owner.settings.pool_id + name.encode()
        with pytest.raises(Damaged):
            his.open_value(ref.read_bytes(), context=context)
    said = owner.dal("--key", str(stolen), "ls", "doc", code=8)
    assert "is of before the key of this pool was changed" in said and "generation 1" in said
    # He puts back what opened with his key, where nobody remembers: what it shows is no volume, and nothing new.
    owner.settings_file.write_bytes(old_settings)
    owner.forget()
    assert b"ref is damaged" in owner.quick("--key", str(stolen), "ls", "doc", code=6).err


def test_all_that_is_older_stays_readable_and_nothing_is_stored_twice(owner: Owner) -> None:
    """Kind of fault: ids and cut points that follow from the key that seals, so that a new one stores all anew."""
    owner.dal("dump", "doc@before", "-o", "0.dump")
    shutil.copy(owner.key_file, owner.home / "old.key")
    owner.dal("key", "rotate")
    stored = sum(file.stat().st_size for file in owner.packs())
    owner.dal("backup", "doc", "--name", "same")
    assert sum(file.stat().st_size for file in owner.packs()) - stored < 4096
    write_after(owner)
    owner.dal("dump", "doc@after", "-l", "1", "-o", "1.dump")
    owner.dal("verify", "--pool")
    owner.dal("verify", "0.dump", "1.dump")
    owner.dal("merge", "0.dump", "1.dump", "-o", "merged.dump")
    owner.dal("restore", "doc@before", "--to", "out-before")
    owner.dal("restore", "doc@after", "--to", "out-after")
    assert (owner.home / "out-before" / "large").read_bytes() == (owner.home / "doc" / "large").read_bytes()
    assert (owner.home / "out-after" / "new").read_bytes() == SECRET_LINE * 1000
    key = str(owner.key_file)
    for number, dump in enumerate(("0.dump", "1.dump", "merged.dump")):
        words = ("--pool", str(owner.home / f"none-{number}"), "--key")
        if dump != "1.dump":
            owner.dal(*words, key, "ls", dump)
        told = owner.dal(*words, str(owner.home / "old.key"), "ls", dump, code=0 if number == 0 else 8)
        assert number == 0 or "does not open" in told


def test_the_key_is_changed_many_times_and_everything_is_read_with_the_last(owner: Owner) -> None:
    for number in range(2, 6):
        assert owner.value("key", "rotate")["generation"] == number
        (owner.home / "doc" / f"of-{number}").write_text(str(number))
        owner.dal("backup", "doc", "--name", f"clone-{number}")
    shown = owner.value("key", "show")
    assert [each["generation"] for each in shown["generations"]] == [1, 2, 3, 4, 5] and shown["generation"] == 5
    assert "under each generation" in owner.dal("key", "show") and owner.value("key", "list")[0]["generation"] == 5
    for number in range(2, 6):
        owner.dal("restore", f"doc@clone-{number}:/of-{number}", "--to", f"out-{number}")
    owner.dal("gc")
    owner.dal("verify", "--pool")


def test_who_was_removed_reads_nothing_new_and_who_stays_reads_all(owner: Owner) -> None:
    keys = {}
    for number, name in enumerate(("anna", "bert"), 1):
        identity = age_identity(bytes([number]) * 32)
        keys[name] = owner.home / f"{name}.age"
        keys[name].write_text(identity + "\n")
        owner.dal("key", "add", "--recipient", age_recipient(identity), "--name", name)
    owner.dal("key", "add", "--passphrase", "--name", "words", DAL_NEW_PASSPHRASE=OTHER)
    owner.dal("--key", str(keys["bert"]), "key", "export", "berts.key")
    kept = owner.settings_file.read_bytes()
    owner.dal("key", "remove", "bert")
    done = owner.value("key", "rotate")
    assert done["holders"] == ["keyfile", "anna"] and done["dropped"] == [{"name": "words", "kind": "passphrase"}]
    assert done["old_copies"] == [str(owner.home / "berts.key")]
    new = write_after(owner)
    for given in (owner.home / "berts.key", keys["bert"]):
        owner.dal("--key", str(given), "ls", "doc", code=8)
    assert not any(opens(read_key_file(owner.home / "berts.key", owner.settings.realm_id), file) for file in new)
    assert "new" in owner.dal("--key", str(keys["anna"]), "ls", "doc@after")
    assert b"WRONG" in owner.quick("key", "check", code=8).out
    owner.settings_file.write_bytes(kept)
    assert "older key (generation 1; it had 2" in owner.dal("--key", str(keys["bert"]), "ls", "doc", code=4)


def test_a_passphrase_that_is_given_opens_as_before(tmp_path: Path) -> None:
    owner = make(tmp_path / "home", "passphrase", DAL_PASSPHRASE=OLD)
    owner.dal("key", "rotate", DAL_PASSPHRASE=OLD)
    write_after(owner, DAL_PASSPHRASE=OLD)
    assert "wrong passphrase" in owner.dal("ls", "doc", code=8, DAL_PASSPHRASE=OTHER)
    owner.dal("key", "export", "copy.key", DAL_PASSPHRASE=OLD)
    assert "nobody could open the pool" in owner.dal("--key", "copy.key", "key", "rotate", code=4)
    assert (
        owner.settings.generation == 2
        and read_key_file(owner.home / "copy.key", owner.settings.realm_id).generation == 2
    )
    owner.dal("--key", "copy.key", "key", "passphrase", DAL_NEW_PASSPHRASE=OTHER)
    owner.dal("key", "rotate", DAL_PASSPHRASE=OTHER)
    assert "new" in owner.dal("ls", "doc@after", DAL_PASSPHRASE=OTHER)


def test_paper_of_after_a_change_reads_all_without_the_pool_and_its_first_lines_with_it(owner: Owner) -> None:
    owner.dal("dump", "doc@before", "-o", "0.dump")
    owner.dal("key", "rotate")
    write_after(owner)
    page = owner.dal("key", "export", "--paper", "-")
    lines = [line for line in page.splitlines() if line[:1].isdigit()]
    assert [line.split(":")[0] for line in lines] == [*"12345678"]
    typed, short = owner.home / "typed", owner.home / "short"
    typed.write_text("\n".join(lines))
    short.write_text("\n".join(lines[:4]))
    shutil.rmtree(owner.home / ".config")
    owner.dal("--pool", str(owner.home / "none"), "--key", str(typed), "ls", "0.dump")
    for file in (typed, short):
        assert "new" in owner.dal("--key", str(file), "ls", "doc@after")
        owner.dal("key", "import", str(file))
        assert "new" in owner.dal("ls", "doc@after")
        shutil.rmtree(owner.home / ".config")


def test_an_older_copy_is_not_imported_and_a_newer_one_takes_its_place(owner: Owner) -> None:
    owner.dal("key", "export", "1.key")
    shutil.copy(owner.key_file, owner.home / "own-1.key")
    assert "so does its copy" in owner.dal("doctor")
    owner.dal("key", "rotate")
    assert "so does its copy" not in owner.dal("doctor"), "the copy of the old key is none of the new one"
    owner.dal("key", "export", "2.key")
    assert "is of before" in owner.dal("key", "import", "1.key", code=8)
    assert "is of before" in owner.dal("key", "check", "1.key", code=8)
    shutil.copy(owner.home / "own-1.key", owner.key_file)  # another machine's
    owner.dal("ls", "doc", code=8)
    owner.dal("key", "import", "2.key")
    owner.dal("ls", "doc")
    owner.dal("key", "export", "1.key")
    owner.dal("key", "check", "1.key")


def test_an_older_pool_toml_is_noticed_and_can_be_accepted(owner: Owner) -> None:
    """Kind of fault: who can write the storage puts the old settings back, and what he kept opens what comes next."""
    old = owner.settings_file.read_bytes()
    owner.dal("key", "rotate")
    new = owner.settings_file.read_bytes()
    owner.settings_file.write_bytes(old)
    before = owner.packs()
    said = owner.dal("backup", "doc", code=4)
    assert "older key (generation 1; it had 2" in said and owner.packs() == before
    # Where nobody remembers, the key file that is ahead tells, and the change can be done again, to the same secret.
    owner.forget()
    assert b"holds a newer key than the pool has" in owner.quick("key", "show").err
    owner.forget()
    secret = read_key_file(owner.key_file, owner.settings.realm_id).secret
    owner.dal("key", "rotate")
    assert read_key_file(owner.key_file, owner.settings.realm_id).secret == secret
    owner.dal("ls", "doc")
    owner.settings_file.write_bytes(new)
    owner.dal("ls", "doc")


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("generation = 3", "generation = 2"),
        ("refs_since = 3", "refs_since = 1"),
        ("older_secrets", None),
        ("generation = 3", "generation = 300"),
        ("refs_since = 3", "refs_since = 4"),
        ("refs_since = 3", "refs_since = true"),
    ],
)
def test_a_list_of_secrets_that_somebody_else_changed_is_refused(owner: Owner, line: str, changed: str | None) -> None:
    from dalsegno.pool.settings import _checksum

    owner.dal("key", "rotate")
    owner.dal("key", "rotate")
    lines = owner.settings_file.read_text().splitlines()
    at = next(number for number, each in enumerate(lines) if each.startswith(line))
    lines[at] = changed if changed is not None else lines[at][:-3] + ("00" if lines[at][-3:-1] != "00" else "11") + '"'
    body = "".join(each + "\n" for each in lines if each and not each.startswith(("#", "checksum")))
    lines = [f'checksum = "{_checksum(body)}"' if each.startswith("checksum") else each for each in lines]
    owner.settings_file.write_text("\n".join(lines) + "\n")
    owner.forget()
    said = owner.quick("ls", "doc", code=(5, 8)).error
    assert "changed without the key" in said or "put back your copy" in said or "is of before" in said


KILL = """
import os, signal
import dalsegno.world.files as files
count = [0]
def step(name, *others, **options):
    count[0] += name == "rename"
    if count[0] == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
files.durable_step = step
"""


def test_a_change_that_is_killed_anywhere_leaves_all_readable_and_is_finished_by_the_next(owner: Owner) -> None:
    """Kind of fault: the only copy of a new secret is written after what is sealed with it."""
    whole = owner.home.parent / "whole"
    shutil.copytree(owner.home, whole, symlinks=True)
    states = set()
    for number in range(1, 100):
        for name in ("pool", ".config", ".local"):
            shutil.rmtree(owner.home / name)
            shutil.copytree(whole / name, owner.home / name, symlinks=True)
        if owner.quick("key", "rotate", before=KILL.format(number=number), code=(0, KILLED)).code == 0:
            break
        settings = owner.settings
        if settings.generation > settings.refs_since:
            assert "was cut off" in owner.dal("doctor")
        states.add(
            (settings.generation, settings.refs_since, read_key_file(owner.key_file, settings.realm_id).generation)
        )
        if number % 2:
            owner.dal("backup", "doc", "--name", "between")
        if settings.refs_since == 1:
            assert "letter" in owner.dal("ls", "doc@before")
            owner.dal("key", "rotate")
        settings = owner.settings
        assert settings.generation == settings.refs_since == 2, number
        assert realm_of(settings, read_key_file(owner.key_file, settings.realm_id).secret) is not None
        assert "letter" in owner.dal("ls", "doc@before")
    assert {(1, 1, 1), (1, 1, 2), (2, 1, 2)} <= states
