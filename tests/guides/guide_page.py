"""What a page of the documentation tells its reader to type: commands, files, and what is printed.

A page is read as a person reads it:

* a block of `sh`, or one whose first line begins with `$ `, is typed, command by command;
* a line in a `$ ` block that begins with neither `$ ` nor `> ` is what the command before it prints;
* any other block is the content of a file, if the paragraph before it begins with the file's path in backticks;
* a block of `python` is a program;
* everything else must be accounted for by the page's test.

A command ends with 0, unless its comment or the paragraph after its block says `exit N` (`exit code N`), or what it prints has
a line that begins with `dal: error:`.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXIT = re.compile(r"\bexit(?: code)? (\d+)\b")
FILE = re.compile(r"`(/[^`\s]+)`")
GAP = ("…", "...")
UNITS = {"B", "KiB", "MiB", "GiB", "TiB", "s", "ms", "us"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """Something to type."""

    line: int
    text: str
    code: int | None = 0
    """None: anything but 0."""
    prints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block that is not typed: a file's content, a program, or something to read only."""

    line: int
    language: str
    text: str
    path: str = ""
    """The file that it is the content of."""


def read_page(path: Path) -> list[Command | Block]:
    """Return what stands in the blocks of a page, in order."""
    return list(parse_page(path.read_text()))


def parse_page(text: str) -> Iterator[Command | Block]:
    for found in FENCE.finditer(text):
        language, content = found.groups()
        line = text[: found.start()].count("\n") + 2
        after = text[found.end() :].lstrip("\n").partition("\n\n")[0]
        if content.startswith("$ "):
            yield from _console(content, line, after)
        elif language == "sh" and not content.startswith("#!"):
            yield from _typed(content, line, after)
        else:
            before = text[: found.start()].rstrip("\n").rpartition("\n\n")[2]
            named = FILE.match(before)
            yield Block(line=line, language=language, text=content, path=named.group(1) if named else "")


def _typed(content: str, first: int, after: str) -> Iterator[Command]:
    commands: list[tuple[int, str]] = []
    held, start = "", 0
    for number, line in enumerate(content.splitlines(keepends=True), first):
        if not held:
            start = number
        held += line
        if is_whole(held):
            if any(part.strip() and not part.strip().startswith("#") for part in held.splitlines()):
                commands.append((start, held))
            held = ""
    if held:
        raise AssertionError(f"line {start}: not a whole command: {held!r}")
    for number, text in commands:
        yield _command(number, text, (), after if len(commands) == 1 else "")


def _console(content: str, first: int, after: str) -> Iterator[Command]:
    parts = re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]
    number = first
    for part in parts:
        lines = part.splitlines()
        text, count = lines[0] + "\n", 1
        while count < len(lines) and (lines[count].startswith("> ") or not is_whole(text)):
            text += lines[count].removeprefix("> ") + "\n"
            count += 1
        yield _command(number, text, tuple(lines[count:]), after if len(parts) == 1 else "")
        number += len(lines)


def _command(line: int, text: str, prints: tuple[str, ...], after: str) -> Command:
    said = EXIT.search(" ".join(re.findall(r"(?<!\S)#.*", text))) or EXIT.search(after.partition(".")[0])
    code: int | None = int(said.group(1)) if said else 0
    if not said and any(each.startswith("dal: error:") for each in prints):
        code = None
    return Command(line=line, text=text, code=code, prints=prints)


def is_whole(text: str) -> bool:
    """Return whether a shell would begin to run this, rather than wait for more."""
    if text.rstrip("\n").endswith("\\"):
        return False
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    return done.returncode == 0 and not done.stderr


def words(line: str) -> list[str]:
    """Return the words of a printed line, without its figures, ids, units and gaps."""
    kept = [
        token.strip(",.:;()")
        for token in line.split()
        if not re.search(r"\d", token) and not any(gap in token for gap in GAP)
    ]
    return [word for token in kept if token not in UNITS for word in re.findall(r"[A-Za-z][A-Za-z'-]*", token)]


def missing_line(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """Return the first line of the page that was not printed, in words, after those before it; None if all were."""
    place = 0
    for line in shown:
        wanted = words(line)
        for number in range(place, len(printed)):
            if _in_order(wanted, words(printed[number])):
                place = number + 1 if wanted else place
                break
        else:
            if wanted:
                return line
    return None


def _in_order(wanted: Sequence[str], found: Sequence[str]) -> bool:
    rest = iter(found)
    return all(word in rest for word in wanted)


def learn(shown: Sequence[str], printed: Sequence[str]) -> dict[str, str]:
    """Return what stands in the place of the page's ids and times: {as shown: as printed}."""
    learnt: dict[str, str] = {}
    place = 0
    for line in shown:
        for number in range(place, len(printed)):
            old, new = line.split(), printed[number].split()
            if len(old) == len(new) and words(line) == words(printed[number]):
                learnt |= {
                    a: b for a, b in zip(old, new, strict=True) if a != b and len(a) >= 8 and re.search(r"\d", a)
                }
                place = number + 1
                break
    return learnt


def fill_gap(text: str, printed: Sequence[str]) -> str:
    """Put what was printed last in the place of a quoted word with a gap: 'dal://127.0.0.1:8421/?name=s1&…'."""

    def last(found: re.Match[str]) -> str:
        begin = found.group(1)
        for line in reversed(printed):
            for token in line.split():
                if token.startswith(begin):
                    return f"'{token}'"
        return found.group(0)

    return re.sub(r"'([^'\n]+?)(?:…|\.\.\.)'", last, text)
