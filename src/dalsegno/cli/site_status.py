"""The status of a site: lines for people, JSON for programs, a line for monitors, metrics for Prometheus."""

import argparse
from typing import Any, Final

from dalsegno.actions.heal import damage_lines
from dalsegno.actions.status import SiteStatus, status
from dalsegno.archive.installation import Installation
from dalsegno.backup.days import day_name, local_day
from dalsegno.backup.members import choose_sets
from dalsegno.backup.metrics import metrics_text
from dalsegno.backup.records import GOOD
from dalsegno.backup.status import CRITICAL, OK, STATES, WARNING, VolumeStatus, nagios_line, worst
from dalsegno.cli.site import open_all, policy_choice, policy_realm, read_policy
from dalsegno.cli.status import paint
from dalsegno.cli.terminal import Terminal, show_line
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import DalError
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import SECOND_NS, format_time, show_minute, show_time
from dalsegno.world.clock import now_ns
from dalsegno.world.files import write_durable

COLOURS: Final = {OK: 32, WARNING: 33, CRITICAL: 31}
EXIT_UNKNOWN: Final = 3
HOUR_NS: Final = 3600 * SECOND_NS


def age_words(age_ns: int) -> str:
    """Return how long ago something was: `5 h`, `3 days`."""
    hours = age_ns // HOUR_NS
    if hours < 1:
        return "just now"
    if hours < 48:
        return f"{hours} h ago"
    return f"{hours // 24} days ago"


