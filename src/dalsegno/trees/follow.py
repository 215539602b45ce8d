"""What one side did to each file and directory of a base: changed, renamed, removed, replaced, added.

Directories are compared name by name; those with equal ids are not entered. What went away in one place and came up in
another under the same node number was renamed. What went away with a directory, or came with a new one, is looked for
level by level, and only as long as there is something on the other side that it could be; so a directory that was
renamed costs as much as what was changed in it.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, ENTRY_LINK, Entry, is_conflict
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Refused
from dalsegno.terms.ids import hex_short
from dalsegno.trees.diff import differing_nodes
from dalsegno.trees.read import iterate_directory


class Fate(Enum):
    """What a side did to something that it did not place."""

    SAME = 0
    """Nothing: it is as in the base, where what it lies in is, or gone with that."""
    GONE = 1
    KEPT = 2
    """It was removed, but the other side gave it a new place, which counts more."""


PLACES_MAX: Final = 10_000
"""Places at which one directory is compared with one other. Honest ones differ: every file has a node of its own."""
SAME: Final = Fate.SAME
GONE: Final = Fate.GONE
KEPT: Final = Fate.KEPT


class Item:
    """A file or directory, followed through the base and both sides, and in the end where it comes to stand."""

    __slots__ = ("above", "base", "content", "inside", "is_directory", "name", "now", "place", "revived", "split")

    def __init__(self, above: "Item | None", name: bytes, base: Entry | None, *, is_directory: bool) -> None:
        self.above = above
        """The directory that it is in in the base; None for the root and for what is new."""
        self.name = name
        self.base = base
        """What it is in the base; None when it is new."""
        self.is_directory = is_directory
        self.now: list[Placed | Fate] = [SAME, SAME]
        self.inside: dict[bytes, Item] = {}
        """What is in it in the base, as far as anybody looked."""
        self.place: tuple[Item, bytes] | None = None
        """The directory and name where it comes to stand; None when nowhere."""
        self.split = False
        """Each side gave it another place."""
        self.revived = False
        """A directory that one side removed and that holds something nevertheless."""
        self.content = b""

    def state(self, side: int) -> "Placed | Fate":
        """Return what a side did to it: placed, SAME or GONE."""
        now = self.now[side]
        if now is KEPT:
            return SAME
        if now is not SAME:
            return now
        if self.base is None:
            return GONE
        above = self.above
        while above is not None:
            if above.now[side] is not SAME:
                return GONE if above.now[side] is GONE else SAME
            above = above.above
        return SAME

    def stands(self, side: int) -> bool:
        """Tell whether a side has it: neither it nor what it lies in was removed, even if it is KEPT."""
        item: Item | None = self
        while item is not None and item.now[side] is SAME:
            item = item.above
        return item is not None and isinstance(item.now[side], Placed)

    def entry(self, side: int) -> Entry | None:
        """Return what it is on a side; of what is KEPT what it is in the base."""
        state = self.state(side)
        if isinstance(state, Placed):
            return state.entry
        return self.base if state is SAME else None

    def place_on(self, side: int) -> "tuple[Item, bytes] | None":
        """Return the directory and name where it is on a side."""
        state = self.state(side)
        if isinstance(state, Placed):
            return (state.above, state.name) if state.above is not None else None
        return (self.above, self.name) if state is SAME and self.above is not None else None

    def base_path(self) -> bytes:
        """Return its path in the base; empty for what is new."""
        names: list[bytes] = []
        item: Item | None = self
        while item is not None and item.above is not None:
            names.append(item.name)
            item = item.above
        return b"/".join(reversed(names))


class Placed:
    """Where an item is on one side, and what it is there."""

    __slots__ = ("above", "entry", "name")

    def __init__(self, above: Item | None, name: bytes, entry: Entry) -> None:
        self.above = above
        self.name = name
        self.entry = entry


class _Spot:
    """Something that is at a place of the base or of the side, and not at that place of the other."""

    __slots__ = ("above", "entry", "item", "matched")

    def __init__(self, above: "Item | _Spot", entry: Entry) -> None:
        self.above = above
        self.entry = entry
        self.item: Item | None = None
        self.matched = False


def is_plain_directory(entry: Entry) -> bool:
    """Return whether an entry is a directory and no conflict: something to look into."""
    return entry.kind == ENTRY_DIRECTORY and not is_conflict(entry)


def _is_same(old: Entry, new: Entry) -> bool:
    return old.node == new.node != 0 and old.kind == new.kind and is_conflict(old) == is_conflict(new)


def _is_replacement(old: Entry, new: Entry) -> bool:
    """Tell whether what stands at the place of something that is gone is meant to be the same thing."""
    if is_plain_directory(old) or is_plain_directory(new):
        return is_plain_directory(old) and is_plain_directory(new)
    if is_conflict(old) or is_conflict(new):
        return True
    return old.kind == new.kind or {old.kind, new.kind} == {ENTRY_FILE, ENTRY_LINK}


class Visits:
    """Counts how often the same was looked into: directories that hold one another twice and twice again never end."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def note(self, what: bytes) -> None:
        """Count `what`, the ids of one or two directories; Refused when it is too often."""
        count = self._counts[what] = self._counts.get(what, 0) + 1
        if count > PLACES_MAX:
            raise Refused(
                f"directory {hex_short(what)} stands at more than {PLACES_MAX:,} places, which is not merged: "
                "remove it on one side"
            )


