"""What a backup leaves out, and who says so: a volume's own rules, those of the policy's set, those of one run.

A volume's own rules are kept in its settings, each with the time since when it counts (docs/formats/pool.md,
"Settings"); `dal volume set` changes them. The policy's are kept beside them, so that every backup of the volume leaves
out the same; a run of the policy renews them. What is said for one run is kept nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from dalsegno.host.ignore import Rules, check_pattern
from dalsegno.terms.errors import BadInput, NotFound
from dalsegno.terms.times import format_time

Settings = dict[str, str | int | bool | list[str]]
Origin = Literal["volume", "policy", "run"]

PATTERNS: Final = "exclude"
LARGER_THAN: Final = "exclude_larger_than"
FLAGS: Final = {"cache_tags": "exclude_caches", "one_file_system": "one_file_system", "nodump": "nodump"}
"""Field of Rules: its key in the settings."""
SINCE: Final = "_since"
POLICY: Final = "policy_"
POLICY_SET: Final = "policy_set"
NO_LIMIT: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesChange:
    """A wish to change rules; the default changes nothing."""

    add: tuple[str, ...] = ()
    """Patterns, behind those that are there: of two that fit the later counts."""
    remove: tuple[str, ...] = ()
    clear: bool = False
    """Remove all patterns that are there, before any is added."""
    larger_than: int | None = None
    """Bytes; NO_LIMIT ends the rule."""
    cache_tags: bool | None = None
    one_file_system: bool | None = None
    nodump: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing would change."""
        return self == RulesChange()


