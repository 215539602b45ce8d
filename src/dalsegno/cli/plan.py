"""`dal plan`."""

import argparse
import shutil
from typing import Any

from dalsegno.actions.notify import find_sendmail
from dalsegno.actions.plan import SitePlan, outside_links, plan
from dalsegno.actions.policy import examine_policy
from dalsegno.backup.days import day_name, day_text
from dalsegno.backup.plan import BUSIEST_TO_MEAN_MAX
from dalsegno.backup.policy import Policy
from dalsegno.backup.prune_plan import ARCHIVE, CLONES, SPOOL, Removal, removal_name
from dalsegno.cli.site import add_policy, open_all, policy_place, read_policy
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import Parser
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, BadInput
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time
from dalsegno.world.clock import now_ns

DAYS_MAX = 3660
BAR_WIDTH = 24
BAR_WIDTH_MIN = 4
SHOWN_MAX = 10


def add_plan(parser: Parser) -> None:
    """Define the arguments of `dal plan`."""
    add_policy(parser)
    parser.add_argument("--days", type=int, default=30, metavar="N", help="how many days, from today (30)")
    parser.add_argument("--check", action="store_true", help="only check the policy, and list all mistakes")
    parser.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if not 1 <= arguments.days <= DAYS_MAX:
        raise BadInput(f"--days {arguments.days}: expected 1 to {DAYS_MAX}")
    if arguments.check:
        return _check(arguments, terminal)
    policy = read_policy(arguments)
    with open_all(arguments, terminal, policy) as (house, site):
        found = plan(house, site, day_count=arguments.days, now_ns=now_ns())
    terminal.result(_value(found), _lines(found, policy, terminal))
    return EXIT_DONE


def _check(arguments: argparse.Namespace, terminal: Terminal) -> int:
    path = policy_place(arguments)
    policy, problems = examine_policy(path)
    value = [{"file": str(each.path), "line": each.line, "key": each.key, "problem": each.text} for each in problems]
    lines = [str(each) for each in problems]
    links = outside_links(policy) if policy is not None else []
    if policy is not None:
        lines.append(f"{path}: no mistakes; {count_of(len(policy.sets), 'set')}")
        if policy.notify.mail_to and not policy.notify.smtp and find_sendmail() is None:
            text = "nobody will get mail: no sendmail on this machine; install a mail program, or write smtp"
            lines.append(f"{path}: notify.mail_to: {text}")
            value.append({"file": str(path), "key": "notify.mail_to", "problem": None, "note": text})
        lines += [f"left out: {link} is a link to {target}, which no source names" for link, target in links]
        value += [{"file": str(path), "problem": None, "left_out": link, "leads_to": target} for link, target in links]
    terminal.result(value, lines)
    return EXIT_DONE if policy is not None else BadInput.exit_code


def _value(found: SitePlan) -> dict[str, Any]:
    return {
        "days": [
            {
                "day": day_text(day.day),
                "bytes": day.size_bytes,
                "target_bytes": dict(day.target_bytes),
                "dumps": [
                    {
                        "volume": dump.volume,
                        "set": dump.set_name,
                        "level": dump.level,
                        "bytes": dump.size_bytes,
                        "reason": dump.reason,
                    }
                    for dump in day.dumps
                ],
            }
            for day in found.days
        ],
        "balance": {
            "mean_bytes": found.balance.mean_bytes,
            "busiest_bytes": found.balance.busiest_bytes,
            "busiest_day": day_text(found.balance.busiest_day) if found.balance.busiest_day else None,
            "busiest_to_mean": round(found.balance.busiest_to_mean, 3),
            "larger_than_a_day": list(found.balance.oversize),
        },
        "removals": [removal_value(removal) for removal in found.removals.removals],
        "kept": dict(found.removals.kept),
        "nothing_answers_to": list(found.membership.empty),
        "unknown_sizes": found.unknown_sizes,
    }


