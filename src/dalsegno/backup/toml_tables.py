"""Read structs from the tables of a TOML file: every mistake with its line, its key, and what to do. Pure.

A struct is the schema of its table: names, types, bounds and defaults. Each value is converted by itself, with
`msgspec.convert`, so that all mistakes of a file are found at once, and each has the key that it is at.
"""

import difflib
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from dalsegno.terms.errors import BadInput, DalError
from dalsegno.terms.sizes import parse_size
from dalsegno.terms.times import parse_duration_seconds

Key = tuple[str, ...]
Mistake = tuple[str, str]
"""A key of the table, dotted, or nothing for the table itself; and what is wrong with it."""
_NAME: Final = re.compile(r"^\w[\w.+-]*\Z")
_WORD: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_ASSIGNED: Final = re.compile(rf"^\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")


@dataclass(frozen=True, slots=True)
class Written:
    """How a value is written in the file, for messages, and how what is written becomes the value."""

    expected: str
    parse: Callable[[Any], object] | None = None
    takes: type | tuple[type, ...] = str
    """What `parse` is given; all else is converted as it is. `parse` raises BadInput."""


NOT_IN_FILE: Final = Written("")
"""Marks a field that whoever reads the table gives, and the file may not."""
Given = Annotated[str, NOT_IN_FILE]
_LIST: Final = Written("a text or a list of texts", lambda text: [text])
Texts = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], _LIST]
Paths = Annotated[tuple[Path, ...], _LIST]
Size = Annotated[int, Meta(ge=0), Written('a size, for example "200G"', parse_size)]
Seconds = Annotated[int, Meta(ge=0), Written('a duration, for example "30s" or "2h"', parse_duration_seconds)]
_USUAL: Final = {str: "a text in quotes", Path: "a text in quotes", bool: "true or false", int: "a number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a file: `FILE:LINE: KEY: TEXT`."""

    path: Path
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        """Return the problem in one line."""
        return f"{self.path}:{self.line}: {self.key + ': ' if self.key else ''}{self.text}"


@dataclass(slots=True)
class Problems:
    """What was found so far, and on which line each key of the file is."""

    path: Path
    lines: dict[Key, int]
    found: list[Problem] = field(default_factory=list)

    def add(self, key: Key, text: str) -> None:
        """Note a problem at a key, or at the nearest table around it that has a line."""
        near = key
        while near and near not in self.lines:
            near = near[:-1]
        self.found.append(Problem(path=self.path, line=self.lines.get(near, 1), key=".".join(key), text=text))


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A struct that is one table of a file."""

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        """Yield what is wrong with values that are each right; `written` has the keys that the file gives."""
        yield from ()

    @classmethod
    def read_toml(cls, value: object, key: Key, problems: Problems, **given: object) -> Self | None:
        """Return the table at a key; values with a problem have their defaults. None: it is no table."""
        if not isinstance(value, dict):
            problems.add(key, f"expected a table [{'.'.join(key)}], not {value!r}")
            return None
        fields = {each.encode_name: each for each in msgspec.structs.fields(cls) if not _is_given(each.type)}
        found, wrong = dict(given), set()
        for name, item in value.items():
            count = len(problems.found)
            read = None
            if name in fields:
                read = _read(fields[name].type, item, (*key, name), problems)
            else:
                known = meant(name, fields) or f"; expected one of {', '.join(fields)}"
                problems.add((*key, name), f"unknown key{known}")
            if len(problems.found) > count:
                wrong.add(name)
            if read is not None or name not in wrong:
                found[fields[name].name] = read
        table = cls(**found)
        for name, text in table._mistakes(value):
            first = name.partition(".")[0]
            if first not in wrong and (name or not wrong):
                problems.add((*key, *name.split(".")) if name else key, text)
        return table


def meant(word: str, known: Iterable[str]) -> str:
    """Return a guess at which known word was meant, to be added to a message; nothing when none is like it."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def choices_text(word: str, choices: Collection[str]) -> str:
    """Return that a word is none of some choices, and which one was meant."""
    return f"{word!r}: expected {' or '.join(choices)}{meant(word, choices)}"


def _is_given(kind: object) -> bool:
    return NOT_IN_FILE in get_args(kind)[1:]


def _read(kind: Any, value: object, key: Key, problems: Problems) -> object:
    """Return a value of the file as its type, or None when it has a problem."""
    if get_origin(kind) in (Union, UnionType):  # NoneType: what is not written
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is dict:
        return _read_tables(get_args(kind)[1], value, key, problems)
    if hasattr(kind, "read_toml"):
        return kind.read_toml(value, key, problems)
    base, *marks = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    written = next((mark for mark in marks if isinstance(mark, Written)), None) or Written(
        _USUAL.get(base, _USUAL[str])
    )
    try:
        if written.parse is not None and isinstance(value, written.takes):
            value = written.parse(value)
        return msgspec.convert(value, kind, dec_hook=_absolute)
    except DalError as error:
        problems.add(key, str(error))
    except msgspec.ValidationError:
        bounds = next((mark for mark in marks if isinstance(mark, Meta)), Meta())
        problems.add(key, _explain(base, value, written.expected, bounds))
    return None


def _absolute(kind: type, value: object) -> object:
    if kind is not Path or not isinstance(value, str):
        raise ValueError
    if not posixpath.isabs(value):
        raise BadInput(f"{value!r}: write the whole path, beginning with /")
    return Path(posixpath.normpath(value))


def _explain(base: Any, value: object, expected: str, bounds: Meta) -> str:
    """Return why a value is none of its type."""
    if get_origin(base) is Literal and isinstance(value, str):
        return choices_text(value, get_args(base))
    if get_origin(base) is tuple and isinstance(value, list):
        return "expected texts in quotes, none of them empty"
    if base is int and isinstance(value, int) and not isinstance(value, bool):
        return f"{value}: expected {bounds.ge} " + ("or more" if bounds.le is None else f"to {bounds.le}")
    return f"expected {expected}, not {value!r}"


def _read_tables(kind: Any, value: object, key: Key, problems: Problems) -> dict[str, Any] | None:
    """Return tables by their names, each a struct, or one of several structs that a tag chooses."""
    if not isinstance(value, dict):
        problems.add(key, f"expected a table [{'.'.join(key)}], not {value!r}")
        return None
    found = {}
    for name, item in value.items():
        place = (*key, name)
        if not isinstance(item, dict):
            problems.add(place, f"expected a table [{'.'.join(place)}]")
        elif not _NAME.match(name):
            problems.add(place, "use letters, digits and . _ + - in the name")
        else:
            kinds = get_args(kind)
            chosen, rest = _choose(kinds, item, place, problems) if kinds else (kind, item)
            found[name] = chosen(name=name) if rest is None else chosen.read_toml(rest, place, problems, name=name)
    return found


def _choose(
    kinds: tuple[type[Table], ...], item: Mapping[str, object], key: Key, problems: Problems
) -> tuple[Any, Mapping[str, object] | None]:
    """Return the struct that a tag chooses, and what else the table has; None when the tag is wrong."""
    tag = str(kinds[0].__struct_config__.tag_field)
    by_tag = {str(kind.__struct_config__.tag): kind for kind in kinds}
    chosen = item.get(tag)
    if isinstance(chosen, str) and chosen in by_tag:
        return by_tag[chosen], {name: value for name, value in item.items() if name != tag}
    if tag not in item:
        problems.add(key, f"{tag} is missing: expected {' or '.join(by_tag)}")
    elif isinstance(chosen, str):
        problems.add((*key, tag), choices_text(chosen, by_tag))
    else:
        problems.add((*key, tag), f"expected {_USUAL[str]}, not {chosen!r}")
    return kinds[0], None


def key_lines(text: str) -> dict[Key, int]:
    """Return the line of every key and table header; keys within inline tables are not seen."""
    lines: dict[Key, int] = {}
    table: Key = ()
    open_brackets = 0
    quotes = ""
    for number, line in enumerate(text.splitlines(), 1):
        if quotes:  # within a string of several lines
            if quotes not in line:
                continue
            line, quotes = line.partition(quotes)[2], ""
        elif open_brackets == 0:
            header = re.match(r"^\s*\[\[?([^\]]+)\]\]?\s*(#.*)?$", line)
            if header is not None:
                table = _split_key(header.group(1))
                for depth in range(1, len(table) + 1):
                    lines.setdefault(table[:depth], number)
                continue
            assigned = _ASSIGNED.match(line)
            if assigned is not None:
                key = (*table, *_split_key(assigned.group(1)))
                for depth in range(len(table) + 1, len(key) + 1):
                    lines.setdefault(key[:depth], number)
        for mark in ('"""', "'''"):
            if line.count(mark) % 2:
                quotes, line = mark, line.partition(mark)[0]
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*', "", line)
        open_brackets += sum(map(bare.count, "[{")) - sum(map(bare.count, "]}"))
    return lines


def _split_key(text: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[\w-]+", text))
