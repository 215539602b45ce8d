"""Which pool or realm a command is about: one rule for all commands, decided from facts, and said in words.

The first of these counts: --pool; DAL_REALM (for what is about volumes); DAL_POOL; the policy's pool; one's own pool,
when it is there; the only realm that was joined (for what is about volumes); one's own pool, not made yet.
"""

import argparse
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from dalsegno.backends.address import directory_of
from dalsegno.pool.settings import is_pool
from dalsegno.terms.errors import BadInput
from dalsegno.world import places
from dalsegno.world.files import file_errors, status_of

PROFILE_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the words, the environment and the disk say."""

    pool_option: str = ""
    realm_named: str = ""
    """DAL_REALM."""
    pool_named: str = ""
    """DAL_POOL."""
    policy: Path | None = None
    """The policy's file, when it names a pool that this user may use."""
    policy_pool: Path | None = None
    own_pool: Path | None = None
    """Where one's own pool is or would be; None for who has no home."""
    own_is_there: bool = False
    realms: tuple[str, ...] = ()
    """The realms that were joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A pool or a realm, why it is this one, and what else there is."""

    pool: Path | None = None
    realm: str = ""
    why: str
    is_policys: bool = False
    is_default: bool = False
    """Nobody said so."""
    others: tuple[str, ...] = ()
    """What the command could have been about, each with how to say so."""

    def __str__(self) -> str:
        """Return the choice in words: which one, why, and what else there is."""
        what = f"realm {self.realm}" if self.realm else f"pool {self.pool}"
        return "; ".join([f"{what}, by {self.why}", *self.others])


def choose(facts: Facts, *, about_volumes: bool) -> Choice:
    """Return what a command is about. Pools alone count where it is not about volumes. BadInput for who has no home."""
    own = f"your own pool is {facts.own_pool} (--pool names it)" if facts.own_is_there else ""
    joined = (
        f"realm {', '.join(facts.realms)} was joined (DAL_REALM names it)" if facts.realms and about_volumes else ""
    )
    if facts.pool_option:
        return Choice(pool=directory_of(facts.pool_option), why="--pool")
    if facts.realm_named and about_volumes:
        return Choice(realm=facts.realm_named, why="DAL_REALM")
    if facts.pool_named:
        return Choice(pool=directory_of(facts.pool_named), why="DAL_POOL")
    if facts.policy_pool is not None:
        others = tuple(filter(None, (own if facts.policy_pool != facts.own_pool else "", joined)))
        return Choice(pool=facts.policy_pool, why=f"the policy {facts.policy}", is_policys=True, others=others)
    if facts.own_is_there:
        return Choice(
            pool=facts.own_pool, why="default: it is your own", is_default=True, others=(joined,) if joined else ()
        )
    if len(facts.realms) == 1 and about_volumes:
        return Choice(realm=facts.realms[0], why="default: it is the only one that was joined, and you have no pool")
    return Choice(
        pool=facts.own_pool or places.data_dir() / "pool",
        why="default: it would be your own, and is not made yet",
        is_default=True,
        others=(joined,) if joined else (),
    )


def gather_facts(arguments: argparse.Namespace) -> Facts:
    """Return what the words, the environment and the disk say. The policy is not read where it does not matter."""
    option, named = arguments.pool_path or "", os.environ.get("DAL_POOL", "")
    data = places.find_data_dir()
    own = data / "pool" if data is not None else None
    policy, pool = None, None
    if not option and not named:
        policy, pool, _ = _policy_places(arguments)
    return Facts(
        pool_option=option,
        realm_named=os.environ.get("DAL_REALM", ""),
        pool_named=named,
        policy=policy,
        policy_pool=pool,
        own_pool=own,
        own_is_there=own is not None and is_pool(own),
        realms=tuple(joined_realms()),
    )


def chosen(arguments: argparse.Namespace, *, about_volumes: bool = False) -> Choice:
    """Return what a command is about."""
    return choose(gather_facts(arguments), about_volumes=about_volumes)


def pool_path(arguments: argparse.Namespace) -> Path:
    """Return the place of the pool that a command is about."""
    pool = chosen(arguments).pool
    assert pool is not None
    return pool


def key_path(arguments: argparse.Namespace) -> Path | None:
    """Return the key file's place: the option, DAL_KEY, or that of the policy when the pool is the policy's."""
    given = arguments.key_path or os.environ.get("DAL_KEY")
    if given:
        return Path(given)
    _, pool, key = _policy_places(arguments)
    fits = key is not None and pool is not None and os.path.realpath(pool) == os.path.realpath(pool_path(arguments))
    return key if fits else None


def find_policy_file(given: str | None) -> Path | None:
    """Return the policy's place: the option, DAL_POLICY, /etc, or the user's own; None where there is none.

    That of the machine is passed over by who may not use its pool.
    """
    named = given or os.environ.get("DAL_POLICY")
    if named:
        return Path(named)
    machine, *own = places.policy_files()
    for place in (machine, *own):
        if status_of(place) is not None and (place in own or is_for_user(place)):
            return place
    return None


def is_for_user(machine: Path) -> bool:
    """Tell whether the machine's policy is for this user: root, or who may use its pool."""
    if os.geteuid() == 0:
        return True
    try:
        pool = _read_places(machine)[0] if os.access(machine, os.R_OK) else None
    except BadInput:
        return False
    return pool is not None and may_use(pool)


def _policy_places(arguments: argparse.Namespace) -> tuple[Path | None, Path | None, Path | None]:
    """Return the policy with its pool and its key."""
    file = find_policy_file(getattr(arguments, "policy", None))
    if file is None or not file.is_file():
        return None, None, None  # who needs a policy says what is wrong
    pool, key = _read_places(file)
    return file, pool, key


def has_policy(arguments: argparse.Namespace) -> bool:
    """Tell whether there is a policy that is for this user."""
    return find_policy_file(getattr(arguments, "policy", None)) is not None


def may_use(pool: Path) -> bool:
    """Tell whether a policy's pool is for this user: root, or who may write there."""
    return os.geteuid() == 0 or os.access(pool, os.R_OK | os.W_OK | os.X_OK)


def _read_places(file: Path) -> tuple[Path | None, Path | None]:
    """Return `pool` and `key` of a policy, whatever else is wrong with it: `dal plan --check` tells that."""
    try:
        with file_errors(file):
            table = tomllib.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: {error}: which pool it means cannot be told; --pool names one") from None
    found = [table.get(name) for name in ("pool", "key")]
    pool, key = (Path(each) if isinstance(each, str) and os.path.isabs(each) else None for each in found)
    return pool, key


def joined_realms() -> list[str]:
    """Return the realms that this user joined."""
    base = places.find_config_dir()
    try:
        names = os.listdir(base / "realms") if base is not None else []
    except OSError:
        return []
    return sorted(name.removesuffix(PROFILE_SUFFIX) for name in names if name.endswith(PROFILE_SUFFIX))
