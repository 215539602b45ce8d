"""`dal prune`: retention by the policy, or of some volumes' clones by rules of the command line."""

import argparse
from zoneinfo import ZoneInfo

from dalsegno.actions.plan import membership
from dalsegno.actions.prune import PruneResult, find_removals, run_prune
from dalsegno.backup.policy import Keep
from dalsegno.backup.prune_plan import ARCHIVE, CLONES, SPOOL, PrunePlan, plan_clones, removal_name
from dalsegno.cli.clone import count
from dalsegno.cli.door import open_volumes
from dalsegno.cli.plan import removal_summary, removal_value
from dalsegno.cli.site import add_policy, coordinator, open_all, read_policy
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, NotFound
from dalsegno.terms.times import parse_duration_seconds, show_time
from dalsegno.world.clock import now_ns
from dalsegno.world.zones import local_zone_name

KEEP_COUNTS = {
    "last": "the newest N",
    "hourly": "the newest of each of N hours that have one",
    "daily": "the same of days",
    "weekly": "of weeks",
    "monthly": "of months",
    "quarterly": "of quarters",
    "yearly": "of years",
}

_KEPT = {
    CLONES: ("clone",),
    SPOOL: ("dump in the spool", "dumps in the spool"),
    ARCHIVE: ("dump in the archive", "dumps in the archive"),
}


def add_prune(parser: Parser) -> None:
    """Define the arguments of `dal prune`."""
    add_policy(parser)
    parser.add_argument("volumes", nargs="*", metavar="VOLUME", help="remove their clones by --keep rules")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what would be removed")
    parser.add_argument("--wait", action="store_true", help="wait for another coordinator instead of failing")
    rules = parser.add_argument_group("rules for VOLUME, whatever a policy says: a clone stays when any keeps it")
    for name, text in KEEP_COUNTS.items():
        rules.add_argument(f"--keep-{name}", type=count, default=0, metavar="N", help=text)
    rules.add_argument("--keep-within", metavar="TIME", help="keep what is at most TIME older than the newest: 30d")
    rules.add_argument("--named", action="store_true", help="also clones named by a user; otherwise they are kept")
    parser.set_defaults(run=_prune)


def _keep(arguments: argparse.Namespace) -> Keep:
    within = parse_duration_seconds(arguments.keep_within) if arguments.keep_within else 0
    return Keep(within_seconds=within, **{name: getattr(arguments, f"keep_{name}") for name in KEEP_COUNTS})


def _prune(arguments: argparse.Namespace, terminal: Terminal) -> int:
    keep = _keep(arguments)
    if arguments.volumes:
        if keep.everything:
            raise BadInput("which clones stay? Give a rule, for example --keep-daily 7 --keep-weekly 4")
        return _prune_volumes(arguments, terminal, keep)
    if not keep.everything or arguments.named:
        raise BadInput("of which volumes? `dal prune VOLUME --keep-daily 7`; without rules the policy's count")
    try:
        policy = read_policy(arguments)
    except NotFound as error:
        raise NotFound(f"{error}; without a policy: `dal prune VOLUME --keep-daily 7`") from None
    with coordinator(policy, terminal, wait=arguments.wait), open_all(arguments, terminal, policy) as (house, site):
        states = house.volumes.list()
        members = membership(policy, states).members
        found = find_removals(site, states, members, now_ns=now_ns())
        result = PruneResult() if arguments.dry_run else run_prune(house, site, found)
    return _tell(found, result, arguments, terminal)


def _prune_volumes(arguments: argparse.Namespace, terminal: Terminal, keep: Keep) -> int:
    with open_volumes(arguments, terminal, arguments.volumes[0]) as house:
        states = [house.volumes.get(name) for name in dict.fromkeys(arguments.volumes)]
        zone = ZoneInfo(local_zone_name())
        found = plan_clones(states, keep, now_ns=now_ns(), zone=zone, named=arguments.named)
        result = PruneResult() if arguments.dry_run else run_prune(house, None, found)
    return _tell(found, result, arguments, terminal)


def _tell(found: PrunePlan, result: PruneResult, arguments: argparse.Namespace, terminal: Terminal) -> int:
    shown = found.removals if arguments.dry_run else result.removed
    lines = [f"{show_time(each.received_ns)}  {removal_name(each)}" for each in shown]
    for removal, text in result.waiting:
        lines.append(f"waits: {removal_name(removal)}: {text}")
    for removal, text in result.failed:
        terminal.fail(f"{removal_name(removal)}: {text}")
    word = "would remove" if arguments.dry_run else "removed"
    kept = ", ".join(count_of(count, *_KEPT[place]) for place, count in found.kept.items())
    lines.append(f"{word} {removal_summary(shown)}; what stays: {kept}")
    value = {
        "dry_run": arguments.dry_run,
        "removed": [removal_value(each) for each in shown],
        "waiting": [{**removal_value(each), "why": text} for each, text in result.waiting],
        "failed": [{**removal_value(each), "error": text} for each, text in result.failed],
        "kept": dict(found.kept),
    }
    terminal.result(value, lines)
    return EXIT_PARTIAL if result.failed else EXIT_DONE
