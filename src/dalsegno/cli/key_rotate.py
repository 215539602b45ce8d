"""`dal key rotate`: a new key for what is written from now on; what is there stays readable."""

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalsegno.chunks.realm import Realm
from dalsegno.cli.door import open_house
from dalsegno.cli.terminal import Terminal, show
from dalsegno.pool.generations import change_key, check_succeeds, finish_change, new_secret_after
from dalsegno.pool.holders import renewed_holders
from dalsegno.pool.key_copies import STANDARD_OUTPUT, list_copies
from dalsegno.pool.keys import default_key_path, read_key_file, read_realm, renew_key_file
from dalsegno.pool.known import known_pool
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import KEY_FILE, PASSPHRASE, SETTINGS_NAME, Holder, PoolSettings
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, DalError, Refused
from dalsegno.terms.sizes import format_size
from dalsegno.world.clock import now_ns


def add_rotate(verbs: Any) -> None:
    """Define the arguments of `dal key rotate`."""
    words = "seal what is written from now on with a new key; what is there stays readable"
    rotate = verbs.add_parser("rotate", help=words, epilog="example: dal key rotate")
    rotate.add_argument(
        "--to",
        metavar="FILE",
        help="use the new key of another pool of the realm: a copy of it (`dal key export` there)",
    )
    rotate.set_defaults(run=_rotate)


@dataclass(slots=True, kw_only=True)
class _Change:
    """What a change of the key did."""

    is_new: bool
    """Whether it has a fresh secret, and is not the end of one that was begun before, here or elsewhere."""
    files: list[Path] = field(default_factory=list)
    """Key files that hold the new key."""
    dropped: tuple[Holder, ...] = ()


def _rotate(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        pool = house.pool
        if not pool.holders:
            raise Refused(f"{pool.place}: nothing is encrypted here: there is no key to change")
        files = _key_files(pool)
        known = [key for _, key in files]
        if arguments.to is not None:
            known = [read_realm(Path(arguments.to))]
            check_succeeds(known[0], pool.realm, arguments.to)
        is_known = any(key.generation > pool.realm.generation for key in known)
        is_cut_off = pool.settings.refs_since < pool.realm.generation
        done = _Change(is_new=not is_known and not is_cut_off and arguments.to is None)
        if is_known or done.is_new:
            _change(pool, done, files, known)
        damaged = finish_change(pool)
        if house.known is not None:
            house.known.remember(known_pool(pool), pool.backend)
    lines = _lines(pool, done)
    lines += [f"  {show(pool.where_ref(name))}: damaged, and left as it is" for name in damaged]
    terminal.result(_value(pool, done, damaged), lines)
    return EXIT_PARTIAL if damaged else EXIT_DONE


def _key_files(pool: Pool) -> list[tuple[Path, Realm]]:
    """Return the key files of who changes the key: the one that opened the pool, and his own of it."""
    found = []
    for path in dict.fromkeys(path for path in (pool.key_path, default_key_path(pool.pool_id)) if path is not None):
        try:
            found.append((path, read_key_file(path, pool.realm.realm_id)))
        except DalError:
            continue  # not there, a private key of age or ssh, or what opens nothing here
    return found


def _change(pool: Pool, done: _Change, files: list[tuple[Path, Realm]], known: list[Realm]) -> None:
    def prepare(settings: PoolSettings) -> tuple[Realm, tuple[Holder, ...]]:
        new = new_secret_after(pool.realm, known)
        holders, done.dropped = renewed_holders(
            settings, new, opened_by=pool.holder, passphrase=pool.passphrase, has_key_file=bool(files)
        )
        if not holders:
            raise Refused(
                "nobody could open the pool after that: of passphrases only one that is given (DAL_PASSPHRASE) can be "
                "sealed to anew; `dal key passphrase` makes a new one, `dal key add` lets somebody in"
            )
        for path, _ in files:
            renew_key_file(path, new)
            done.files.append(path)
        return new, holders

    change_key(pool.backend, pool.realm, now_ns=now_ns(), prepare=prepare)


def _old_copies(pool: Pool, done: _Change) -> list[str]:
    renewed = {os.fspath(path.absolute()) for path in done.files}
    return [copy.place for copy in list_copies(pool.pool_id) if copy.place not in renewed]


def _value(pool: Pool, done: _Change, damaged: list[str]) -> dict[str, Any]:
    return {
        "pool": pool.place,
        "generation": pool.realm.generation,
        "new": done.is_new,
        "key_files": done.files,
        "holders": [holder.name for holder in pool.holders],
        "dropped": [{"name": holder.name, "kind": holder.kind} for holder in done.dropped],
        "old_copies": _old_copies(pool, done),
        "damaged_refs": damaged,
    }


def _lines(pool: Pool, done: _Change) -> list[str]:
    first = "the key is changed" if done.is_new else "the pool has the key as it was changed before"
    lines = [f"{first} (generation {pool.realm.generation}): what is written from now on opens with the new key alone"]
    lines += [f"  {show(os.fspath(path))} holds it, and the older ones" for path in done.files]
    lines += [f"  {show(holder.name)} opens the pool as before" for holder in pool.holders if holder.kind != KEY_FILE]
    for holder in done.dropped:
        words = f"key add --passphrase --name {show(holder.name)}" if holder.kind == PASSPHRASE else "key import FILE"
        lines.append(f"  {show(holder.name)} opens the pool no more; let it in again with `dal {words}`")
    lines.append("  copies of the old key open nothing new: `dal key export` makes new ones; known here:")
    places = _old_copies(pool, done)
    lines += [f"    {'printed' if place == STANDARD_OUTPUT else show(place)}" for place in places] or ["    none"]
    lines.append(f"  keep a copy of the new {SETTINGS_NAME}")
    return lines


def generation_values(pool: Pool) -> list[dict[str, int]]:
    """Return for each generation of the key, the oldest first, how many packs are under it, and their bytes."""
    found = pool.measure_generations()
    return [{"generation": number, "packs": count, "bytes": size} for number, (count, size) in sorted(found.items())]


def generation_lines(values: list[dict[str, int]]) -> list[str]:
    """Return a line for each generation with packs."""
    return [
        f"  generation {value['generation']}: {count_of(value['packs'], 'pack')}, {format_size(value['bytes'])}"
        for value in values
    ]