class Follower:
    """Follows everything from the base to one side; items of the base are shared with the follower of the other."""

    def __init__(self, source: Source, side: int, root: Item, items: list[Item]) -> None:
        self.placed: dict[Item, dict[bytes, Item]] = {}
        """What the side has at places where it is not as in the base."""
        self.gone: list[Item] = []
        """What is nowhere any more; what went away with a directory is not told."""
        self.come: list[Item] = []
        """What is new; what came with a directory is not told."""
        self._source = source
        self._side = side
        self._root = root
        self._items = items
        self._visits = Visits()
        self._queue: list[tuple[Item, bytes, bytes]] = []
        """Directories to compare."""
        self._pairs: dict[Item, _Spot] = {}
        """Where each item is that was found on the side."""
        self._tops: tuple[list[_Spot], list[_Spot]] = ([], [])
        """What went away and what came, at the top: not with a directory."""
        self._known: tuple[dict[int, _Spot], dict[int, _Spot]] = ({}, {})
        """What went away and what came by node, as far as something may still be asked for."""
        self._levels: tuple[list[_Spot], list[_Spot]] = ([], [])
        """Directories that went away or came, to look into next."""

    def follow(self, content: bytes) -> None:
        """Find out what the side, whose root directory is `content`, did."""
        assert self._root.base is not None
        self._queue.append((self._root, self._root.base.content, content))
        turn = 1
        while True:
            if self._queue:
                self._compare(*self._queue.pop())
            elif self._can_expand(turn):
                self._expand(turn)
                turn = 1 - turn
            elif self._can_expand(1 - turn):
                self._expand(1 - turn)
            else:
                self._match_places()
                if not self._queue:
                    break
        self._settle()

    def _compare(self, item: Item, old: bytes, new: bytes) -> None:
        if old == new:
            return
        self._visits.note(old + new)
        _, before, after = differing_nodes(self._source, old, new)
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was is not None and now is not None and _is_same(was, now):
                self._pair(self._child(item, was), _Spot(item, now))
                continue
            if was is not None:
                self._note(0, _Spot(item, was), is_top=True)
            if now is not None:
                self._note(1, _Spot(item, now), is_top=True)

    def _pair(self, item: Item, spot: _Spot) -> bool:
        """Let an item be at that spot; not when it is elsewhere already."""
        if item in self._pairs:
            return False
        self._pairs[item] = spot
        spot.item, spot.matched = item, True
        if item.is_directory:
            assert item.base is not None
            self._queue.append((item, item.base.content, spot.entry.content))
        return True

    def _note(self, which: int, spot: _Spot, *, is_top: bool = False) -> None:
        """Take note of something that went away (0) or came (1); what has its match there is matched."""
        entry = spot.entry
        if is_top:
            self._tops[which].append(spot)
        if entry.node and not is_conflict(entry):
            other = self._known[1 - which].get(entry.node)
            if other is not None and not other.matched and _is_same(entry, other.entry):
                gone, come = (other, spot) if which else (spot, other)
                if self._pair(self._old_item(gone), come):
                    gone.matched = True
                    return
            # Where nothing can turn up on the other side any more, nothing will ask for it.
            if is_top or self._levels[1 - which]:
                self._known[which].setdefault(entry.node, spot)
        if is_plain_directory(entry):
            self._levels[which].append(spot)

    def _can_expand(self, which: int) -> bool:
        return bool(self._levels[which]) and bool(self._known[1 - which] or self._levels[1 - which])

    def _expand(self, which: int) -> None:
        """Look one level deeper into what went away or came."""
        spots = self._levels[which][:]
        self._levels[which].clear()
        for spot in spots:
            if spot.matched:
                continue
            found = list(iterate_directory(self._source, spot.entry.content))
            if found:
                self._visits.note(spot.entry.content)
            for entry in found:
                self._note(which, _Spot(spot, entry))

    def _match_places(self) -> None:
        """Take what came to the place of something that is gone as the same thing: an editor saved a file."""
        taken = {
            (spot.above.item, spot.entry.name) for spot in self._pairs.values() if not isinstance(spot.above, Item)
        }
        tops = ([*self._tops[0]], [*self._tops[1]])
        for each in self._tops:
            each.clear()
        come: dict[tuple[Item, bytes], _Spot] = {}
        for spot in tops[1]:
            assert isinstance(spot.above, Item)
            if not spot.matched and (spot.above, spot.entry.name) not in taken:
                come[spot.above, spot.entry.name] = spot
        for spot in tops[0]:
            item = self._old_item(spot)
            if item in self._pairs:
                continue
            assert isinstance(spot.above, Item)
            other = come.get((spot.above, spot.entry.name))
            if other is not None and _is_replacement(spot.entry, other.entry) and self._pair(item, other):
                spot.matched = True
                del come[spot.above, spot.entry.name]
            else:
                self._tops[0].append(spot)
        self._tops[1].extend(come.values())

    def _settle(self) -> None:
        """Write down what was found, now that everything is known."""
        # What is in a directory that both have comes first: what was found deeper down may lie in one of these.
        for item, spot in sorted(self._pairs.items(), key=lambda pair: isinstance(pair[1].above, _Spot)):
            above = self._new_item(spot.above) if isinstance(spot.above, _Spot) else spot.above
            names = self.placed.setdefault(above, {})
            here = names.setdefault(spot.entry.name, item) is item
            item.now[self._side] = Placed(above, spot.entry.name, spot.entry) if here else GONE
        for spot in self._tops[0]:
            item = self._old_item(spot)
            if item.now[self._side] is SAME:
                item.now[self._side] = GONE
                self.gone.append(item)
        for spot in self._tops[1]:
            assert isinstance(spot.above, Item)
            item = self._come(spot.above, spot.entry)
            if item.base is None:
                self.come.append(item)

    def _child(self, above: Item, entry: Entry) -> Item:
        found = above.inside.get(entry.name)
        if found is None:
            found = Item(above, entry.name, entry, is_directory=is_plain_directory(entry))
            above.inside[entry.name] = found
            self._items.append(found)
        return found

    def _old_item(self, spot: _Spot) -> Item:
        """Return the item of something that went away, made with all that it was in."""
        return self._item(spot, lambda above, entry: self._child(above, entry))

    def _new_item(self, spot: _Spot) -> Item:
        """Return the item at a spot of the side, made with all new directories that it is in."""
        return self._item(spot, self._come)

    def _come(self, above: Item, entry: Entry) -> Item:
        names = self.placed.setdefault(above, {})
        there = names.get(entry.name)
        if there is None:
            there = names[entry.name] = Item(None, entry.name, None, is_directory=is_plain_directory(entry))
            there.now[self._side] = Placed(above, entry.name, entry)
            self._items.append(there)
        return there

    def _item(self, spot: _Spot, make: Callable[[Item, Entry], Item]) -> Item:
        chain = [spot]
        while chain[-1].item is None and isinstance(chain[-1].above, _Spot):
            chain.append(chain[-1].above)
        for each in reversed(chain):
            if each.item is None:
                above = each.above if isinstance(each.above, Item) else each.above.item
                assert above is not None
                each.item = make(above, each.entry)
        assert spot.item is not None
        return spot.item
