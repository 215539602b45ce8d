"""`dal restore VOLUME@DATE` when the pool no longer has that state: from dumps, through the catalog."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dalsegno.actions.dumped import Dumped
from dalsegno.actions.policy import load_policy
from dalsegno.actions.restore import RestoreOutcome, RestoreRequest, restore_view
from dalsegno.actions.retrieve import Retrieved, find_and_plan, forget, retrieve
from dalsegno.actions.session import House
from dalsegno.actions.view import open_dumps
from dalsegno.archive.chains import find_chain
from dalsegno.archive.installation import Installation
from dalsegno.assembly.installation import open_installation
from dalsegno.backup.chains import ChainPlan
from dalsegno.cli.door import open_realm_house
from dalsegno.cli.site import asker, policy_if_any, policy_realm
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import path_bytes
from dalsegno.host.changes import Tell
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time, parse_time_ns, show_time
from dalsegno.volumes.address import Address, Resolved, plain_name
from dalsegno.world.clock import now_ns


def plan_lines(plan: ChainPlan, terminal: Terminal, *, title: str) -> list[str]:
    """Return what a restore from dumps will read, for people: dumps, sizes, media, and which of them to insert."""
    rows = []
    for reading in plan.readings:
        where = "in the spool"
        if reading.place is None:
            where = ", ".join(f"{label}{' (NOT HERE)' if label in reading.missing else ''}" for label in reading.media)
        entry = reading.entry
        rows.append([f"  level {entry.level}", show_time(entry.cloned_at_ns), format_size(entry.size_bytes), where])
    count = len(plan.readings)
    lines = [f"{title}: the state of {show_time(plan.state.top.cloned_at_ns)}, from {count} dump{'s' * (count > 1)}"]
    lines += terminal.table(rows, right=(2,))
    if plan.media:
        needed = ", ".join(f"{label} ({'insert it' if label in plan.missing else 'here'})" for label in plan.media)
        lines.append(f"media needed: {needed}")
    return lines


def plan_value(plan: ChainPlan) -> dict[str, Any]:
    """Return what programs want to know about a restore from dumps."""
    return {
        "volume": plan.state.top.volume_name,
        "state_at": format_time(plan.state.top.cloned_at_ns),
        "revision": plan.state.revision.hex(),
        "fetch_bytes": plan.fetch_bytes,
        "media": list(plan.media),
        "missing_media": list(plan.missing),
        "dumps": [
            {
                "dump": reading.entry.dump_id.hex(),
                "level": reading.entry.level,
                "at": format_time(reading.entry.cloned_at_ns),
                "bytes": reading.entry.size_bytes,
                "place": reading.place,
                "media": list(reading.media),
                "missing_media": list(reading.missing),
            }
            for reading in plan.readings
        ],
    }


def newer_plan(
    site: Installation, address: Address, in_pool: Resolved | None, terminal: Terminal, *, volume_id: bytes | None
) -> ChainPlan | None:
    """Return how to restore an address from dumps, or None when the pool's own clone is as new as any dump."""
    if in_pool is not None:
        clone = in_pool.state.clones.get(in_pool.clone or "")
        at_ns = parse_time_ns(address.selector, now_ns=now_ns())
        if clone is None or at_ns is None:
            return None
        chain = find_chain(site.catalog, in_pool.state.id, at_ns)
        if not chain or chain[-1].revision == in_pool.revision or chain[-1].cloned_at_ns <= clone.created_ns:
            return None
    name = plain_name(address.volume)
    return find_and_plan(site, name, address.selector, volume_id=volume_id, report=terminal.report)


def restore_dated(
    arguments: argparse.Namespace,
    terminal: Terminal,
    house: House,
    address: Address,
    in_pool: Resolved | None,
    *,
    request: RestoreRequest,
    tell: Tell | None = None,
) -> tuple[RestoreOutcome | None, dict[str, Any]] | None:
    """Restore an address from dumps; None when the pool has it as well as any dump. With --dry-run only the plan."""
    policy_path = policy_if_any(arguments)
    if policy_path is None:
        return None
    try:
        policy = load_policy(policy_path)
        realm = policy_realm(arguments, policy)
        if realm is not None and not house.volumes.merges:
            # The pool that was opened is not the one that these dumps were made of.
            if in_pool is not None:
                return None
            with open_realm_house(realm, arguments, terminal) as other:
                return restore_dated(arguments, terminal, other, address, None, request=request, tell=tell)
        opened = open_installation(policy, ask=asker(terminal), create=False)
    except NotFound:
        return None  # no catalog yet: the pool's word is the last one
    except DalError as error:
        if in_pool is None:
            raise
        terminal.note(f"dumps were left out of account: {error}")
        return None
    with opened as site:
        state = in_pool.state if in_pool is not None else None
        if state is None:
            try:
                state = house.volumes.get(address.volume)
            except (NotFound, Unavailable):
                state = None
        plan = newer_plan(site, address, in_pool, terminal, volume_id=state.id if state else None)
        if plan is None:
            return None
        selector = f"@{address.selector}" if address.selector else ""
        lines = plan_lines(plan, terminal, title=f"{address.volume}{selector} is not in the pool")
        value = plan_value(plan)
        if arguments.dry_run:
            terminal.result({**value, "dry_run": True}, lines)
            return None, value
        for line in lines:
            terminal.note(line)
        paths = [path_bytes(path) for path in arguments.path]
        label = f"{plan.state.top.volume_name}@{plan.state.top.clone_name or '#' + hex_short(plan.state.revision)}"
        clone = f"#{plan.state.revision.hex()}"

        def restore(in_place: bool) -> tuple[RestoreOutcome, Retrieved]:
            found = retrieve(site, plan, in_place=in_place, report=terminal.report)
            with open_dumps(found.places, house.pool.realm, clone, path=address.path, label=label) as view:
                made = restore_view(
                    house,
                    view,
                    arguments.to,
                    paths=paths,
                    request=request,
                    tell=tell,
                )
            return made, found

        try:
            outcome, retrieved = restore(bool(paths or address.path))
        except Damaged as error:
            # Read in place, a copy proved damaged: fetched, it is compared, and another one is found.
            terminal.note(f"{error}: fetching the dumps")
            outcome, retrieved = restore(False)
        forget(site, retrieved)
        return outcome, value


@contextmanager
def open_dumped(
    arguments: argparse.Namespace, terminal: Terminal, house: House, policy_path: Path
) -> Iterator[Dumped | None]:
    """Give the histories of pool and dumps together; afterwards tell what could not be looked into."""
    try:
        policy = load_policy(policy_path)
        # Those of other volumes than the house's are sealed with another key.
        fits = (policy_realm(arguments, policy) is not None) == house.volumes.merges
        site = open_installation(policy, create=False) if fits else None
    except DalError as error:
        if not isinstance(error, NotFound):
            terminal.note(f"dumps were left out of account: {error}")
        site = None
    if site is None:
        yield None
        return
    with site, Dumped(house, site, report=terminal.report) as histories:
        yield histories
        if histories.away_count:
            media = ", ".join(sorted(histories.away)) or "no medium"
            text = f"{histories.away_count} states are in dumps that cannot be read in place ({media}): not looked into"
            terminal.note(text)
