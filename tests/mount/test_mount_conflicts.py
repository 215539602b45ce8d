"""Conflicts in mounted volumes: seen as directories, settled by ordinary commands, gone on every server."""

import os
import subprocess
from pathlib import Path

from mount_kit import Mount, mounted, needs_fuse, needs_program

from realm_kit import Person, running_realm

TAKE = "mv {0}/${1} aside && rm -r {0} && mv aside {0}"
"""One side takes the place: aside, the others removed, back."""

WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "taken": (TAKE.format("taken", "ann"), {"taken": "ann"}),
    "step": ("mv step/$bob new && rm step/$ann && rmdir step && mv -T new step", {"step": "bob"}),
    "anew": ("rm -rf anew && echo both > anew", {"anew": "both"}),
    "both": ("mv both/$ann of-ann && mv both/$bob of-bob && rmdir both", {"of-ann": "ann", "of-bob": "bob"}),
    "folder": ("mv folder/$ann x && rm -r folder && mkdir folder && mv x folder/y", {"folder/y": "ann"}),
    "gone": ("rm -r gone", {}),
    # Moved it is a conflict still.
    "moved": ("mkdir sub && mv moved sub/m && mv sub/m/$bob moved && rm -r sub/m", {"moved": "bob"}),
    # A side is changed where it lies.
    "edited": ("echo more >> edited/$bob && " + TAKE.format("edited", "bob"), {"edited": "bob"}),
    # Without its mark it is a directory like others.
    "plain": ("setfattr -x user.dalsegno.conflict plain && mv plain/$ann plain/x && rm plain/$bob", {"plain/x": "ann"}),
    # One file of two names: each name is settled by itself.
    "name1": ("[ ! name1/$ann -ef name2/$ann ] && " + TAKE.format("name1", "ann"), {"name1": "ann"}),
    "name2": ("mv name2/$ann name2/$bob && mv name2/$bob x && rm -r name2 && mv x name2", {"name2": "ann"}),
}
"""Path: how its conflict is settled, and whose text is where then."""


def _commit(mount: Mount) -> None:
    descriptor = os.open(mount.path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(mount: Mount, who: str) -> None:
    for path in WAYS:
        (mount.path / path).write_text(f"{who}\n")
    if not (mount.path / "name2").samefile(mount.path / "name1"):
        (mount.path / "name2").unlink()
        (mount.path / "name2").hardlink_to(mount.path / "name1")
    _commit(mount)


def _settle(mount: Mount, path: str) -> None:
    sides = {(mount.path / path / side).read_text().split()[0]: side for side in os.listdir(mount.path / path)}
    assert set(sides) == {"ann", "bob"}
    words = ["sh", "-ec", WAYS[path][0]]
    done = subprocess.run(words, cwd=mount.path, env={**os.environ, **sides}, capture_output=True, text=True)
    assert not done.returncode and not done.stderr, (path, done.stderr)


def _conflicts(person: Person) -> list[str]:
    return [each["path"] for each in person.ask("repair", "home")]


@needs_fuse
@needs_program("setfattr")
def test_conflicts_are_settled_by_moving_and_removing(tmp_path: Path) -> None:
    with running_realm(tmp_path, "s1", "s2") as realm:
        ann, bob, eve = (realm.client(name) for name in ("ann", "bob", "eve"))
        ann.quick("volume", "create", "home", "--replicas", "s1,s2")
        with mounted(ann, "home") as of_ann:
            _write(of_ann, "at first")
            with mounted(bob, "home") as of_bob:
                _write(of_ann, "ann")
                _write(of_bob, "bob")
                assert _conflicts(ann) == sorted(WAYS)
                of_ann.end()
                with mounted(ann, "home") as settling:
                    for path in list(WAYS)[1:]:
                        _settle(settling, path)
                    _commit(settling)
                    assert _conflicts(bob) == ["taken"]
                    # The last one both settle at once, alike.
                    with mounted(eve, "home") as too:
                        for mount in (settling, too):
                            _settle(mount, "taken")
                        _commit(settling)
                        _commit(too)
                    assert _conflicts(ann) == []
                # Bob's mount shows his own line still: what he writes there brings no conflict back.
                (of_bob.path / "new").write_text("bob\n")
                _commit(of_bob)
        assert _conflicts(ann) == _conflicts(bob) == []
        assert len(realm.heads(ann)) == 1
        assert ann.ask("replica", "check", "home", "--deep")[0]["differences"] == []
        ann.quick("restore", "home", "--to", "back")
        back = ann.home / "back"
        texts = {str(path.relative_to(back)): path.read_text().split()[0] for path in back.rglob("*") if path.is_file()}
        wanted = {path: who for _, then in WAYS.values() for path, who in then.items()}
        assert texts == {**wanted, "new": "bob"}
        assert (back / "edited").read_text() == "bob\nmore\n"
