"""The status of a pool without a policy: when each volume was backed up last, and what is wrong with that."""

import argparse
from typing import Any

from dalsegno.actions.heal import damage_lines
from dalsegno.backup.pool_status import VolumeAge, pool_line, volume_age, worst_state
from dalsegno.backup.status import STATES
from dalsegno.cli.choice import chosen
from dalsegno.cli.door import open_volumes
from dalsegno.cli.site_status import COLOURS, EXIT_UNKNOWN, age_words
from dalsegno.cli.status import paint
from dalsegno.cli.terminal import Terminal, show, show_line
from dalsegno.terms.errors import DalError
from dalsegno.terms.times import SECOND_NS, format_time, parse_duration_seconds, show_minute
from dalsegno.world.clock import now_ns


def pool_status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Show the volumes of a pool and their last backup; with `--check` one line for monitors."""
    at_ns = now_ns()
    max_age_ns = parse_duration_seconds(arguments.max_age) * SECOND_NS
    try:
        choice = chosen(arguments, about_volumes=True)
        with open_volumes(arguments, terminal) as house:
            pool, states = house.pool, house.volumes.list()
            path, encryption, damaged = pool.place, pool.encryption, damage_lines(pool, states)
    except DalError as error:
        if not arguments.check:
            raise
        print(show_line(f"DALSEGNO UNKNOWN - {' '.join(str(error).split())}"))
        return EXIT_UNKNOWN
    ages = [volume_age(state, now_ns=at_ns, max_age_ns=max_age_ns) for state in states]
    if arguments.check:
        print(show_line(pool_line(ages) + (f"; DAMAGED: {damaged[0]}" if damaged else "")))
        return max(STATES.index(worst_state(ages)), 1 if damaged else 0)
    headings = ["volume", "last clone", "", "clones", "last dump", *(["of"] if terminal.verbose else []), "source"]
    table = terminal.listing(headings, [_row(each, at_ns, terminal) for each in ages], right=(3,))
    lines = [str(choice) if choice.realm else f"{choice}; encryption: {encryption}"]
    lines += table[: len(table) - len(ages)]
    for each, line in zip(ages, table[len(table) - len(ages) :], strict=True):
        lines.append(line)
        lines += [paint(f"    {text}", COLOURS[each.state]) for text in each.problems]
    if not ages:
        lines.append("no volumes yet: `dal backup DIR` makes one")
    about = {"pool": path, "realm": choice.realm or None, "why": choice.why, "others": choice.others}
    lines += [f"DAMAGED: {line}" for line in damaged]
    value = {**about, "state": worst_state(ages), "volumes": list(map(_value, ages)), "damaged": damaged}
    terminal.result(value, lines)
    return terminal.done()


def _row(each: VolumeAge, at_ns: int, terminal: Terminal) -> list[str]:
    state = each.volume
    dumped = state.dumps[-1] if state.dumps else None
    return [
        state.name,
        show_minute(each.last[1].created_ns) if each.last else "none yet",
        age_words(at_ns - each.last[1].created_ns) if each.last else "",
        f"{len(state.clones):,}",
        f"level {dumped.level}" if dumped else "none",
        *([show_minute(dumped.taken_at_ns) if dumped else ""] if terminal.verbose else []),
        show(state.source),
    ]


def _value(each: VolumeAge) -> dict[str, Any]:
    state = each.volume
    dumped = state.dumps[-1] if state.dumps else None
    return {
        "volume": state.name,
        "kind": state.kind,
        "source": state.source or None,
        "clones": len(state.clones),
        "last_clone": each.last[0] if each.last else None,
        "last_clone_at": format_time(each.last[1].created_ns) if each.last else None,
        "last_dump_level": dumped.level if dumped else None,
        "last_dump_at": format_time(dumped.taken_at_ns) if dumped else None,
        "state": each.state,
        "problems": list(each.problems),
        "clones_of_the_future": each.future_count,
    }
