"""`dal doctor`: what is wrong with the pool, and with the media and the catalog of the policy that is for it."""

import argparse
import os
from contextlib import suppress

from dalsegno.actions.heal import damage_lines
from dalsegno.actions.older import older_than_catalog
from dalsegno.actions.policy import load_policy
from dalsegno.actions.session import House
from dalsegno.actions.trust import memory
from dalsegno.archive.catalog import Catalog
from dalsegno.assembly.installation import open_target
from dalsegno.cli.choice import find_policy_file
from dalsegno.cli.door import open_house
from dalsegno.cli.known import absent_lines
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import Parser
from dalsegno.pool.key_copies import list_copies
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import EXIT_DONE, EXIT_FAILED, DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.sizes import GIB, format_size
from dalsegno.world.files import is_directory

FREE_BYTES_MIN = 1 * GIB


def add_doctor(parser: Parser) -> None:
    """Define the arguments of `dal doctor`."""
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace, terminal: Terminal) -> int:
    findings: list[str] = []
    differences: list[str] = []
    with open_house(arguments, terminal, differs=differences.append) as house:
        pool = house.pool
        findings += [str(error) for error in pool.damaged_packs.values()]
        findings += damage_lines(pool, house.volumes.list())
        findings += _media_findings(house, differences)
        damaged = bool(findings)
        space = pool.backend.space()
        if space is not None and space.free_bytes < FREE_BYTES_MIN:
            findings.append(f"{pool.place}: only {format_size(space.free_bytes)} free: `dal gc`, or a larger disk")
        if pool.key_path is not None and os.stat(pool.key_path).st_mode & 0o077:
            findings.append(f"{pool.key_path}: others may read the key: chmod 600 it")
        hints = _key_hints(pool)
        for state in house.volumes.list():
            try:
                if state.source and not is_directory(state.source):
                    findings.append(f"volume {state.name}: its source {show(state.source)} is not there")
            except Unavailable as error:
                findings.append(f"volume {state.name}: its source {show(str(error))}")
            if not state.clones:
                hints.append(f"volume {state.name}: no clone yet")
        hints += absent_lines(memory(house))
    findings += map(show, differences)
    lines = [*findings, *(f"hint: {text}" for text in hints)]
    if not findings:
        lines.append("all well; `dal verify --pool` reads every byte")
    terminal.result({"findings": findings, "hints": hints}, lines)
    return Damaged.exit_code if damaged else EXIT_FAILED if findings else EXIT_DONE


def _media_findings(house: House, differences: list[str]) -> list[str]:
    """Return what is damaged of the media and the catalog, where there is a policy that may be about this pool.

    To `differences` go the volumes that are older than what the catalog has dumps of.
    """
    place = find_policy_file(None)
    if place is None:
        return []
    findings: list[str] = []
    try:
        policy = load_policy(place)
        directory = house.pool.backend.directory
        if policy.pool is not None and (
            directory is None or os.path.realpath(policy.pool) != os.path.realpath(directory)
        ):
            return []
        for target in policy.targets.values():
            opened = open_target(target, scratch=policy.spool.path)
            findings += [str(bad.error) for bad in opened.bad_labels()]
        with suppress(NotFound), Catalog.open(policy.catalog_url, create=False) as catalog:
            if policy.pool is not None:
                differences += older_than_catalog(house, catalog)
    except DalError as error:
        findings.append(str(error))
    return findings


def _key_hints(pool: Pool) -> list[str]:
    """Return what to do about a key that is lost together with its pool."""
    hints = []
    if pool.is_key_ahead or pool.settings.refs_since < pool.settings.generation:
        hints.append("the change of the pool's key was cut off: `dal key rotate` finishes it")
    place = pool.backend.directory
    if pool.key_path is None or place is None or os.stat(pool.key_path).st_dev != os.stat(place).st_dev:
        return hints
    # What was copied before the key was changed opens nothing that is written now.
    copies = [copy for copy in list_copies(pool.pool_id) if copy.at_ns >= pool.settings.changed_ns]
    if any(copy.is_apart for copy in copies):
        return hints
    beside = f", and so does its copy {show(copies[-1].place)}" if copies else ""
    return [
        *hints,
        f"the key {show(os.fspath(pool.key_path))} is on the same disk as the pool{beside}: "
        "`dal key export FILE` makes a copy on another",
    ]
