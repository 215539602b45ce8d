"""`dal merge`, `inspect`, `verify`."""

import argparse
import os
from pathlib import Path
from typing import BinaryIO

from dalsegno.actions import keep
from dalsegno.actions import merge as actions
from dalsegno.actions.trust import memory
from dalsegno.cli.door import open_dumps_house, open_house
from dalsegno.cli.dump import binary_output, note_value, output_path
from dalsegno.cli.known import absent_lines
from dalsegno.cli.streams import bytes_input
from dalsegno.cli.terminal import Terminal, as_json, show
from dalsegno.cli.words import Parser
from dalsegno.dumps.plan import describe
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, BadInput, Damaged, Refused
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import show_time

LISTED_MAX = 100


def add_merge(parser: Parser) -> None:
    """Define the arguments of `dal merge`."""
    parser.add_argument("-o", "--output", required=True, metavar="OUT|-")
    parser.add_argument(
        "dumps", nargs="+", metavar="DUMP", help="a full dump or an increment, then the increments that continue it"
    )
    parser.set_defaults(run=_merge)


def add_inspect(parser: Parser) -> None:
    """Define the arguments of `dal inspect`."""
    parser.add_argument("dumps", nargs="+", metavar="DUMP", type=Path)
    parser.set_defaults(run=_inspect)


