"""Who holds a pool's key: passphrases that change, several holders, settings that somebody else wrote."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from cli_kit import Done, User
from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.pool.holders import passphrase_holder, recipient_holder
from dalsegno.pool.settings import Holder, KdfCost, PoolSettings, decode_settings, encode_settings

OLD, NEW = "the old words", "the new words"
CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)
BEFORE = "import dalsegno.cli.key_holders as h, dalsegno.pool.settings as s; h.KdfCost = lambda: s.KdfCost(memory_kib=64, passes=1, lanes=1)"
"""So that a guess costs nothing here."""


class Owner(User):
    """Somebody with a pool."""

    def key(self, *words: str, code: int = 0, **environment: str) -> Done:
        return self.quick("key", *words, code=code, before=BEFORE, **environment)

    def value(self, *words: str, **environment: str) -> Any:
        return json.loads(self.quick("--json", *words, before=BEFORE, **environment).out)

    def opens(self, passphrase: str, *words: str) -> bool:
        done = self.quick(*words, "ls", "doc", code=(0, 8), DAL_PASSPHRASE=passphrase)
        assert done.code == 0 or "wrong passphrase" in done.error
        return done.code == 0

    @property
    def settings_file(self) -> Path:
        return self.home / "pool" / "pool.toml"

    @property
    def settings(self) -> PoolSettings:
        return decode_settings(self.settings_file.read_bytes(), self.settings_file)


def make(home: Path, encryption: str) -> Owner:
    owner = Owner(home)
    (home / "doc").mkdir()
    (home / "doc" / "letter").write_text("dear")
    cheap = "import dalsegno.pool.pool as p, dalsegno.pool.settings as s; p.KdfCost = lambda: s.KdfCost(memory_kib=64, passes=1, lanes=1)"
    owner.quick("init", "--encryption", encryption, before=cheap, DAL_PASSPHRASE=OLD)
    owner.quick("backup", "doc", DAL_PASSPHRASE=OLD) if encryption == "passphrase" else owner.quick("backup", "doc")
    return owner


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """Somebody whose pool opens with OLD."""
    return make(tmp_path / "home", "passphrase")


@pytest.fixture
def keeper(tmp_path: Path) -> Owner:
    """Somebody whose pool opens with a key file."""
    return make(tmp_path / "home", "keyfile")


def private_key(directory: Path, number: int = 1) -> tuple[Path, str]:
    """Return the file of an age identity, and its public key."""
    identity = age_identity(bytes([number]) * 32)
    file = directory / f"identity-{number}"
    file.write_text(identity + "\n")
    return file, age_recipient(identity)


def test_a_changed_passphrase_opens_and_the_old_one_opens_nothing(owner: Owner) -> None:
    copy = owner.settings_file.read_bytes()
    owner.settings_file.chmod(0o640)
    done = owner.key("passphrase", DAL_PASSPHRASE=OLD, DAL_NEW_PASSPHRASE=NEW)
    assert b"still open with the old one" in done.out and not done.err
    assert owner.opens(NEW) and not owner.opens(OLD)
    assert owner.settings_file.stat().st_mode & 0o777 == 0o640
    assert owner.settings.version == 2 and owner.settings.holders[0].wrapped_secret not in copy
    owner.quick("backup", "doc", DAL_PASSPHRASE=NEW)
    owner.settings_file.write_bytes(copy)
    assert owner.opens(OLD), "what the command says of copies is true"


def test_a_passphrase_is_changed_by_a_file_and_forgotten_ones_by_an_exported_key(owner: Owner) -> None:
    owner.key("export", "usb.key", DAL_PASSPHRASE=OLD)
    (owner.home / "new").write_text(NEW + "\nnot this\n")
    owner.quick("--key", "usb.key", "key", "passphrase", before=BEFORE, DAL_NEW_PASSPHRASE_FILE="new")
    assert owner.opens(NEW) and not owner.opens(OLD)


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"DAL_PASSPHRASE": "wrong", "DAL_NEW_PASSPHRASE": NEW}, 8, "wrong passphrase"),
        ({"DAL_PASSPHRASE": OLD, "DAL_NEW_PASSPHRASE": ""}, 2, "the passphrase is empty"),
        ({"DAL_PASSPHRASE": OLD}, 2, "DAL_NEW_PASSPHRASE"),
        ({"DAL_PASSPHRASE": OLD, "DAL_NEW_PASSPHRASE_FILE": "/dev/null"}, 2, "empty"),
    ],
)
def test_a_passphrase_that_cannot_be_changed_stays(
    owner: Owner, environment: dict[str, str], code: int, said: str
) -> None:
    before = owner.settings_file.read_bytes()
    assert said in owner.key("passphrase", code=code, **environment).error
    assert owner.settings_file.read_bytes() == before and owner.opens(OLD)


def test_programs_that_are_run_do_not_get_the_new_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    from dalsegno.world.programs import environment_of_programs

    monkeypatch.setenv("DAL_NEW_PASSPHRASE", NEW)
    assert NEW not in environment_of_programs().values()


def test_several_hold_a_key_and_each_opens_alone(keeper: Owner) -> None:
    """Kind: one secret that all must share, so that nobody can be given or refused access alone."""
    file, public = private_key(keeper.home)
    (keeper.home / "id.pub").write_text(public + "\n")
    keeper.key("add", "--passphrase", DAL_NEW_PASSPHRASE=NEW)
    keeper.key("add", "--recipient", "id.pub", "--name", "anna")
    shown = keeper.value("key", "show")
    assert [(each["name"], each["kind"]) for each in shown["holders"]] == [
        ("keyfile", "keyfile"),
        ("passphrase", "passphrase"),
        ("anna", "recipient"),
    ]
    assert shown["opened_by"] == "keyfile" and public in keeper.key("show").out.decode()
    (keeper.home / ".config" / "dalsegno").rename(keeper.home / "away")
    assert keeper.opens(NEW) and not keeper.opens(OLD)
    keeper.quick("--key", str(file), "backup", "doc")
    assert keeper.value("--key", str(file), "key", "show")["opened_by"] == "anna"
    assert b"opens" in keeper.key("check", str(file)).out
    other, _ = private_key(keeper.home, 2)
    assert "is not the private key of anna" in keeper.quick("--key", str(other), "ls", "doc", code=8).error
    keeper.key("remove", "anna", DAL_PASSPHRASE=NEW)
    assert "no private key opens this pool" in keeper.quick("--key", str(file), "ls", "doc", code=8).error


def test_an_ssh_key_opens_a_pool(keeper: Owner) -> None:
    file = keeper.home / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "anna@laptop", "-f", file], check=True)
    assert b"anna@laptop opens the pool" in keeper.key("add", "--recipient", f"{file}.pub").out
    (keeper.home / ".config" / "dalsegno").rename(keeper.home / "away")
    keeper.quick("--key", str(file), "ls", "doc")
    assert "not there" in keeper.quick("ls", "doc", code=8).error


def test_the_last_holder_stays_and_so_does_who_alone_is_known_to_open(keeper: Owner) -> None:
    """Kind: a command that locks its user out."""
    assert "only holder" in keeper.key("remove", "keyfile", code=4).error
    keeper.key("add", "--passphrase", DAL_NEW_PASSPHRASE=NEW)
    (keeper.home / ".config" / "dalsegno").rename(keeper.home / "away")
    error = keeper.key("remove", "passphrase", code=4, DAL_PASSPHRASE=NEW).error
    assert "only a key file would open the pool" in error and keeper.opens(NEW)
    assert b"every copy of the key file" in keeper.key("remove", "keyfile", DAL_PASSPHRASE=NEW).out
    assert keeper.opens(NEW)


def test_words_that_make_no_sense_change_nothing(keeper: Owner) -> None:
    _, public = private_key(keeper.home)
    keeper.key("add", "--recipient", public, "--name", "anna")
    before = keeper.settings_file.read_bytes()
    for words, code in (
        (("add", "--recipient", public, "--name", "ben"), 4),
        (("add", "--recipient", private_key(keeper.home, 2)[1], "--name", "anna"), 4),
        (("add", "--recipient", "age1nonsense"), 2),
        (("add", "--recipient", "nowhere.pub"), 2),
        (("add", "--recipient", age_identity(bytes(32))), 2),
        (("add", "--recipient", private_key(keeper.home, 3)[1], "--name", 'a"\n[[holder]]'), 2),
        (("add",), 2),
        (("remove", "nobody"), 6),
        (("passphrase",), 4),
        (("passphrase", "anna"), 6),
    ):
        keeper.key(*words, code=code, DAL_NEW_PASSPHRASE=NEW)
    assert keeper.settings_file.read_bytes() == before


def test_a_pool_that_is_not_encrypted_has_no_holders(tmp_path: Path) -> None:
    owner = make(tmp_path / "home", "none")
    assert "nothing is encrypted" in owner.key("add", "--passphrase", code=4, DAL_NEW_PASSPHRASE=NEW).error


def test_changed_holders_are_no_other_pool(keeper: Owner) -> None:
    """Kind: the user's own doing is taken for an attack."""
    file, public = private_key(keeper.home)
    keeper.key("add", "--recipient", public)
    assert keeper.quick("backup", "doc").err == b""
    keeper.key("remove", "keyfile")
    keeper.quick("--key", str(file), "backup", "doc")
    keeper.quick("--key", str(file), "verify", "--pool")


