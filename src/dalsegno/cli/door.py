"""The way in: from a command's words to the open house."""

import argparse
import os
from importlib import import_module
from pathlib import Path

from dalsegno.actions.house import House
from dalsegno.assembly import open_pool
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import key_path, pool_path, read_passphrase
from dalsegno.pool.keys import SETTINGS_NAME
from dalsegno.terms.errors import NotFound


def open_house(arguments: argparse.Namespace, terminal: Terminal) -> House:
    """Open the pool that the words name, or the user's own; where neither is, the policy's."""
    place = pool_path(arguments)
    if not arguments.pool_path and not os.environ.get("DAL_POOL") and not (place / SETTINGS_NAME).exists():
        place = _policys_pool(arguments) or place
    return open_pool(place, passphrase=read_passphrase, key_path=key_path(arguments), report=terminal.report)


def _policys_pool(arguments: argparse.Namespace) -> Path | None:
    policy_file = import_module("dalsegno.backup.policy_file")  # only who has no pool of his own waits for it
    try:
        found = policy_file.find_policy(getattr(arguments, "policy", None))
    except NotFound:
        return None
    pool: Path | None = policy_file.load_policy(found).pool
    return pool
