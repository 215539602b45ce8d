"""Which archive targets should hold a dump, and which do, wholly. Pure."""

from collections.abc import Collection, Iterable, Sequence

from dalsegno.backup.policy import Policy, SetPolicy, SharesPolicy, TargetPolicy
from dalsegno.backup.records import Copy, DumpEntry, usable_copies


def targets_of(policy: Policy, entry: DumpEntry, copies: Iterable[Copy]) -> list[str]:
    """Return the targets that should hold a dump: those of its set; of no set, those that hold some of it."""
    chosen = policy.sets.get(entry.set_name)
    if chosen is not None:
        return list(chosen.targets)
    return sorted({copy.target for copy in copies if copy.target in policy.targets})


def missing_targets(copies: Iterable[Copy], chosen: SetPolicy) -> list[str]:
    """Return the targets of a set that cannot restore a dump yet."""
    held = {parts[0].target for parts in usable_copies(copies)}
    return [name for name in chosen.targets if name not in held]


def is_complete(target: TargetPolicy, copies: Sequence[Copy], here: Collection[str]) -> bool:
    """Tell whether a target has as many copies, or shares, as the policy says; `here` has the labels of its media.

    A share is as good as lost when its directory is away and another, empty one, has come.
    """
    if not isinstance(target, SharesPolicy):
        return len(usable_copies(copies)) >= target.copies
    usable = [copy for copy in copies if copy.is_usable]
    vacant = set(here) - {copy.medium for copy in usable}
    return len(usable) >= target.n and (all(copy.medium in here for copy in usable) or not vacant)


def is_safe(copies: Iterable[Copy], chosen: SetPolicy) -> bool:
    """Tell whether as many of the set's targets hold a dump as should, each with all copies and shares."""
    return bool(chosen.targets) and len(whole_targets(copies, chosen)) >= chosen.copies_wanted


def whole_targets(copies: Iterable[Copy], chosen: SetPolicy) -> set[str]:
    """Return which of a set's targets hold a dump as often as the policy says, with all shares."""
    return {target for target, (there, wanted, _) in _held(copies, chosen).items() if there >= wanted}


def shortfalls(copies: Iterable[Copy], chosen: SetPolicy) -> list[str]:
    """Return what a set's targets lack of a dump that they hold, in words: `grid: 2 of 3 shares`."""
    held = _held(copies, chosen).items()
    return [f"{target}: {there} of {wanted} {what}" for target, (there, wanted, what) in held if there < wanted]


def _held(copies: Iterable[Copy], chosen: SetPolicy) -> dict[str, tuple[int, int, str]]:
    """Return by target how much of a dump is there, how much should be, and of what; of targets that can restore it."""
    found: dict[str, tuple[int, int, str]] = {}
    for parts in usable_copies(copies):
        first = parts[0]
        if first.target not in chosen.targets:
            continue
        if first.parts > first.needed:
            found[first.target] = len(parts), first.parts, "shares"
        else:
            there = found[first.target][0] if first.target in found else 0
            found[first.target] = there + 1, chosen.target_copies.get(first.target, 1), "copies"
    return found