# What an attacker does who can write the pool's files and has no key


def with_checksum(text: str) -> str:
    """Return settings with the checksum put right, which anybody can."""
    lines = [line + "\n" for line in text.splitlines() if line and not line.startswith(("#", "checksum"))]
    digest = blake3("".join(lines).encode()).hexdigest(16)
    return re.sub(r'^checksum = ".*"$', f'checksum = "{digest}"', text, flags=re.MULTILINE)


def test_holders_that_were_added_removed_renamed_or_exchanged_are_noticed(keeper: Owner) -> None:
    """The attacker has a public key of his own listed under a name that people trust, or takes holders away."""
    _, public = private_key(keeper.home)
    _, his = private_key(keeper.home, 2)
    keeper.key("add", "--recipient", public, "--name", "anna")
    keeper.key("add", "--passphrase", DAL_NEW_PASSPHRASE=NEW)
    genuine = keeper.settings_file.read_text()
    added = f'\n[[holder]]\nname = "ben"\nkind = "recipient"\nrecipient = "{his}"\nsealed_secret = "00"\n'
    for change in (
        lambda text: text.replace('"anna"', '"ben"'),
        lambda text: text.replace(public, his),
        lambda text: text + added,
        lambda text: text[: text.index('[[holder]]\nname = "anna"')],
        lambda text: text.replace("binding = 2", "binding = 1"),
    ):
        keeper.settings_file.write_text(genuine)
        keeper.settings_file.write_text(with_checksum(change(genuine)))
        assert keeper.settings_file.read_text() != genuine
        assert "put back your copy" in keeper.quick("ls", "doc", code=5).error
        assert "put back your copy" in keeper.key("remove", "passphrase", code=5).error
    keeper.settings_file.write_text(genuine)
    keeper.quick("ls", "doc")


