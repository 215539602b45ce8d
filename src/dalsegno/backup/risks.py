"""What is at risk: volumes without a good dump, without a recent full, or with too few copies. Pure."""

from collections.abc import Mapping, Sequence
from zoneinfo import ZoneInfo

from dalsegno.backup.days import local_day
from dalsegno.backup.policy import SetPolicy
from dalsegno.backup.records import BAD, Copy, DumpEntry, usable_copies
from dalsegno.backup.targets import shortfalls, whole_targets
from dalsegno.terms.counts import count_of

SLACK_DAYS = 1
"""A night that begins late is no risk yet."""


def find_risks(
    volume: str,
    entries: Sequence[DumpEntry],
    copies: Mapping[bytes, list[Copy]],
    chosen: SetPolicy,
    *,
    day: int,
    zone: ZoneInfo,
) -> list[str]:
    """Return what is wrong with a volume's newest good backup, in words that follow `volume NAME:`."""
    by_id = {entry.dump_id: entry for entry in entries}

    def chain(entry: DumpEntry) -> list[DumpEntry] | None:
        """Return the dumps that `entry` is restored from, itself first, or None when one of them cannot be used."""
        found: list[DumpEntry] = []
        at: DumpEntry | None = entry
        while at is not None and at not in found:
            if at.verdict == BAD or not usable_copies(copies.get(at.dump_id, [])):
                return None
            found.append(at)
            if at.is_full:
                return found
            at = by_id.get(at.base_dump)
        return None

    # What a wrong clock dated later than today does not hide that backups have stopped since.
    present = [entry for entry in entries if local_day(entry.made_ns, zone) <= day]
    newest_first = sorted(present, key=lambda entry: entry.made_ns, reverse=True)
    good = next((found for entry in newest_first if (found := chain(entry)) is not None), None)
    if good is None:
        return ["no good backup" if entries else "never backed up"]
    risks = []
    fulls = (entry for entry in newest_first if entry.is_full and chain(entry) is not None)
    last, full = good[0], next(fulls, good[-1])
    days_since_last = day - local_day(last.made_ns, zone)
    days_since_full = day - local_day(full.made_ns, zone)
    if days_since_last > longest_pause(chosen) + SLACK_DAYS:
        risks.append(f"no good backup for {count_of(days_since_last, 'day')}")
    if days_since_full > max(chosen.cycle_days, longest_pause(chosen)) + SLACK_DAYS:
        risks.append(f"no good full for {count_of(days_since_full, 'day')}")
    if chosen.targets:
        held = {entry.dump_id: len(whole_targets(copies.get(entry.dump_id, []), chosen)) for entry in good}
        short = [entry for entry in good if held[entry.dump_id] < chosen.copies_wanted]
        if short:
            fewest = min(held[entry.dump_id] for entry in short)
            what = "its newest dump" if short == [last] else f"{len(short)} of the {len(good)} dumps it rests on"
            where = f"{fewest} of {chosen.copies_wanted} targets" if fewest else "the spool alone"
            parts = sorted({words for entry in short for words in shortfalls(copies.get(entry.dump_id, []), chosen)})
            where = "whole in no target" if not fewest and parts else where
            where += f" ({'; '.join(parts)})" if parts else ""
            risks.append(f"{what} {'is' if len(short) == 1 else 'are'} in {where}")
    return risks


def longest_pause(chosen: SetPolicy) -> int:
    """Return how many days may lie between two dumps of a set when all goes well."""
    levels = chosen.program.levels
    if not levels:
        return 1
    days = [index for index, level in enumerate(levels) if level is not None]
    return max((later - earlier for earlier, later in zip(days, [*days[1:], days[0] + len(levels)], strict=True)))
