"""Read a policy file: every problem with its line, its key, and what to do (docs/formats/policy.md). Pure."""

import posixpath
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from dalsegno.backup.members import path_matches
from dalsegno.backup.policy import Policy, SetPolicy, SpoolPolicy, TargetPolicy
from dalsegno.backup.toml_tables import Key, Problem, Problems, key_lines, meant

_SERVER_VOLUME = re.compile(r"^//[^/*?\[]+/[^/]+\Z")


def parse_policy(
    data: bytes, *, path: Path, state_dir: Callable[[], Path], timezone: Callable[[], str]
) -> tuple[Policy | None, list[Problem]]:
    """Return the policy that a file holds, or None and all that is wrong with it.

    `path` is for messages; `state_dir` and `timezone` are asked when the file does not name its own.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return None, [Problem(path=path, line=1, key="", text=f"byte {error.start}: not UTF-8: save it as UTF-8")]
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, lists in lists
        found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        if found is None:
            return None, [Problem(path=path, line=text.count("\n") + 1, key="", text=f"not TOML: {error}")]
        where = int(found.group(2))
        return None, [Problem(path=path, line=where, key="", text=f"column {found.group(3)}: {found.group(1)}")]
    problems = Problems(path, key_lines(text))
    policy = _read_policy(path, values, problems, state_dir=state_dir, timezone=timezone)
    problems.found.sort(key=lambda problem: problem.line)
    return (None if problems.found else policy), problems.found


def _read_policy(
    path: Path,
    values: Mapping[str, Any],
    problems: Problems,
    *,
    state_dir: Callable[[], Path],
    timezone: Callable[[], str],
) -> Policy | None:
    written = {name: value for name, value in values.items() if value != ""}  # an empty text is none
    if "timezone" not in written:
        written["timezone"] = timezone()
    if "state" not in written:
        written["state"] = str(state_dir())
    state = written["state"]
    if not isinstance(state, str) or not posixpath.isabs(state):
        state = "/"  # it is told below
    state = posixpath.normpath(state)
    written.setdefault("catalog", f"sqlite:///{posixpath.join(state, 'catalog.sqlite')}")
    spool = written.get("spool", {})
    if isinstance(spool, dict) and spool.get("path", "") == "":
        written["spool"] = {**spool, "path": posixpath.join(state, "spool")}
    policy = Policy.read_toml(
        written,
        (),
        problems,
        path=path,
        state_dir=Path(),
        catalog_url="",
        timezone="UTC",
        spool=SpoolPolicy(),
    )
    if policy is None:
        return None
    sets = {name: _finish_set(each, policy.targets) for name, each in policy.sets.items()}
    policy = msgspec.structs.replace(policy, sets=sets)
    _check_targets(policy, problems)
    _check_overlap(policy, problems)
    _check_servers(policy, problems)
    _check_places(policy, problems)
    return policy


def _finish_set(chosen: SetPolicy, targets: Mapping[str, TargetPolicy]) -> SetPolicy:
    """Put in what other keys of the file say of a set."""
    return msgspec.structs.replace(
        chosen,
        sources=tuple(posixpath.normpath(source) for source in chosen.sources),
        program=replace(chosen.program, first_full_at_once=chosen.first_full == "at once"),
        target_copies={
            name: targets[name].copies for name in chosen.targets if name in targets and targets[name].copies > 1
        },
    )


def _check_targets(policy: Policy, problems: Problems) -> None:
    """Find targets that sets name and the file does not have."""
    for each in policy.sets.values():
        for name in each.targets:
            if name not in policy.targets:
                known = ", ".join(policy.targets) or "none yet"
                text = f"no target {name!r}{meant(name, policy.targets) or f'; there is {known}'}"
                problems.add(("sets", each.name, "targets"), text)


def _check_overlap(policy: Policy, problems: Problems) -> None:
    """Find what two sets both name; globs are compared again with the volumes there are when a run begins."""
    for word in ("volumes", "sources"):
        holders: dict[str, str] = {}
        for each in policy.sets.values():
            for item in getattr(each, word):
                first = holders.setdefault(item, each.name)
                if first != each.name:
                    key = ("sets", each.name, word)
                    problems.add(key, f"{item!r} is in set {first!r} too: a volume belongs to one set")
                    continue
                for other, holder in holders.items():
                    if holder != each.name and _covers(other, item):
                        text = f"{item!r} is covered by {other!r} of set {holder!r}: a volume belongs to one set"
                        problems.add(("sets", each.name, word), text)


def _covers(first: str, second: str) -> bool:
    """Tell whether one of two patterns matches the other taken as a name."""
    return path_matches(second, first) or path_matches(first, second)


def _check_servers(policy: Policy, problems: Problems) -> None:
    """Refuse a policy over two pools: its dumps would be of two realms, and no key opened all of them."""
    if not policy.server_volumes:
        return
    text = f"{policy.server_volumes[0]!r} is on a server, and a policy is of one realm's servers or of one pool"
    if policy.pool is not None:
        problems.add(("pool",), f"{text}: leave `pool` away, or write a policy for each")
    for each in policy.sets.values():
        for word in each.volumes:
            if word.startswith("//") and not _SERVER_VOLUME.match(word):
                problems.add(("sets", each.name, "volumes"), f"{word!r}: expected //SERVER/VOLUME")
        plain = [word for word in each.volumes if not word.startswith("//")]
        if plain:
            problems.add(("sets", each.name, "volumes"), f"{text}: write //SERVER/{plain[0]}, or a policy for each")
        if each.sources:
            problems.add(
                ("sets", each.name, "sources"),
                f"{text}: a server's volume follows no directory of this host, `dal import` fills it",
            )


def _check_places(policy: Policy, problems: Problems) -> None:
    """Refuse to write dumps into what is backed up: every night would back up the nights before."""
    places: list[tuple[Key, Path]] = [(("spool", "path"), policy.spool.path)]
    for target in policy.targets.values():
        places += [(("targets", target.name, "paths"), path) for path in target.paths]
    for each in policy.sets.values():
        for source in each.sources:
            for key, place in places:
                if any(path_matches(str(inside), source) for inside in (place, *place.parents)):
                    text = f"{place} is inside source {source} of set {each.name!r}: dumps would back up themselves"
                    problems.add(key, f"{text}; choose a place outside")
    taken: dict[Path, str] = {}
    for target in policy.targets.values():
        for path in target.paths:
            first = taken.setdefault(path, target.name)
            if first != target.name or target.paths.count(path) > 1:
                problems.add(("targets", target.name, "paths"), f"{path} is used twice: give each its own directory")
                break
