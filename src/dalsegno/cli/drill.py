"""`dal drill`."""

import argparse

from dalsegno.actions.drill import drill
from dalsegno.actions.status import drill_candidates
from dalsegno.backup.drills import Candidate, choose_volumes, drill_line
from dalsegno.backup.members import choose_sets
from dalsegno.backup.records import GOOD
from dalsegno.cli.site import add_policy, open_all, policy_if_any, read_policy
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, DalError, Damaged, NotFound
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time
from dalsegno.volumes.address import parse_address, plain_name

FILES_DEFAULT = 20
FILES_MAX = 1_000_000


def add_drill(parser: Parser) -> None:
    """Define the arguments of `dal drill`."""
    add_policy(parser)
    parser.add_argument(
        "volumes", nargs="*", metavar="VOLUME[@DATE]", help="default: the ones whose last drill is oldest"
    )
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="NAME", help="only of this set")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many volumes to try (default 1)")
    parser.add_argument("--files", type=int, default=FILES_DEFAULT, metavar="N", help="how many files of each (20)")
    parser.add_argument("--whole", action="store_true", help="restore the whole volume, not a sample")
    parser.set_defaults(run=_drill)


def _drill(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if not 1 <= arguments.files <= FILES_MAX or arguments.count < 1:
        raise BadInput(f"--files and --count: expected 1 or more, and at most {FILES_MAX:,} files")
    values, lines, code = [], [], EXIT_DONE
    if policy_if_any(arguments) is None:
        raise NotFound(
            "no policy, so no media to try: `dal verify --pool` reads every byte of the pool, and "
            "`dal restore VOLUME --to DIR` tries a restore"
        )
    policy = read_policy(arguments)
    with open_all(arguments, terminal, policy) as (house, site):
        chosen_sets = choose_sets(policy, arguments.sets) if arguments.sets else []
        candidates = drill_candidates(site, house.volumes.list(), sets=chosen_sets)
        if arguments.volumes:
            known = {name: volume_id for volume_id, name in site.catalog.volumes()}
            in_sets = {each.volume_name: each for each in candidates}
            chosen = []
            for text in arguments.volumes:
                address = parse_address(text)
                name = plain_name(address.volume)
                if name not in known:
                    raise NotFound(f"no dump of volume {name!r} in the catalog: `dal history` shows all")
                one = in_sets.get(name) or Candidate(volume_id=known[name], volume_name=name, set_name="", last=None)
                chosen.append((one, address.selector or "latest"))
        else:
            chosen = [(one, "latest") for one in choose_volumes(candidates, count=arguments.count)]
        if not chosen:
            raise NotFound("no volume of the sets has a dump yet: `dal backup --set all` makes the first")
        for one, selector in chosen:
            count = None if arguments.whole else arguments.files
            try:
                made = drill(house, site, one, selector=selector, file_count=count)
            except DalError as error:
                if len(chosen) == 1:
                    raise
                terminal.fail(f"{one.volume_name}: {error}")
                code = EXIT_PARTIAL
                continue
            values.append(
                {
                    "volume": made.volume_name,
                    "set": made.set_name or None,
                    "dump": made.dump_id.hex(),
                    "kind": made.kind,
                    "files": made.file_count,
                    "bytes": made.total_bytes,
                    "verdict": made.verdict,
                    "findings": list(made.findings),
                    "media": list(made.media),
                    "ended": format_time(made.ended_ns),
                }
            )
            lines.append(drill_line(made, size=format_size(made.total_bytes)))
            if made.verdict != GOOD:
                code = Damaged.exit_code
    terminal.result(values, lines)
    return code