def removal_value(removal: Removal) -> dict[str, Any]:
    """Return what programs want to know about one removal."""
    return {
        "what": removal.place,
        "set": removal.set_name,
        "volume": removal.volume,
        "name": removal.name,
        "level": removal.level,
        "received": format_time(removal.received_ns),
        "bytes": removal.size_bytes,
        "media": sorted({copy.medium for copy in removal.copies}),
    }


def removal_summary(removals: list[Removal]) -> str:
    """Return in words how much goes."""
    counts = {place: [each for each in removals if each.place == place] for place in (CLONES, SPOOL, ARCHIVE)}
    words = {CLONES: "clone%s", SPOOL: "dump%s in the spool", ARCHIVE: "dump%s in the archive"}
    parts = []
    for place, each in counts.items():
        if each:
            size = sum(removal.size_bytes for removal in each)
            counted = words[place] % ("" if len(each) == 1 else "s")
            parts.append(f"{len(each):,} {counted}" + (f" ({format_size(size)})" if size else ""))
    return ", ".join(parts) or "nothing"


def _lines(found: SitePlan, policy: Policy, terminal: Terminal) -> list[str]:
    days = found.days
    lines = [
        f"{policy.path}: {count_of(len(days), 'day')} from {day_name(days[0].day)} {day_text(days[0].day)[:4]}",
        "",
    ]
    targets = list(policy.targets)
    busiest = max(day.size_bytes for day in days) or 1
    bars: dict[int, float] = {}
    rows = [["", "fulls", "increments", "dumped", *targets, ""]]
    for day in days:
        fulls = sum(dump.level == 0 for dump in day.dumps)
        bars[len(rows)] = day.size_bytes / busiest
        rows.append(
            [
                day_name(day.day),
                str(fulls or ""),
                str(sum(bool(dump.level) for dump in day.dumps) or ""),
                format_size(day.size_bytes),
                *(format_size(day.target_bytes[target]) for target in targets),
                "",
            ]
        )
        if terminal.verbose:
            for dump in day.dumps:
                rows.append(["", "", "", "", *("" for _ in targets), _dump_words(dump.volume, dump)])
    figures = max(map(len, terminal.table([row[:-1] for row in rows])))
    bar_width = max(BAR_WIDTH_MIN, min(BAR_WIDTH, shutil.get_terminal_size().columns - figures - 4))
    for index, share in bars.items():
        rows[index][-1] = "#" * round(bar_width * share)
    lines += ["  " + line for line in terminal.table(rows, right=tuple(range(1, 4 + len(targets))))]
    lines.append("")
    level = found.balance
    if level.busiest_day:
        over = "" if level.busiest_to_mean <= BUSIEST_TO_MEAN_MAX else ", more than the 1.3 that can be hoped for"
        lines.append(
            f"busiest day: {day_name(level.busiest_day)}, {level.busiest_to_mean:.2f} times the mean of "
            f"{format_size(level.mean_bytes)}{over} (days with first fulls not counted)"
        )
    if level.oversize:
        lines.append(f"larger than a mean day, and so not evened out: {_some(level.oversize)}")
    if found.unknown_sizes:
        lines.append(f"size not known before the first backup, counted as nothing: {_some(found.unknown_sizes)}")
    if found.membership.empty:
        lines.append(f"named in the policy and not there: {_some(found.membership.empty)}")
    lines.append(f"retention removes by then: {removal_summary(found.removals.removals)}")
    if terminal.verbose:
        lines += [f"  {removal_name(removal)}" for removal in found.removals.removals]
    return lines


def _dump_words(volume: str, dump: Any) -> str:
    if dump.level is None:
        return f"{show(volume)}, {dump.reason}"
    return f"{show(volume)} level {dump.level}, {format_size(dump.size_bytes)}, {dump.reason}"


def _some(names: Any) -> str:
    shown = [show(name) for name in list(names)[:SHOWN_MAX]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
