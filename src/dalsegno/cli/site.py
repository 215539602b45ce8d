"""The way in for commands of a whole site: from `--policy` to the open pool, catalog, spool and targets."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from dalsegno.actions.policy import find_policy, load_policy
from dalsegno.actions.session import House
from dalsegno.archive.installation import Installation
from dalsegno.archive.targets import Ask
from dalsegno.assembly.installation import open_installation
from dalsegno.backup.days import zone_of
from dalsegno.backup.policy import Policy
from dalsegno.cli.choice import Choice, choose, find_policy_file, gather_facts
from dalsegno.cli.door import default_realm, open_chosen, open_realm_house, realm_of_addresses
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import POLICY_HELP
from dalsegno.terms.errors import BadInput, Conflict
from dalsegno.terms.times import set_zone
from dalsegno.world.files import PRIVATE_DIRECTORY, FileLock, make_directory

COORDINATOR_LOCK: Final = "coordinator.lock"
"""Held in the directory of the state, by a run or whatever else changes the site."""


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the policy."""
    parser.add_argument("--policy", metavar="FILE", help=POLICY_HELP)


def read_policy(arguments: argparse.Namespace) -> Policy:
    """Return the policy that the words name; times are read and shown in its time zone from then on."""
    policy = load_policy(policy_place(arguments))
    if not arguments.utc:
        set_zone(zone_of(policy))
    return policy


def policy_if_any(arguments: argparse.Namespace) -> Path | None:
    """Return the policy's place, or None where there is no policy."""
    return find_policy_file(arguments.policy)


def policy_place(arguments: argparse.Namespace) -> Path:
    """Return the policy's place; NotFound says where it was looked for."""
    return find_policy_file(arguments.policy) or find_policy(arguments.policy)


def policy_pool(arguments: argparse.Namespace, policy: Policy) -> Path:
    """Return the pool that a command of a policy is about."""
    pool = policy_choice(arguments, policy).pool
    assert pool is not None
    return pool


def policy_choice(arguments: argparse.Namespace, policy: Policy) -> Choice:
    """Return the pool that a command of a policy is about, and why."""
    return choose(replace(gather_facts(arguments), policy=policy.path, policy_pool=policy.pool), about_volumes=False)


@contextmanager
def open_all(arguments: argparse.Namespace, terminal: Terminal, policy: Policy) -> Iterator[tuple[House, Installation]]:
    """Open the pool and the site that a policy names; closed again at the end of the `with` block."""
    with _open_house(arguments, terminal, policy) as house, open_installation(policy, ask=asker(terminal)) as site:
        yield house, site


def _open_house(arguments: argparse.Namespace, terminal: Terminal, policy: Policy) -> House:
    realm = policy_realm(arguments, policy)
    if realm is not None:
        return open_realm_house(realm, arguments, terminal)
    return open_chosen(arguments, terminal, policy_choice(arguments, policy))


def policy_realm(arguments: argparse.Namespace, policy: Policy) -> str | None:
    """Return the realm whose volumes a policy is about, or None for a pool's.

    Its words //SERVER/VOLUME say so. Without any, and where neither a pool nor a directory is named, it is as for
    every command: DAL_REALM, or the only realm of who has no pool of his own.
    """
    words = policy.server_volumes
    if words:
        if arguments.pool_path:
            raise BadInput(f"{policy.path}: its volumes are on servers ({words[0]}): leave --pool away")
        return realm_of_addresses(list(words))
    if policy.pool is not None or arguments.pool_path or any(each.sources for each in policy.sets.values()):
        return None
    return default_realm(arguments)


def asker(terminal: Terminal) -> Ask | None:
    """Return what asks a person for a medium (Enter: it is there; s: go on without it), or None with nobody there."""
    if terminal.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(text: str) -> bool:
        terminal.end_progress()
        print(f"{show(text)}\nEnter when it is there, s to go on without it: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        return bool(answer) and not answer.strip().lower().startswith("s")

    return ask


def is_run_at_work(policy: Policy) -> bool:
    """Tell whether a process holds the site's lock."""
    path = policy.state_dir / COORDINATOR_LOCK
    if not path.exists():
        return False
    with FileLock(path) as lock:
        return not lock.acquire(shared=True, wait=False)


@contextmanager
def coordinator(policy: Policy, terminal: Terminal, *, wait: bool) -> Iterator[None]:
    """Hold the site's lock: one coordinator at a time. Conflict when another has it and `wait` is False."""
    make_directory(policy.state_dir, mode=PRIVATE_DIRECTORY)
    with FileLock(policy.state_dir / COORDINATOR_LOCK) as lock:
        if not lock.acquire(wait=False):
            if wait:
                terminal.note(f"another run is at work for {policy.path}: waiting for it")
                lock.acquire(wait=True)
                yield
                return
            raise Conflict(
                f"another `dal backup --set` or `dal prune` is at work for {policy.path}: wait for it with --wait, "
                "or look again later"
            )
        yield
