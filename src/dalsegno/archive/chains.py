"""Find the dumps that restore a state in the catalog (docs/formats/catalog.md, "Chains")."""

from dalsegno.archive.catalog import Catalog
from dalsegno.backup.chains import State
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import TIMES_KNOWN, parse_time_ns, show_time


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
        chain = catalog.chain_to(entry)
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
    chain = catalog.find_chain(key, at_ns)
    if not chain:
        known = catalog.dumps(key)
        if not known:
            raise NotFound(f"no dump of volume {volume!r} in the catalog: `dal history` shows what there is")
        raise NotFound(
            f"{volume}@{selector}: no usable dump at or before {show_time(at_ns)}; the oldest is of "
            f"{show_time(known[0].cloned_at_ns)}: `dal history {volume}` shows them"
        )
    return State(chain=tuple(chain), revision=chain[-1].revision)
