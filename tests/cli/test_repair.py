"""Conflicts as people meet them: listed, read, dumped, restored, and repaired."""

import os
from pathlib import Path

import msgspec
import pytest

from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.trees.read import read_revision
from dalsegno.volumes.resolve import merge_heads

PLAN = "plan.txt"


@pytest.fixture
def user(tmp_path: Path) -> User:
    """Somebody whose volume `doc` was changed in two places at once: one file in both, another in one."""
    user = User(tmp_path)
    user.quick("init", "--encryption", "none")
    tree = user.home / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / PLAN).write_text("plan of both\n")
    (tree / "same").write_text("same\n")
    user.quick("import", "doc", "tree")
    heads = []
    pool = user.home / "pool"
    with open_pool(pool) as house:
        first = house.volumes.get("doc")
    for name in ("ann", "bob"):
        (tree / "sub" / PLAN).write_text(f"plan of {name}\n" * 20)
        (tree / name).write_text(name)
        with open_pool(pool) as house:
            house.volumes.update(first.id, lambda state: msgspec.structs.replace(state, head=first.head))
        user.quick("--trust-pool", "import", "doc", "tree")  # the head was moved back behind this user's back
        (tree / name).unlink()
        with open_pool(pool) as house:
            heads.append(house.volumes.get("doc").head)
    with open_pool(pool) as house:
        with house.pool.writer() as writer:

            class Both:
                def get(self, identity: bytes) -> bytes:
                    writer.flush()
                    return house.pool.get(identity)  # type: ignore[arg-type]

            merged = merge_heads(Both(), writer, heads[0], heads[1])  # type: ignore[arg-type]
        house.volumes.update(first.id, lambda state: msgspec.structs.replace(state, head=merged))
    return user


def sides(user: User) -> dict[str, str]:
    """Return the names of the sides by who wrote them."""
    (conflict,) = user.value("repair", "doc")
    assert conflict["path"] == f"sub/{PLAN}"
    found = {}
    for side in conflict["sides"]:
        text = user.quick("cat", f"doc:/sub/{PLAN}/{side['name']}").out.decode()
        found[text.split("\n")[0].rpartition(" ")[2]] = side["name"]
    return found


def test_a_conflict_shows_everywhere(user: User) -> None:
    assert set(sides(user)) == {"ann", "bob"}
    rows = {row["path"]: row["kind"] for row in user.value("ls", "-R", "doc")}
    assert rows[f"sub/{PLAN}"] == "conflict" and rows["ann"] == rows["bob"] == rows["same"] == "file"
    assert "conflict" in user.quick("ls", "-l", "doc:/sub").out.decode()
    user.quick("dump", "doc", "-o", "doc.dump")
    user.quick("restore", "doc.dump", "--to", "back")
    there = user.home / "back/sub" / PLAN
    assert sorted(os.listdir(there)) == sorted(sides(user).values())
    assert {(there / side).read_text().split("\n")[0] for side in os.listdir(there)} == {"plan of ann", "plan of bob"}


def test_a_side_takes_the_place(user: User) -> None:
    done = user.value("repair", f"doc:/sub/{PLAN}", "--keep", sides(user)["bob"])
    assert done["path"] == f"sub/{PLAN}"
    assert user.quick("cat", f"doc:/sub/{PLAN}").out.decode() == "plan of bob\n" * 20
    assert user.value("repair", "doc") == []
    assert user.quick("repair", "doc").out.decode() == "no conflicts\n"
    assert user.quick("log", "doc").out.decode().count("\n") >= 2


@pytest.mark.parametrize("size", [0, 50, 300_000])
def test_a_file_takes_the_place(user: User, size: int) -> None:
    (user.home / "settled").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    user.quick("repair", f"doc:/sub/{PLAN}", "--keep", "settled")
    user.quick("restore", "doc", "--to", "back")
    assert (user.home / "back/sub" / PLAN).read_bytes() == (user.home / "settled").read_bytes()
    assert user.value("verify", "--pool")["whole"]


def test_what_is_repaired_says_exactly_what_it_holds(user: User) -> None:
    def told() -> tuple[int, int]:
        with open_pool(user.home / "pool") as house:
            head = read_revision(house.pool, house.volumes.get("doc").head)
            return head.entry_count, head.total_bytes

    def found() -> tuple[int, int]:
        rows = user.value("ls", "-R", "doc")
        return len(rows), sum(row["size"] for row in rows if row["kind"] == "file")

    assert told() == found()
    user.quick("repair", f"doc:/sub/{PLAN}", "--keep", sides(user)["ann"])
    assert told() == found() == (5, 20 * len("plan of ann\n") + len("same\n") + len("annbob"))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["doc:/same", "--keep", "x"], 6, "no conflict"),
        (["doc:/none", "--keep", "x"], 6, "no such file"),
        (["doc", "--keep", "x"], 2, "expected VOLUME:/PATH"),
        ([f"doc:/sub/{PLAN}", "--keep", "nobody"], 2, "nor a side of the conflict, which are"),
        (["doc@yesterday"], 2, "a clone does not change"),
        (["nothing"], 6, "no volume"),
    ],
)
def test_wrong_words_change_nothing(user: User, words: list[str], code: int, text: str) -> None:
    before = user.quick("log", "doc").out.decode()
    assert text in user.quick("repair", *words, code=code).error
    assert user.quick("log", "doc").out.decode() == before


def test_a_repair_signs_nothing_that_nobody_signed(user: User) -> None:
    """The kind: what is not taken as it is comes in as a part of what is made of it."""
    user.quick("volume", "set", "doc", "--signed", "required")  # a merge of what was signed counts as signed
    user.quick("restore", "doc", "--to", "back")
    own = user.value("key", "signers")["own"]
    key = user.home / ".config" / "dalsegno" / "signing.key"
    key.unlink()
    user.quick("key", "remove-signer", own["name"])
    user.quick("volume", "set", "doc", "--signed", "required", code=4)  # the new key is known now, the state is not
    keep = sides(user)["ann"]
    assert "key that is not known" in user.quick("repair", f"doc:/sub/{PLAN}", "--keep", keep, code=4).error
    user.quick("key", "trust-signer", "before", own["key"])
    user.quick("repair", f"doc:/sub/{PLAN}", "--keep", keep)
    assert user.value("log", "doc")[0]["signature"]["name"] == own["name"]
