"""Lists of what is still over a bound: each may only get shorter, and nothing on it may grow."""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCES: Final = ("src/dalsegno", "bench", "scripts")


def sources(*places: str) -> list[Path]:
    """Return the Python files below these places."""
    return sorted(path for place in places or SOURCES for path in (ROOT / place).rglob("*.py"))


def compare(found: dict[str, int], name: str, *, remedy: str) -> int:
    """Compare what is over a bound with scripts/NAME, which `--update` shortens; return the exit code."""
    path = ROOT / "scripts" / name
    listed = {key: int(value) for key, value in (line.rsplit(" ", 1) for line in path.read_text().splitlines())}
    grown = [(key, value) for key, value in sorted(found.items()) if value > listed.get(key, 0)]
    for key, value in grown:
        print(f"{key}: {value}, allowed: {listed.get(key, 'nothing')}; {remedy}", file=sys.stderr)
    smaller = {key: min(value, found[key]) for key, value in listed.items() if key in found}
    if smaller != listed:
        if "--update" in sys.argv:
            path.write_text("".join(f"{key} {value}\n" for key, value in sorted(smaller.items())))
        else:
            print(f"scripts/{name} allows more than there is: `python {sys.argv[0]} --update`", file=sys.stderr)
            return 1
    return 1 if grown else 0
