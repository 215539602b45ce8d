"""Check that names in the code, and the pages, are free of words for which there is a better one.

Each line of scripts/forbidden_words.txt: where it is forbidden, separated by commas; the word; what to say instead.

* names: of modules, functions, classes and parameters in src
* pages: README.md and docs
* guides: README.md, docs/guides and the pages for newcomers, code between backticks excepted
* help: the help texts of the command line's options
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from allowed import ROOT, sources

GUIDES = ("README.md", "docs/terms.md", "docs/architecture.md", "docs/contributing.md", "docs/guides/*.md")
GUIDES_LEFT = ("docs/guides/threats.md",)
"""Not rewritten yet; this is to become empty."""
WORD_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of all that a file defines: its module, functions, classes, parameters."""
    yield 1, path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def help_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the help of each option in a file of the command line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "help":
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a page."""
    yield from enumerate(path.read_text().splitlines(), 1)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a page without what is between backticks or quotation marks."""
    for number, line in lines(path):
        yield number, re.sub(r"`[^`]*`|\"[^\"]*\"?", "", line)


def look(texts: Iterator[tuple[int, str]], path: Path, forbidden: dict[str, str]) -> Iterator[str]:
    """Yield a line for each forbidden word of a file's texts."""
    if not forbidden:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, forbidden))})\b", re.IGNORECASE)
    for line_number, text in texts:
        for word in {each.lower() for each in pattern.findall(text)}:
            yield f"{path}:{line_number}: say {forbidden[word]}, not {word}"


def main() -> int:
    """Look for each word where it is forbidden."""
    forbidden: dict[str, dict[str, str]] = {"names": {}, "pages": {}, "guides": {}, "help": {}}
    for line in (ROOT / "scripts/forbidden_words.txt").read_text().splitlines():
        where, word, better = line.split(" ", 2)
        for each in where.split(","):
            forbidden[each][word] = better
    found = []
    for path in sources("src"):
        for line_number, name in names(path):
            for part in {each.lower() for each in WORD_PARTS.findall(name)} & forbidden["names"].keys():
                found.append(f"{path}:{line_number}: {name}: say {forbidden['names'][part]}, not {part}")
        if path.parent.name == "cli":
            found += look(help_texts(path), path, forbidden["help"])
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        found += look(lines(path), path, forbidden["pages"])
    for path in sorted({path for each in GUIDES for path in ROOT.glob(each)}):
        if str(path.relative_to(ROOT)) not in GUIDES_LEFT:
            found += look(prose(path), path, forbidden["guides"])
    print("\n".join(found), end="\n" * bool(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