def test_signed_lines_that_are_read_as_something_else_are_noticed(keeper: Owner) -> None:
    """Kind: what is signed and what is read are not the same. Lines that nobody signs make a text of those between."""
    keeper.key("add", "--passphrase", "--name", "ben", DAL_NEW_PASSPHRASE=NEW)
    _, public = private_key(keeper.home)
    keeper.key("add", "--recipient", public, "--name", "anna")
    genuine = keeper.settings_file.read_text()
    anna, ben = genuine.index('\n[[holder]]\nname = "anna"'), genuine.index('\n[[holder]]\nname = "ben"')
    from_name, from_kind = genuine.index('name = "ben"'), genuine.index('name = "anna"') + len('name = "anna"\n')
    for word in ("checksum", "proof"):
        for start, end in ((anna, len(genuine)), (ben, anna), (from_name + len('name = "ben"\n'), from_kind)):
            hidden = f"{genuine[:start]}\n{word}_1 = '''\n{genuine[start:end]}\n{word}'''\n{genuine[end:]}"
            keeper.settings_file.write_text(with_checksum(hidden))
            assert "put back your copy" in keeper.quick("ls", "doc", code=5).error
    keeper.settings_file.write_text(genuine)
    keeper.quick("ls", "doc")


def test_settings_of_the_first_version_say_nothing_of_their_writer(keeper: Owner) -> None:
    """What is true today: without a key holders are taken away, by settings that are as short as older ones were."""
    keeper.key("add", "--passphrase", "--name", "ben", DAL_NEW_PASSPHRASE=NEW)
    settings = keeper.settings
    older = PoolSettings(
        pool_id=settings.pool_id, realm_id=settings.realm_id, holders=(Holder(name="keyfile", kind="keyfile"),), refs=2
    )
    keeper.settings_file.write_bytes(encode_settings(older))
    keeper.quick("ls", "doc")
    assert [each.kind for each in keeper.settings.holders] == ["keyfile"]


def test_a_holder_that_gives_another_secret_opens_nothing(owner: Owner) -> None:
    """The attacker seals a secret that he knows, so that what comes next is readable for him."""
    file, public = private_key(owner.home)
    owner.key("add", "--recipient", public, "--name", "anna", DAL_PASSPHRASE=OLD)
    settings, his = owner.settings, Realm(b"h" * 32)
    mine = passphrase_holder(OLD, name="passphrase", secret=his.secret, pool_id=settings.pool_id, cost=CHEAP)
    anna = recipient_holder(public, name="anna", secret=his.secret)
    forged = replace(settings, holders=(mine, anna), version=2)
    owner.settings_file.write_bytes(encode_settings(forged, his.secret))
    assert "put back your copy" in owner.quick("ls", "doc", code=5, DAL_PASSPHRASE=OLD).error
    assert "not the private key" in owner.quick("--key", str(file), "ls", "doc", code=8).error