class _PoolAlone(argparse.Action):
    """`--pool` without a path leaves the pool that was named before."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        if values is not None:
            setattr(namespace, self.dest, values)


def add_verify(parser: Parser) -> None:
    """Define the arguments of `dal verify`."""
    # `--pool` alone means: verify the pool. With a path behind it, that pool (the global option).
    parser.conflict_handler = "resolve"
    parser.add_argument_group("the pool").add_argument(
        "--pool",
        dest="pool_path",
        action=_PoolAlone,
        nargs="?",
        metavar="PATH",
        help="check the pool: PATH, or the one that other commands use; beside a DUMP only the key is taken from it",
    )
    parser.add_argument("dumps", nargs="*", metavar="DUMP|-")
    parser.add_argument("--salvage", metavar="OUT", help="write a dump of everything intact in a damaged one")
    parser.set_defaults(run=_verify)


def _merge(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if len(arguments.dumps) < 2:
        raise BadInput("nothing to merge: name a dump and the increments that continue it, oldest first")
    output: Path | BinaryIO = binary_output(terminal) if arguments.output == "-" else output_path(arguments.output)
    with open_dumps_house(arguments, terminal, arguments.dumps[0]) as house:
        note, size_bytes = actions.merge(house, [Path(dump) for dump in arguments.dumps], output)
    if arguments.output == "-":
        return EXIT_DONE
    value = {"path": arguments.output, "bytes": size_bytes, **note_value(note)}
    made = f"level {note.level} of {note.volume_name}, merged from {count_of(len(arguments.dumps), 'dump')}"
    lines = [arguments.output, f"  {made}, {format_size(size_bytes)}"]
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _inspect(arguments: argparse.Namespace, terminal: Terminal) -> int:
    values, lines = [], []
    with open_dumps_house(arguments, terminal, arguments.dumps[0]) as house:
        for path in arguments.dumps:
            facts = actions.inspect(house, path)
            note = facts.note
            values.append(
                {
                    "path": facts.path,
                    "dump": facts.dump_id.hex(),
                    "realm": facts.realm.hex(),
                    "sealed": facts.sealed,
                    "bytes": facts.size_bytes,
                    "objects": facts.object_count,
                    "blocks": facts.block_count,
                    **note_value(note),
                }
            )
            rows = [
                ["lineage", describe(note, facts.dump_id)],
                ["taken", show_time(note.taken_at_ns)],
                ["realm", hex_short(facts.realm) + (", sealed" if facts.sealed else ", not sealed")],
                ["size", f"{format_size(facts.size_bytes)}, {count_of(facts.object_count, 'object')}"],
            ]
            if note.merged:
                rows.append(["merged from", ", ".join(hex_short(merged) for merged in note.merged)])
            rows += [
                [
                    "carries",
                    f"{target.clone or '-'}  #{hex_short(target.revision)}  {show_time(target.created_ns)}  "
                    f"{count_of(target.entry_count, 'entry', 'entries')}  {format_size(target.total_bytes)}",
                ]
                for target in note.targets
            ]
            lines += [show(facts.path), *[f"  {line}" for line in terminal.table(rows)]]
    terminal.result(values if len(values) > 1 else values[0], lines)
    return EXIT_DONE


def _verify(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.pool_path and os.path.isfile(arguments.pool_path):
        file = arguments.pool_path
        raise BadInput(f"--pool {file}: a file, and a pool is a directory: `dal verify {file}` checks a dump")
    if arguments.salvage is not None:
        return _salvage(arguments, terminal)
    if not arguments.dumps:
        return _verify_pool(arguments, terminal)
    findings: dict[str, list[str]] = {}
    with open_dumps_house(arguments, terminal, arguments.dumps[0]) as house:
        for dump in arguments.dumps:
            findings[dump] = actions.verify(house, bytes_input() if dump == "-" else Path(dump))
    lines = []
    for dump, texts in findings.items():
        lines += [f"{show(dump)}: whole"] if not texts else [f"{show(dump)}: DAMAGED", *[f"  {text}" for text in texts]]
    value = [{"dump": dump, "whole": not texts, "findings": texts} for dump, texts in findings.items()]
    terminal.result(value if len(value) > 1 else value[0], lines)
    return Damaged.exit_code if any(findings.values()) else EXIT_DONE


def _verify_pool(arguments: argparse.Namespace, terminal: Terminal) -> int:
    differences: list[str] = []
    with open_house(arguments, terminal, differs=differences.append) as house:
        findings = list(keep.verify_pool(house))
        notes = absent_lines(memory(house))
        path = house.pool.place
    damaged = any(finding.severity == "error" for finding in findings)
    lines = [f"{finding.severity}: {finding.where}: {finding.text}" for finding in findings]
    lines += [f"differs: {show(text)}" for text in differences] + [f"note: {text}" for text in notes]
    verdict = "DAMAGED" if damaged else "whole, but not as it was seen here" if differences else "whole"
    lines.append(f"{path}: {verdict}")
    shown = [as_json(finding) for finding in findings]
    terminal.result({"pool": path, "whole": not damaged, "findings": shown, "differences": differences}, lines)
    return Damaged.exit_code if damaged else Refused.exit_code if differences else EXIT_DONE


def _salvage(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if len(arguments.dumps) != 1 or arguments.dumps[0] == "-":
        raise BadInput("--salvage OUT: name the one damaged dump file")
    with open_dumps_house(arguments, terminal, arguments.dumps[0]) as house:
        outcome = actions.salvage(house, Path(arguments.dumps[0]), Path(arguments.salvage))
    saved, lost = outcome.saved, outcome.lost
    lines = [f"{arguments.salvage}: saved {count_of(saved.object_count, 'object')}"]
    lines += [f"  lost: {text}" for text in saved.damaged]
    if lost:
        lines.append(f"  of its newest state, {count_of(len(lost), 'file or directory', 'files and directories')}:")
        lines += [f"    {show(path) or 'all of it'}: {text}" for path, text in lost[:LISTED_MAX]]
    if len(lost) > LISTED_MAX:
        lines.append(f"    and {len(lost) - LISTED_MAX:,} more (--json lists all)")
    if not outcome.is_complete:
        lines.append("  which files these were is not known: restore the chain with it, what is missing is listed")
    terminal.result(
        {
            "path": arguments.salvage,
            "objects": saved.object_count,
            "damaged": saved.damaged,
            "lost": [{"path": path, "error": text} for path, text in lost],
            "lost_is_complete": outcome.is_complete,
        },
        lines,
    )
    return Damaged.exit_code if saved.damaged else EXIT_DONE
