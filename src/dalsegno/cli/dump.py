"""`dal dump`, `mark`, `estimate`."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from dalsegno.actions import dump as actions
from dalsegno.actions.view import named
from dalsegno.chunks.recipients import check_recipient
from dalsegno.cli.door import open_dumps_house, open_volumes
from dalsegno.cli.streams import bytes_output
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.volume import dump_value
from dalsegno.cli.words import Parser
from dalsegno.dumps.estimate import Estimate
from dalsegno.dumps.plan import LEVEL_MAX, list_records
from dalsegno.formats.pack_header import DumpNote
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, BadInput
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time
from dalsegno.volumes.records import DumpRecord
from dalsegno.world.files import file_errors


def level(text: str) -> int:
    """Return a dump level from its word."""
    if not text.isdecimal() or int(text) > LEVEL_MAX:
        raise argparse.ArgumentTypeError(f"level {text!r}: expected 0 to {LEVEL_MAX}")
    return int(text)


def add_dump(parser: Parser) -> None:
    """Define the arguments of `dal dump`."""
    parser.add_argument("address", metavar="VOLUME[@CLONE[..@CLONE]]", help="a range contains every clone in it")
    parser.add_argument(
        "-l", "--level", type=level, metavar="N", help="0 to 9 (default: 0 first, then one above the last)"
    )
    parser.add_argument("-o", "--output", metavar="FILE|-", help="default: VOLUME.CLONE.LEVEL.dump here")
    parser.add_argument(
        "-r",
        "--recipient",
        action="append",
        default=[],
        metavar="KEY",
        help="a public key, age1... or `ssh-ed25519 ...`: its owner opens the dump with the private key (--key FILE); "
        "again for more; a full dump that is not recorded, unless -l says a level",
    )
    parser.add_argument(
        "--recipients-file", action="append", default=[], type=Path, metavar="FILE", help="public keys, one per line"
    )
    parser.add_argument("--no-record", action="store_true", help="do not base later dumps on it (see dal mark)")
    parser.add_argument("--force", action="store_true", help="replace a dump that others build on; those are forgotten")
    parser.set_defaults(run=_dump)


def add_mark(parser: Parser) -> None:
    """Define the arguments of `dal mark`."""
    parser.add_argument("dump", metavar="DUMP", help="a file; with --forget also the id of a lost one")
    parser.add_argument("--forget", action="store_true", help="the dump is lost: base no later one on it")
    parser.add_argument("--force", action="store_true", help="with --forget: even if others build on it")
    parser.set_defaults(run=_mark)


def add_estimate(parser: Parser) -> None:
    """Define the arguments of `dal estimate`."""
    parser.add_argument("address", metavar="VOLUME[@CLONE]")
    parser.add_argument("-l", "--level", type=level, action="append", metavar="N", help="repeatable; default: all")
    parser.set_defaults(run=_estimate)


def binary_output(terminal: Terminal) -> BinaryIO:
    """Return standard output for a dump's bytes; a terminal is refused."""
    if sys.stdout.isatty():
        raise BadInput("a dump is not for a terminal: redirect the output or name a file with -o")
    if terminal.json:
        raise BadInput("--json and a dump cannot both go to the output: name a file with -o")
    return bytes_output()


def output_path(text: str) -> Path:
    """Return the place that -o names; BadInput for a directory that is not there, which no file shall be made of."""
    if text.endswith("/") and not Path(text).is_dir():
        raise BadInput(f"{text}: no such directory: make it first (mkdir), or name a file")
    return Path(text)


def note_value(note: DumpNote) -> dict[str, Any]:
    """Return a dump's lineage for programs."""
    return {
        "volume": note.volume_name,
        "volume_id": note.volume.hex(),
        "level": note.level,
        "targets": [
            {
                "revision": target.revision.hex(),
                "clone": target.clone or None,
                "created": format_time(target.created_ns),
                "entries": target.entry_count,
                "bytes": target.total_bytes,
            }
            for target in note.targets
        ],
        "bases": [base.hex() for base in note.bases],
        "base_dump": note.base_dump.hex() or None,
        "merged": [merged.hex() for merged in note.merged],
        "taken": format_time(note.taken_at_ns),
        "taken_ns": note.taken_at_ns,
    }


