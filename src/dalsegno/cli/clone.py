"""`dal clone`, `clones`, `unclone`, `log`, `hold`, `unhold`."""

import argparse
import os
from itertools import islice
from typing import Any

from dalsegno.actions import clone as actions
from dalsegno.actions.browse import ordered_clones
from dalsegno.cli.backup import take_lines, take_value, tell_trouble
from dalsegno.cli.door import open_volumes
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import Parser
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, Damaged
from dalsegno.terms.events import Note
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time, show_minute, show_time
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.signed import known_signers, look_at_signature
from dalsegno.volumes.state import VolumeState

NAMES_SHOWN_MAX = 2


def add_clone(parser: Parser) -> None:
    """Define the arguments of `dal clone`."""
    parser.add_argument("volume", metavar="VOLUME[@TIME]")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the clone's name (default: the time)")
    parser.add_argument("--no-scan", action="store_true", help="name the newest state without scanning the source")
    parser.set_defaults(run=_clone)


def add_clones(parser: Parser) -> None:
    """Define the arguments of `dal clones`."""
    parser.add_argument("volumes", nargs="*", metavar="VOLUME", help="default: all volumes")
    parser.add_argument("--last", type=count, metavar="N", help="only the newest N of each volume")
    parser.set_defaults(run=_clones)


def add_unclone(parser: Parser) -> None:
    """Define the arguments of `dal unclone`."""
    parser.add_argument("clones", nargs="+", metavar="VOLUME@CLONE")
    parser.set_defaults(run=_unclone)


