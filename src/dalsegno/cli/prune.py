"""`dal prune`."""

import argparse

from dalsegno.actions.plan import membership
from dalsegno.actions.prune import PruneResult, plan_prune, removal_name, run_prune
from dalsegno.cli.plan import removal_summary, removal_value
from dalsegno.cli.site import add_policy, coordinator, open_all, read_policy
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL
from dalsegno.terms.times import show_time
from dalsegno.world.clock import now_ns


def add_prune(parser: Parser) -> None:
    """Say what `dal prune` understands."""
    add_policy(parser)
    parser.add_argument("--dry-run", action="store_true", help="only show what would go")
    parser.add_argument("--wait", action="store_true", help="wait for another coordinator instead of ending")
    parser.set_defaults(run=_prune)


def _prune(arguments: argparse.Namespace, terminal: Terminal) -> int:
    policy = read_policy(arguments)
    with coordinator(policy, terminal, wait=arguments.wait), open_all(arguments, terminal, policy) as (house, site):
        states = house.volumes.list()
        members = membership(policy, states).members
        found = plan_prune(site, states, members, now_ns=now_ns())
        result = PruneResult() if arguments.dry_run else run_prune(house, site, found)
    shown = found.removals if arguments.dry_run else result.removed
    lines = [f"{show_time(each.received_ns)}  {removal_name(each)}" for each in shown]
    for removal, text in result.waiting:
        lines.append(f"waits: {removal_name(removal)}: {text}")
    for removal, text in result.failed:
        terminal.fail(f"{removal_name(removal)}: {text}")
    word = "would remove" if arguments.dry_run else "removed"
    stay = ", ".join(f"{count:,} in {place}" for place, count in found.kept.items())
    lines.append(f"{word} {removal_summary(shown)}; {stay} stay")
    value = {
        "dry_run": arguments.dry_run,
        "removed": [removal_value(each) for each in shown],
        "waiting": [{**removal_value(each), "why": text} for each, text in result.waiting],
        "failed": [{**removal_value(each), "error": text} for each, text in result.failed],
        "kept": dict(found.kept),
    }
    terminal.result(value, lines)
    return EXIT_PARTIAL if result.failed else EXIT_DONE
