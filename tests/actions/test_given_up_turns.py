"""A turn that was given up, and whose read comes back after all: it changes nothing any more."""

import dataclasses
from pathlib import Path

import pytest

from dalsegno.actions.backup import create_volume, take
from dalsegno.actions.keep import gc
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.formats.objects import KIND_CHUNK
from dalsegno.terms.events import Event, Progress
from dalsegno.volumes.state import VolumeState
from dalsegno.world.errands import Fence, GivenUp


@pytest.mark.parametrize("read", [0, 1])
def test_writer_that_was_given_up_stores_nothing_and_holds_no_lock(tmp_path: Path, read: int) -> None:
    """Kind: a writer that nobody waits for, and that writes into the pool later."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 1000)
    create_pool(tmp_path / "pool", encryption="none")
    with open_pool(tmp_path / "pool") as house:
        state = create_volume(house, "v", source=source)
        fence = Fence()
        packs: list[set[str]] = []

        def given_up(event: Event) -> None:
            if isinstance(event, Progress) and event.done_count == read:
                fence.shut()
                packs.append(packs_of(tmp_path))
                # Nobody counts as a writer any more: what needs to be alone goes on.
                gc(house, grace_seconds=0)

        lent = dataclasses.replace(house, report=given_up, fence=fence)
        with pytest.raises(GivenUp):
            take(lent, state, bytes(source), message="backup")
        assert packs and packs_of(tmp_path) <= packs[0]
        after = house.volumes.get("v")
        assert isinstance(after, VolumeState) and after.head == state.head and not after.clones

        taken = take(house, after, bytes(source), message="backup")
        assert taken.entry_count >= 1 and house.volumes.get("v").head == taken.revision


def packs_of(home: Path) -> set[str]:
    return {path.name for path in (home / "pool").rglob("*.pack")}


def test_nothing_is_put_behind_the_moment_at_which_a_writer_was_given_up(tmp_path: Path) -> None:
    """Kind: packs that grow although nobody waits for who writes them."""
    with (
        create_pool(tmp_path / "pool", encryption="none") as house,
        pytest.raises(GivenUp),
        house.pool.writer() as writer,
    ):
        writer.put(KIND_CHUNK, b"before")
        writer.give_up()
        for act in (lambda: writer.put(KIND_CHUNK, b"behind"), writer.flush, writer.commit_guard):
            with pytest.raises(GivenUp):
                act()
    assert not packs_of(tmp_path)
