"""What a backup would read and store (`dal backup --dry-run`), or found changed (`dal backup -v`)."""

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

from dalsegno.actions.backup import TakeResult
from dalsegno.actions.browse import telling
from dalsegno.actions.preview import Preview, preview
from dalsegno.actions.rules import RulesChange
from dalsegno.actions.session import House
from dalsegno.cli.backup import left_out_lines, listed
from dalsegno.cli.browse import change_line, change_value
from dalsegno.cli.terminal import Terminal, show
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, NotFound
from dalsegno.terms.sizes import format_size
from dalsegno.trees.diff import diff_revisions
from dalsegno.trees.read import read_revision
from dalsegno.volumes.state import TRACKED

CHANGES_SHOWN_MAX = 100


def show_preview(arguments: argparse.Namespace, terminal: Terminal, rules: RulesChange, house: House | None) -> int:
    """Tell what `dal backup` with these words would do; without a house, what a first backup would."""
    values, lines, code = [], [], EXIT_DONE
    targets = arguments.what
    if not targets and house is not None:
        targets = [state.name for state in house.volumes.list() if state.kind == TRACKED]
    if not targets:
        raise NotFound("nothing to back up yet: `dal backup DIR` begins with a directory")
    for what in targets:
        found = preview(house, what, rules=rules, by_name=not arguments.what, report=terminal.report)
        value, told = _told(found, terminal)
        values.append(value)
        lines += told
        if found.unreadable:
            code = EXIT_PARTIAL
    terminal.result(values if len(values) > 1 else values[0], lines)
    return code


def _told(found: Preview, terminal: Terminal) -> tuple[dict[str, Any], list[str]]:
    changes = [change for change in found.changes if change.path]
    value = {
        "volume": found.volume or None,
        "source": found.source,
        "dry_run": True,
        "entries": found.entry_count,
        "bytes": found.total_bytes,
        "files_read": found.files_read,
        "bytes_read": found.bytes_read,
        "bytes_new": found.bytes_new,
        "changes": [change_value(change) for change in changes] if terminal.json else [],
        "unreadable": [{"path": path, "error": text} for path, text in found.unreadable],
        "left_out": [each.value_for_programs() for each in found.left_out],
    }
    shown_max = len(changes) if terminal.verbose else CHANGES_SHOWN_MAX
    lines = [] if terminal.quiet else [change_line(change, size=True) for change in islice(changes, shown_max)]
    if len(changes) > shown_max and not terminal.quiet:
        lines.append(f"and {len(changes) - shown_max:,} more (-v lists all)")
    where = found.volume or "a new volume"
    lines.append(f"{show(found.source)} to {where}: nothing was stored (--dry-run)")
    lines.append(
        f"  {count_of(found.entry_count, 'file or directory', 'files and directories')}, "
        f"{format_size(found.total_bytes)}; would read {count_of(found.files_read, 'file')}, "
        f"{format_size(found.bytes_read)}; would store {format_size(found.bytes_new)} before compression"
    )
    lines += left_out_lines(found.left_out)
    if found.unreadable:
        lines.append(f"  {len(found.unreadable):,} could not be read:")
        lines += listed([f"{show(path)}: {text}" for path, text in found.unreadable], CHANGES_SHOWN_MAX)
    return value, lines


def changed_lines(house: House, taken: TakeResult) -> Iterator[str]:
    """Yield what a backup found changed since the revision before; of a first one nothing, for all is new."""
    revision = read_revision(house.pool, taken.revision)
    if taken.changed and revision.parents:
        before = read_revision(house.pool, revision.parents[0])
        tell = telling(house.report, "the state before")
        for change in diff_revisions(house.pool, before, revision, unreadable=tell):
            if change.path:
                yield f"  {change_line(change, size=True)}"
