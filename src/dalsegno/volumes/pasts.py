"""What lies behind a revision, remembered: a question about a deep history costs one walk, however often it is asked.

A server is asked by many, also by some who ask again and again. Most questions are about what is near, and a short walk
answers them; where it does not, all that lies behind the newer revision is noted, 16 bytes for each.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dalsegno.pool.contract import Source
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.volumes.ancestry import find_revision, walk_back
from dalsegno.world.workers import new_lock

NEAR_STEPS: Final = 250
PAST_IDS_MAX: Final = 500_000
"""In all pasts that are remembered: 8 MB."""
_KEY_BYTES: Final = 16
"""Of an id: nobody finds two that begin alike."""
_Keys = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True)
class _Past:
    keys: _Keys
    """The beginnings of the ids of all that lies behind, sorted."""
    absent: frozenset[bytes]
    """What is named and was not here: where a line ends as long as it is not."""

    def holds(self, identity: bytes) -> bool:
        key = np.frombuffer(identity[:_KEY_BYTES], self.keys.dtype)
        place = int(np.searchsorted(self.keys, key)[0])
        return place < len(self.keys) and bool(self.keys[place] == key[0])


class Pasts:
    """The pasts of the revisions that were asked about last. Any number of threads may ask."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: OrderedDict[bytes, _Past] = OrderedDict()
        self._lock = new_lock()
        self._walking = new_lock()
        """One long walk at a time: the next may find that it was about the same."""

    def is_ancestor(self, old: bytes, new: bytes) -> bool:
        """Return whether `old` is `new` or lies behind it, as ancestry.is_ancestor does."""
        found = walk_back(self._source, old, new, steps_max=NEAR_STEPS)
        if found is not None:
            return found
        with self._walking:
            past = self._get(new)
            if past is None:
                past = self._walk(new)
                self._keep(new, past)
        return past.holds(old)

    def _get(self, new: bytes) -> _Past | None:
        with self._lock:
            past = self._known.get(new)
            if past is not None:
                self._known.move_to_end(new)
        if past is not None and any(find_revision(self._source, identity) is not None for identity in past.absent):
            return None  # it came meanwhile, and more lies behind it
        return past

    def _keep(self, new: bytes, past: _Past) -> None:
        with self._lock:
            self._known[new] = past
            while len(self._known) > 1 and sum(len(each.keys) for each in self._known.values()) > PAST_IDS_MAX:
                self._known.popitem(last=False)

    def _walk(self, new: bytes) -> _Past:
        """Walk back from a revision as far as there is anything, or to one whose past is known."""
        with self._lock:
            known = list(self._known)
        newest = find_revision(self._source, new)
        stack = [newest] if newest is not None else []
        met: set[bytes] = set()
        absent: set[bytes] = set()
        base: _Past | None = None
        while stack:
            child = stack.pop()
            for identity in child.parents:
                key = identity[:_KEY_BYTES]
                if key in met or (base is not None and base.holds(identity)):
                    continue
                met.add(key)
                if base is None and identity in known:
                    base = self._get(identity)
                    if base is not None:
                        continue  # what lies behind it was walked before
                parent = find_revision(self._source, identity)
                if parent is None:
                    absent.add(identity)
                elif parent.created_ns < child.created_ns:
                    stack.append(parent)
        keys = np.sort(np.frombuffer(b"".join(met), f"S{_KEY_BYTES}"))
        if base is None:
            return _Past(keys, frozenset(absent))
        return _Past(np.union1d(keys, base.keys), base.absent | absent)


assert _KEY_BYTES < OBJECT_ID_BYTES