def test_many_costly_passphrases_are_not_tried(owner: Owner) -> None:
    """The attacker makes everybody who opens the pool work for minutes."""
    settings = owner.settings
    costly = passphrase_holder("x", name="x", secret=bytes(32), pool_id=settings.pool_id, cost=CHEAP)
    text = encode_settings(
        PoolSettings(pool_id=settings.pool_id, realm_id=settings.realm_id, holders=(costly,), version=2), bytes(32)
    ).decode()
    holder = text[text.index("[[holder]]") :].replace("kdf_memory_kib = 64", "kdf_memory_kib = 1048576")
    for count, passes in ((3, 2), (2, 4), (65, 1)):
        text_now = text[: text.index("[[holder]]")] + "".join(
            holder.replace('"x"', f'"x{number}"').replace("kdf_passes = 1", f"kdf_passes = {passes}")
            for number in range(count)
        )
        owner.settings_file.write_text(with_checksum(text_now))
        assert "out of bounds" in owner.quick("ls", "doc", code=5, DAL_PASSPHRASE=OLD).error


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind = "passphrase"', 'kind = "magic"'),
        ('kind = "passphrase"', "kind = 7"),
        ("binding = 2", "binding = 3"),
        ("kdf_passes = 3", "kdf_passes = 1.5e9"),
        ('kdf_salt = "', 'kdf_salt = "00'),
        ('name = "passphrase"', 'name = ["a"]'),
        ('name = "passphrase"', 'name = "\\u0007"'),
        ("[[holder]]", "[holder]"),
        ('proof = "', 'proof = "\\u00e9'),
        ("version = 2", "version = true"),
        ("version = 2", "version = 0"),
    ],
)
def test_nonsense_in_the_settings_is_one_line(owner: Owner, old: str, new: str) -> None:
    owner.quick("key", "passphrase", DAL_PASSPHRASE=OLD, DAL_NEW_PASSPHRASE=NEW)
    assert old in owner.settings_file.read_text()
    owner.settings_file.write_text(with_checksum(owner.settings_file.read_text().replace(old, new)))
    assert "put back your copy" in owner.quick("ls", "doc", code=5, DAL_PASSPHRASE=NEW).error


# On paper


def typed_from_paper(owner: Owner, page: bytes, name: str) -> Path:
    """Type the numbered lines of a printed page, and nothing else."""
    file = owner.home / name
    file.write_text(
        "".join(line.upper() + "\n" for line in page.decode().splitlines() if line[:2] in ("1:", "2:", "3:", "4:"))
    )
    assert len(file.read_text().splitlines()) == 4
    return file


def test_a_key_on_paper_is_typed_again_and_opens_the_pool(keeper: Owner) -> None:
    page = keeper.key("export", "--paper", "-").out
    assert b"key import FILE" in page and all(len(line) < 120 for line in page.splitlines())
    file = typed_from_paper(keeper, page, "typed")
    (keeper.home / ".config" / "dalsegno").rename(keeper.home / "away")
    keeper.quick("--key", "typed", "ls", "doc")
    assert b"opens" in keeper.key("check", "typed").out
    keeper.quick("init", "second", "--join", "typed")
    text = file.read_text()
    wrong = text.splitlines()
    wrong[2] = wrong[2][:-1] + ("Q" if wrong[2][-1] != "Q" else "P")
    file.write_text("\n".join(wrong))
    for words in (("--key", "typed", "ls", "doc"), ("key", "import", "typed")):
        assert "line 3: mistyped" in keeper.quick(*words, code=8).error
    file.write_text(text)
    keeper.key("import", "typed")
    assert keeper.quick("ls", "doc").err == b""
    assert b"opens" in keeper.key("import", "typed").out, "twice is once"


def test_a_page_as_a_whole_is_read_as_well_and_a_passphrase_pool_opens_by_it(owner: Owner) -> None:
    owner.key("export", "--paper", "page", DAL_PASSPHRASE=OLD)
    assert (owner.home / "page").stat().st_mode & 0o777 == 0o600
    owner.quick("--key", "page", "ls", "doc")
    owner.quick("--key", "page", "key", "passphrase", before=BEFORE, DAL_NEW_PASSPHRASE=NEW)
    assert owner.opens(NEW)


def test_what_is_no_key_of_the_pool_is_not_taken(keeper: Owner) -> None:
    (keeper.home / "rubbish").write_bytes(b"\xff\x00 rubbish\n")
    keeper.quick("init", "other")
    keeper.quick("--pool", "other", "key", "export", "other.key")
    keeper.key("export", "--write-only", "write.key")
    for file, code, said in (
        ("rubbish", 8, "not a key of this program"),
        ("other.key", 8, "another pool's realm"),
        ("write.key", 8, "not a key of this program that opens a pool"),
        ("nowhere", 6, "no such file"),
    ):
        assert said in keeper.key("import", file, code=code).error
    assert "one of the two" in keeper.key("export", "--paper", "--write-only", "x", code=2).error
