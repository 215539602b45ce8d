"""Find the dumps that restore a state in the catalog (docs/formats/catalog.md, "Chains")."""

from typing import Final

from dalsegno.archive.catalog import Catalog
from dalsegno.backup.chains import State
from dalsegno.backup.records import DumpEntry, usable_copies
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import TIMES_KNOWN, parse_time_ns, show_time

CHAIN_DUMPS_MAX: Final = 64
CANDIDATES_READ: Final = 16
INSTANT_NS_MAX: Final = 2**63 - 1
"""What a column of the catalog holds."""


def find_state(catalog: Catalog, volume: str, selector: str, *, now_ns: int, volume_id: bytes | None = None) -> State:
    """Return the state that `volume@selector` names: a clone, `#` and a revision, a time, or the newest.

    With `volume_id`, dumps of that volume count under whatever name it had. NotFound says what the catalog has.
    """
    key = volume_id or volume
    if selector.startswith("#"):
        candidates = [(entry, entry.revision) for entry in catalog.find_revision(key, selector[1:])]
    elif selector in ("", "latest"):
        candidates = []
    else:
        candidates = catalog.find_clone(key, selector)
    for entry, revision in candidates:
        chain = chain_to(catalog, entry)
        if chain:
            return State(chain=tuple(chain), revision=revision)
    if candidates:
        entry = candidates[0][0]
        raise NotFound(
            f"{volume}@{selector}: dump {hex_short(entry.dump_id)} carries it, but it or a dump below it has no usable "
            "copy left: `dal catalog check` looks at the media again"
        )
    # The newest is the newest also by a clock that was set back: media come back on machines whose clocks are wrong.
    newest = max((entry.cloned_at_ns for entry in catalog.dumps(key)), default=now_ns)
    at_ns = max(now_ns, newest) if selector in ("", "latest") else parse_time_ns(selector, now_ns=now_ns)
    if at_ns is None:
        raise NotFound(
            f"no clone {volume}@{selector} in pool or catalog, and {selector!r} is not a time either (times are like "
            f"{TIMES_KNOWN}): `dal history {volume}` shows the dumps"
        )
    chain = find_chain(catalog, key, at_ns)
    if not chain:
        known = catalog.dumps(key)
        if not known:
            raise NotFound(f"no dump of volume {volume!r} in the catalog: `dal history` shows what there is")
        raise NotFound(
            f"{volume}@{selector}: no usable dump at or before {show_time(at_ns)}; the oldest is of "
            f"{show_time(known[0].cloned_at_ns)}: `dal history {volume}` shows them"
        )
    return State(chain=tuple(chain), revision=chain[-1].revision)


def find_chain(catalog: Catalog, volume: str | bytes, at_ns: int, *, only_with_copies: bool = True) -> list[DumpEntry]:
    """Return the dumps that restore a volume's newest state at or before `at_ns`, the full one first.

    With `only_with_copies`, dumps without a usable copy do not count: another dump of the same state is taken, or an
    older state. Empty when there is none.
    """
    at_most = max(-INSTANT_NS_MAX, min(INSTANT_NS_MAX, at_ns))
    skip: list[bytes] = []
    while True:
        tops = catalog.newest(volume, at_most, skip=skip, count_max=CANDIDATES_READ)
        if not tops:
            return []
        for top in tops:
            chain = chain_to(catalog, top, only_with_copies=only_with_copies)
            if chain:
                return chain
        at_most = tops[-1].cloned_at_ns
        skip = [top.dump_id for top in tops if top.cloned_at_ns == at_most] + (
            skip if tops[0].cloned_at_ns == at_most else []
        )


def chain_to(catalog: Catalog, top: DumpEntry, *, only_with_copies: bool = True) -> list[DumpEntry]:
    """Return the dumps that restore what `top` brings, the full one first; empty when one is missing."""
    return _chain_to(catalog, top, only_with_copies, set(), 0)


def _chain_to(
    catalog: Catalog, top: DumpEntry, only_with_copies: bool, tried: set[bytes], depth: int
) -> list[DumpEntry]:
    if depth >= CHAIN_DUMPS_MAX or top.dump_id in tried:
        return []
    tried.add(top.dump_id)
    if only_with_copies and not usable_copies(catalog.copies(top.dump_id)):
        return []
    if top.is_full:
        return [top]
    for base in _bases_of(catalog, top):
        below = _chain_to(catalog, base, only_with_copies, tried, depth + 1)
        if below:
            return [*below, top]
    return []


def _bases_of(catalog: Catalog, top: DumpEntry) -> list[DumpEntry]:
    """Return the dumps that bring the state `top` was made against: the one it names first, then the smallest."""
    found = catalog.carriers(top.base_revisions[0], taken_until_ns=top.taken_at_ns)
    others = [entry for entry in found if entry.dump_id != top.dump_id]
    return sorted(others, key=lambda entry: (entry.dump_id != top.base_dump, entry.level, entry.size_bytes))