def own_keys(settings: Mapping[str, object]) -> set[str]:
    """Return the keys of a volume's settings that are about rules."""
    keys = {PATTERNS, LARGER_THAN, *FLAGS.values()}
    return {key for key in settings if key.removesuffix(SINCE) in keys or key.startswith(POLICY)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """One rule by which something is left out."""

    rule: str
    """Its key in the settings."""
    value: str | int | bool
    by: Origin
    since_ns: int = 0
    """Since when a volume's own rule counts; 0 for others."""
    set_name: str = ""
    """The policy's set."""

    def value_for_programs(self) -> dict[str, Any]:
        """Return what programs want to know about it."""
        return {
            "rule": self.rule,
            "value": self.value,
            "by": self.by,
            "since": format_time(self.since_ns) if self.since_ns else None,
            "set": self.set_name or None,
        }


def changed_settings(settings: Settings, change: RulesChange, *, now_ns: int) -> Settings:
    """Return a volume's settings with its own rules changed. BadInput for a bad pattern, NotFound for one not there."""
    for pattern in change.add:
        check_pattern(pattern)
        if any("\udc80" <= letter <= "\udcff" for letter in pattern):
            raise BadInput(f"pattern {pattern!r}: a rule that stays is UTF-8 text: write ? for other bytes")
    changed = {**settings}
    rows = [] if change.clear else list(zip(_patterns(settings), _since_list(settings), strict=True))
    for pattern in change.remove:
        if pattern not in _patterns(settings):
            known = ", ".join(_patterns(settings)) or "none"
            raise NotFound(f"pattern {pattern!r}: is not one of the volume's own ({known})")
        rows = [row for row in rows if row[0] != pattern]
    now = str(now_ns)
    rows += [(pattern, now) for pattern in dict.fromkeys(change.add) if pattern not in [row[0] for row in rows]]
    _put(changed, PATTERNS, [row[0] for row in rows] or None, [row[1] for row in rows])
    if change.larger_than is not None and change.larger_than != settings.get(LARGER_THAN):
        _put(changed, LARGER_THAN, None if change.larger_than == NO_LIMIT else change.larger_than, now_ns)
    for field, key in FLAGS.items():
        wanted = getattr(change, field)
        if wanted is not None and wanted != bool(settings.get(key)):
            _put(changed, key, wanted or None, now_ns)
    return changed


def _put(settings: Settings, key: str, value: str | int | bool | list[str] | None, since: int | list[str]) -> None:
    settings.pop(key, None)
    settings.pop(key + SINCE, None)
    if value is not None:
        settings[key], settings[key + SINCE] = value, since


def _patterns(settings: Settings, prefix: str = "") -> list[str]:
    found = settings.get(prefix + PATTERNS, [])
    return list(found) if isinstance(found, list) else []


def _since_list(settings: Settings) -> list[str]:
    """Return since when each pattern counts, as nanoseconds in decimal digits."""
    found, count = settings.get(PATTERNS + SINCE), len(_patterns(settings))
    fits = isinstance(found, list) and len(found) == count and all(each.isdecimal() for each in found)
    return list(found) if fits and isinstance(found, list) else ["0"] * count


def policy_settings(settings: Settings, set_name: str, rules: Rules) -> Settings:
    """Return a volume's settings with the rules of the policy's set in the place of those that were kept before."""
    kept = {key: value for key, value in settings.items() if not key.startswith(POLICY)}
    if rules.patterns:
        kept[POLICY + PATTERNS] = list(rules.patterns)
    if rules.larger_than is not None:
        kept[POLICY + LARGER_THAN] = rules.larger_than
    for field, key in FLAGS.items():
        if getattr(rules, field):
            kept[POLICY + key] = True
    if len(kept) > len([key for key in kept if not key.startswith(POLICY)]):
        kept[POLICY_SET] = set_name
    return kept


def left_out(settings: Settings, run: RulesChange | None = None) -> list[LeftOut]:
    """Return the rules that count for one backup: the policy's, the volume's own, and what `run` adds or ends."""
    run = run or RulesChange()
    for pattern in run.add:
        check_pattern(pattern)
    set_name = str(settings.get(POLICY_SET, ""))
    found = [
        LeftOut(rule=PATTERNS, value=pattern, by="policy", set_name=set_name) for pattern in _patterns(settings, POLICY)
    ]
    found += [
        LeftOut(rule=PATTERNS, value=pattern, by="volume", since_ns=int(since))
        for pattern, since in zip(_patterns(settings), _since_list(settings), strict=True)
    ]
    found += [LeftOut(rule=PATTERNS, value=pattern, by="run") for pattern in run.add]
    limits = [_kept(settings, key, set_name) for key in (POLICY + LARGER_THAN, LARGER_THAN)]
    if run.larger_than is not None:
        limits = [] if run.larger_than == NO_LIMIT else [LeftOut(rule=LARGER_THAN, value=run.larger_than, by="run")]
    found += sorted(filter(None, limits), key=lambda each: each.value)[:1]
    for field, key in FLAGS.items():
        wanted = getattr(run, field)
        known = _kept(settings, key, set_name) or _kept(settings, POLICY + key, set_name)
        if known is not None and wanted is not False:
            found.append(known)
        elif wanted:
            found.append(LeftOut(rule=key, value=True, by="run"))
    return found


def _kept(settings: Settings, key: str, set_name: str) -> LeftOut | None:
    value = settings.get(key)
    if not isinstance(value, int) or value is False:
        return None
    if key.startswith(POLICY):
        return LeftOut(rule=key.removeprefix(POLICY), value=value, by="policy", set_name=set_name)
    since = settings.get(key + SINCE, 0)
    return LeftOut(rule=key, value=value, by="volume", since_ns=since if isinstance(since, int) else 0)


def rules_of(found: Sequence[LeftOut], *, own: Sequence[bytes] = ()) -> Rules:
    """Return the rules that a scan obeys; `.dalignore` files always count, and `own` is never in a backup."""
    flags = {field: any(each.rule == key for each in found) for field, key in FLAGS.items()}
    limit = next((each.value for each in found if each.rule == LARGER_THAN), None)
    return Rules(
        patterns=tuple(str(each.value) for each in found if each.rule == PATTERNS),
        own=tuple(own),
        ignore_files=True,
        larger_than=int(limit) if limit is not None else None,
        **flags,
    )