def site_status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Run `dal status` for a site."""
    try:
        return _site_status(arguments, terminal)
    except DalError as error:
        if not arguments.check:
            raise
        print(show_line(f"DALSEGNO UNKNOWN - {' '.join(str(error).split())}"))
        return EXIT_UNKNOWN


def _site_status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    policy = read_policy(arguments)
    wanted = choose_sets(policy, arguments.sets) if arguments.sets else list(policy.sets)
    at_ns = now_ns()
    with open_all(arguments, terminal, policy) as (house, site):
        states = house.volumes.list()
        found = status(site, states, now_ns=at_ns, report=terminal.report)
        damaged = damage_lines(house.pool, states) + list(found.bad_labels)
        terminal.met_damage |= bool(found.bad_labels)
        sets = [each for each in found.sets if each.name in wanted]
        if arguments.prometheus is not None:
            text = metrics_text(sets, last_run=found.last_run, media=found.media, here=found.media_here, now_ns=at_ns)
            write_durable(arguments.prometheus, text.encode(), mode=0o644)
            for line in found.bad_labels:
                terminal.fail(line)
        if arguments.check:
            print(show_line(nagios_line(sets) + (f"; DAMAGED: {damaged[0]}" if damaged else "")))
            return max(STATES.index(worst(each.state for each in sets)), 1 if damaged else 0)
        lines = [] if arguments.prometheus is not None else _lines(site, found, wanted, terminal, at_ns=at_ns)
        lines += [f"DAMAGED: {line}" for line in damaged] if lines else []
        value = {**_value(found, wanted), "damaged": damaged}
        if policy_realm(arguments, policy) is None:
            choice = policy_choice(arguments, policy)
            value |= {"pool": choice.pool, "why": choice.why, "others": choice.others}
            lines += [str(choice)] if lines else []
        terminal.result(value, lines)
    return terminal.done()


def _lines(site: Installation, found: SiteStatus, wanted: list[str], terminal: Terminal, *, at_ns: int) -> list[str]:
    lines: list[str] = []
    for each in found.sets:
        if each.name not in wanted:
            continue
        rows = [_row(site, volume, at_ns=at_ns) for volume in each.volumes]
        good = sum(volume.state == OK for volume in each.volumes)
        shrunk = sum(volume.shrunk_from is not None for volume in each.volumes)
        lost = f", {shrunk} lost most of {'its' if shrunk == 1 else 'their'} files" if shrunk else ""
        volumes = count_of(len(each.volumes), "volume")
        be = "is" if good == 1 else "are"
        lines.append(f"{paint('●', COLOURS[each.state])} {each.name}: {good} of {volumes} {be} well{lost}")
        head = ["  volume", "last good backup", "", "level", "copies", "last drill", "next"]
        # Coloured words would be counted as wide as their codes: the table is made first, then painted.
        table = terminal.table([head, *rows]) if rows else ["  no volume yet"]
        lines.append(table[0])
        for volume, line in zip(each.volumes, table[1:], strict=False):
            lines.append(line if volume.state == OK else paint(line, COLOURS[volume.state]))
            lines += [paint(f"      {text}", COLOURS[volume.state]) for text in volume.problems]
            if volume.shrunk_from is not None:
                lines.append(f"      when that is right: dal backup --accept-shrunk {volume.volume}")
                lines.append(f"      when its directory is gone for good: dal volume set {volume.volume} --source none")
        lines.append("")
    if found.outside:
        lines.append(f"in no set, so not backed up: {', '.join(found.outside)}")
    run = found.last_run
    if run is None:
        lines.append("no run yet: `dal backup --set all`")
    else:
        ended = f"ended {show_time(run.ended_ns)}" if run.ended_ns else "not ended: it goes on, or was killed"
        lines.append(f"last run: began {show_time(run.started_ns)}, {ended}")
    if found.open_job_count:
        lines.append(f"begun and not ended: {count_of(found.open_job_count, 'volume')}; the next run goes on there")
    lines += _room_lines(found, at_ns=at_ns)
    return lines


def _room_lines(found: SiteStatus, *, at_ns: int) -> list[str]:
    """Say when a run last gave back room, and how much waits."""
    if found.collected is None:
        return []
    made = found.collected.report["collected"]
    line = f"room: {format_size(made['freed_bytes'])} given back {age_words(at_ns - found.collected.started_ns)}"
    waiting = sum(each["bytes"] for each in made["releases"])
    if waiting:
        line += f", {format_size(waiting)} wait for a later run"
    return [line]


def _row(site: Installation, volume: VolumeStatus, *, at_ns: int) -> list[str]:
    last, drill = volume.last, volume.last_drill
    today = local_day(at_ns, site.zone)
    drilled = "never"
    if drill is not None:
        drilled = age_words(at_ns - drill.ended_ns) + ("" if drill.verdict == GOOD else ", FAILED")
    coming = "" if volume.next_day is None else "today" if volume.next_day <= today else day_name(volume.next_day)
    return [
        f"  {volume.volume}",
        show_minute(last.made_ns) if last is not None else "none",
        age_words(at_ns - last.made_ns) if last is not None else "",
        ("clone" if not volume.has_dumps else str(last.level)) if last is not None else "",
        _where(volume),
        drilled,
        coming,
    ]


def _where(volume: VolumeStatus) -> str:
    if not volume.has_dumps:
        return "in the pool"
    return f"{volume.target_count} of {volume.targets_wanted}" if volume.targets_wanted else "in the spool"


def _value(found: SiteStatus, wanted: list[str]) -> dict[str, Any]:
    sets = [each for each in found.sets if each.name in wanted]
    return {
        "state": worst(each.state for each in sets),
        "sets": [
            {
                "set": each.name,
                "state": each.state,
                "volumes": [
                    {
                        "volume": volume.volume,
                        "state": volume.state,
                        "problems": list(volume.problems),
                        "source": "ok" if volume.shrunk_from is None else "shrunk",
                        "entries_before": volume.shrunk_from,
                        "last_good_backup": format_time(volume.last.made_ns) if volume.last else None,
                        "level": volume.last.level if volume.last and volume.has_dumps else None,
                        "dump": volume.last.dump_id.hex() if volume.last and volume.has_dumps else None,
                        "targets": volume.target_count,
                        "targets_wanted": volume.targets_wanted,
                        "last_drill": format_time(volume.last_drill.ended_ns) if volume.last_drill else None,
                        "last_drill_good": volume.last_drill.verdict == GOOD if volume.last_drill else None,
                    }
                    for volume in each.volumes
                ],
            }
            for each in sets
        ],
        "outside": list(found.outside),
        "last_run_started": format_time(found.last_run.started_ns) if found.last_run else None,
        "last_run_ended": format_time(found.last_run.ended_ns) if found.last_run and found.last_run.ended_ns else None,
        "open_jobs": found.open_job_count,
        "room": _room_value(found),
        "media_here": list(found.media_here),
    }


def _room_value(found: SiteStatus) -> dict[str, Any] | None:
    if found.collected is None:
        return None
    return {"given_back": format_time(found.collected.started_ns), **found.collected.report["collected"]}