def count(text: str) -> int:
    """Return a count from its word."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"count {text!r}: expected 0 or more")
    return int(text)


def add_log(parser: Parser) -> None:
    """Define the arguments of `dal log`."""
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("-n", "--count", type=count, metavar="N", help="show only N")
    parser.set_defaults(run=_log)


def add_hold(parser: Parser) -> None:
    """Define the arguments of `dal hold`."""
    parser.add_argument("clone", metavar="VOLUME@CLONE")
    parser.set_defaults(run=_hold, held=True)


def add_unhold(parser: Parser) -> None:
    """Define the arguments of `dal unhold`."""
    parser.add_argument("clone", metavar="VOLUME@CLONE")
    parser.set_defaults(run=_hold, held=False)


def clone_value(volume: str, name: str, clone: Clone) -> dict[str, Any]:
    """Return what programs want to know about a clone."""
    return {
        "volume": volume,
        "clone": name,
        "revision": clone.revision.hex(),
        "created": format_time(clone.created_ns),
        "created_ns": clone.created_ns,
        "held": clone.held,
    }


def _clone(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.volume) as house:
        result = actions.clone(house, arguments.volume, arguments.name, scan=not arguments.no_scan)
        spread = getattr(house.volumes, "cloned", None)
    value = clone_value(result.volume, result.clone_name, result.clone)
    lines = [f"{result.volume}@{result.clone_name}"]
    if spread is not None:
        value["servers"] = list(spread.cloned)
        value["missing"] = sorted(spread.missing)
        value["pause_seconds"] = spread.pause_ns / 1e9
        pause = f"writers waited {spread.pause_ns / 1e6:.0f} ms"
        lines += [] if terminal.quiet else [f"  on {', '.join(spread.cloned)}; {pause}"]
    if result.taken is not None:
        value["taken"] = take_value(result.taken)
        lines += [] if terminal.quiet else take_lines(result.taken)
        tell_trouble(result.taken, terminal)
    terminal.result(value, lines)
    return EXIT_PARTIAL if result.taken is not None and result.taken.incomplete else EXIT_DONE


def _made(name: str, clone: Clone) -> str:
    """Return when a clone was made, unless that is its name already."""
    shown = show_time(clone.created_ns)
    # Names are made of times in UTC.
    return "" if shown.endswith("Z") and name.startswith(shown.replace(":", "")) else shown


def _clones(arguments: argparse.Namespace, terminal: Terminal) -> int:
    values: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    with open_volumes(arguments, terminal, *arguments.volumes) as house:
        names = arguments.volumes
        states = [house.volumes.get(name) for name in names] if names else house.volumes.list()
        for state in states:
            if not state.clones:
                terminal.note(f"volume {state.name}: no clones yet")
            listed = _listed(state, arguments.last, terminal)
            lost = house.pool.lacking(clone.revision for _, clone in listed) if house.pool.elsewhere is None else set()
            for name, clone in listed:
                known = _size_of(house.pool, state, name, clone, lost)
                if known is None:
                    text = "damaged: its revision cannot be read: `dal verify --pool` tells more"
                    path = f"{state.name}@{name}".encode(errors="surrogateescape")
                    terminal.report(Note(severity="notice", path=path, text=text, is_damage=True))
                if terminal.json:
                    entries, size = known or (None, None)
                    values.append({**clone_value(state.name, name, clone), "entries": entries, "bytes": size})
                else:
                    rows.append(_row(state.name, name, clone, known, verbose=terminal.verbose))
    if not states:
        terminal.note("no volumes yet: `dal backup DIR` makes one")
    headings = ["clone", "made", "entries", "size", "", *(["revision"] if terminal.verbose else [])]
    if any(row[1] for row in rows):
        lines = terminal.listing(headings, rows, right=(2, 3))
    else:  # each name is its time
        lines = terminal.listing([headings[0], *headings[2:]], [(row[0], *row[2:]) for row in rows], right=(1, 2))
    terminal.result(values, lines)
    return terminal.done()


def _row(volume: str, name: str, clone: Clone, known: tuple[int, int] | None, *, verbose: bool) -> tuple[str, ...]:
    """Return a clone as it is shown; `known` are its entries and bytes, None for one that is lost."""
    entries, size, text = "", "", "LOST"
    if known is not None:
        entries, size, text = f"{known[0]:,}", format_size(known[1]), "held" if clone.held else ""
    row = (f"{volume}@{name}", _made(name, clone), entries, size, text)
    return (*row, "#" + hex_short(clone.revision)) if verbose else row


def _listed(state: VolumeState, last: int | None, terminal: Terminal) -> list[tuple[str, Clone]]:
    """Return the clones to show, oldest first; what of their table cannot be read is said."""
    if last is not None:
        return list(islice(state.clones.newest_first(), last))[::-1]
    try:
        return ordered_clones(state)
    except Damaged:
        found, errors = state.clones.salvage()
        text = (
            f"the table of its clones is damaged, {len(state.clones) - len(found):,} of {len(state.clones):,} are not "
            f"shown: {errors[0]}: `dal verify --pool` tells more"
        )
        label = state.name.encode(errors="surrogateescape")
        terminal.report(Note(severity="error", path=label, text=text, is_damage=True))
        return found


def _size_of(pool: Pool, state: VolumeState, name: str, clone: Clone, lost: set[bytes]) -> tuple[int, int] | None:
    """Return how many entries and bytes are in a clone, or None when it is lost.

    What lies further back says so itself; whether it can be read `dal verify` tells.
    """
    is_far_back = name not in state.clones.newest and clone.revision not in lost
    if is_far_back and clone.entry_count is not None and clone.total_bytes is not None:
        return clone.entry_count, clone.total_bytes
    revision = find_revision(pool, clone.revision)
    return (revision.entry_count, revision.total_bytes) if revision is not None else None


def _unclone(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, *arguments.clones) as house:
        removed = [actions.unclone(house, text) for text in arguments.clones]
    lines = [f"forgot {volume}@{name}" for volume, name, _ in removed]
    terminal.result([clone_value(*each) for each in removed], lines)
    return EXIT_DONE


def _log(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.volume) as house:
        state = house.volumes.get(arguments.volume)
        names: dict[bytes, list[str]] = {}
        for name, clone in ordered_clones(state):
            names.setdefault(clone.revision, []).append(name)
        values, rows = [], []
        signers = known_signers(house.pool, house.signer)
        for identity, revision in islice(house.volumes.log(state), arguments.count):
            clones = names.get(identity, [])
            signature = look_at_signature(revision, signers)
            values.append(
                {
                    "revision": identity.hex(),
                    "parents": [parent.hex() for parent in revision.parents],
                    "created": format_time(revision.created_ns),
                    "created_ns": revision.created_ns,
                    "author": revision.author,
                    "signature": signature.value(),
                    "message": revision.message,
                    "entries": revision.entry_count,
                    "bytes": revision.total_bytes,
                    "clones": clones,
                }
            )
            rows.append(
                [
                    "#" + hex_short(identity),
                    show_minute(revision.created_ns),
                    format_size(revision.total_bytes),
                    show(signature.words(revision.author)),
                    show(revision.message if terminal.verbose else _short(revision.message, state)),
                    _some(clones),
                ]
            )
    if not rows:
        terminal.note(f"volume {arguments.volume}: no revisions yet")
    headings = ["revision", "made", "size", "by", "message", "clones"]
    terminal.result(values, terminal.listing(headings, rows, right=(2,)))
    return terminal.done()


def _short(message: str, state: VolumeState) -> str:
    """Return a revision's message without the directory that the volume follows anyway."""
    return message.removesuffix(f" {os.fsdecode(state.source)}") if state.source else message


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more


def _hold(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.clone) as house:
        volume, name, clone = actions.set_held(house, arguments.clone, held=arguments.held)
    terminal.result(clone_value(volume, name, clone), [f"{volume}@{name} is {'held' if clone.held else 'not held'}"])
    return EXIT_DONE
