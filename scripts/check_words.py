"""Check that names in the code, and the pages, are free of words for which there is a better one.

scripts/forbidden_words.txt has a line for each: `names` or `pages` or both, the word, what to say instead.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from allowed import ROOT, sources

WORD_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of all that a file defines: its module, functions, classes, parameters."""
    yield 1, path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def main() -> int:
    """Look for each word where it is forbidden."""
    forbidden: dict[str, dict[str, str]] = {"names": {}, "pages": {}}
    for line in (ROOT / "scripts/forbidden_words.txt").read_text().splitlines():
        where, word, better = line.split(" ", 2)
        for each in where.split(","):
            forbidden[each][word] = better
    found = []
    for path in sources("src"):
        for line_number, name in names(path):
            for part in {each.lower() for each in WORD_PARTS.findall(name)} & forbidden["names"].keys():
                found.append(f"{path}:{line_number}: {name}: say {forbidden['names'][part]}, not {part}")
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, forbidden['pages']))})\b", re.IGNORECASE)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for line_number, line in enumerate(path.read_text().splitlines(), 1):
            for word in {each.lower() for each in pattern.findall(line)}:
                found.append(f"{path}:{line_number}: say {forbidden['pages'][word]}, not {word}")
    print("\n".join(found), end="\n" * bool(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