def read_recipients(given: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Return the public keys that were named and those in files: one a line, # begins a comment."""
    found = [check_recipient(text.strip()) for text in given]
    for path in files:
        with file_errors(path):
            lines = path.read_text(errors="replace").splitlines()
        keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise BadInput(f"{path}: holds no public key")
        found += [check_recipient(key) for key in keys]
    return list(dict.fromkeys(found))


def _dump(arguments: argparse.Namespace, terminal: Terminal) -> int:
    output: Path | BinaryIO | None = None
    if arguments.output == "-":
        output = binary_output(terminal)
    elif arguments.output is not None:
        output = output_path(arguments.output)
    recipients = read_recipients(arguments.recipient, arguments.recipients_file)
    if recipients and arguments.level is None:  # who gets one dump has none of those below it
        arguments.level, arguments.no_record = 0, True
    with open_volumes(arguments, terminal, arguments.address) as house:
        if house.volumes.merges:
            replica = import_module("dalsegno.cli.replica")
            code: int = replica.dump_from_server(arguments, terminal, house, output, recipients=recipients)
            return code
        with named(arguments.address):
            result = actions.dump(
                house,
                arguments.address,
                level=arguments.level,
                output=output,
                record=not arguments.no_record,
                force=arguments.force,
                recipients=recipients,
            )
    note = result.note
    if arguments.output == "-":
        terminal.note(f"level {note.level} of {note.volume_name}, {format_size(result.size_bytes)}")
        return EXIT_DONE
    value = {
        "path": result.path,
        "dump": result.dump_id.hex(),
        "bytes": result.size_bytes,
        "objects": result.object_count,
        "recorded": result.recorded,
        "forgotten": [dump_value(record) for record in result.useless],
        **note_value(note),
    }
    base = f"on dump {hex_short(note.base_dump)}" if note.base_dump else "full"
    lines = [
        _shown_path(result.path, arguments.output),
        f"  dump {hex_short(result.dump_id)}: level {note.level} of {note.volume_name}, {base}, "
        + format_size(result.size_bytes)
        + ("" if result.recorded else "; not recorded, `dal mark` does it"),
        *useless_lines(result.useless),
    ]
    if terminal.verbose:
        counts = [count_of(len(note.targets), "revision"), count_of(result.object_count, "object")]
        lines.append(f"  {', '.join(counts)}; {result.path}")
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _shown_path(path: str, given: str | None) -> str:
    """Return a dump's place as the person named it: seen from the current directory, unless named from the root."""
    return path if given is not None and os.path.isabs(given) else os.path.relpath(path)


def useless_lines(useless: Sequence[DumpRecord]) -> list[str]:
    """Return what to say of dumps that can be restored no more, because what they build on is gone."""
    return [f"  useless now, and forgotten: {list_records([record])}" for record in useless]


def _mark(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.force and not arguments.forget:
        raise BadInput("--force belongs to --forget")
    with open_dumps_house(arguments, terminal, arguments.dump) as house:
        if arguments.forget:
            state, gone = actions.forget_named(house, arguments.dump, force=arguments.force)
            lines = [f"forgotten: level {gone[0].level} of {state.name}, dump {hex_short(gone[0].dump_id)}"]
            value = {"volume": state.name, "forgotten": [dump_value(record) for record in gone]}
            terminal.result(value, lines + useless_lines(gone[1:]))
            return EXIT_DONE
        state, record = actions.mark(house, Path(arguments.dump))
    lines = [f"recorded: level {record.level} of {state.name}, dump {hex_short(record.dump_id)}"]
    terminal.result({"volume": state.name, **dump_value(record)}, lines)
    return EXIT_DONE


def _alike(estimates: Sequence[Estimate]) -> list[tuple[Estimate, Estimate]]:
    """Return the first and the last of each run of neighbours that are alike but for their level."""
    runs: list[tuple[Estimate, Estimate]] = []
    for one in estimates:
        if runs and replace(runs[-1][1], level=one.level) == one and one.level == runs[-1][1].level + 1:
            runs[-1] = (runs[-1][0], one)
        else:
            runs.append((one, one))
    return runs


def _estimate(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.address) as house:
        levels = arguments.level or range(LEVEL_MAX + 1)
        if house.volumes.merges:
            remote = import_module("dalsegno.actions.remote_dump")
            estimates: list[Estimate] = remote.estimate_remote(house, arguments.address, levels=levels)
        else:
            estimates = actions.estimate(house, arguments.address, levels=levels)
    values, rows = [], []
    for one in estimates:
        values.append(
            {
                "level": one.level,
                "possible": one.possible,
                "base_dump": one.base_dump.hex() or None,
                "objects": one.object_count,
                "bytes": one.raw_bytes,
            }
        )
    for first, last in _alike(estimates):
        levels = f"{first.level}" if first is last else f"{first.level} to {last.level}"
        what = [f"{first.object_count:,}", format_size(first.raw_bytes)] if first.possible else ["no base", ""]
        rows.append([levels, *what, hex_short(first.base_dump) if first.base_dump else ""])
    terminal.result(values, terminal.listing(["level", "objects", "before compression", "on dump"], rows, right=(1, 2)))
    return EXIT_DONE
