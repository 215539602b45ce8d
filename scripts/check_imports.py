"""Check that modules are imported at the top of a file: dynamic imports hide circles from the contract of layers.

The loader of commands in cli/main.py stays; what else there is today is in scripts/allowed_imports.txt, by module.
"""

import ast
import sys
from pathlib import Path

from allowed import ROOT, compare, sources

LOADER = "dalsegno.cli.main"


def dynamic_imports(path: Path) -> int:
    """Return how many imports of a file are no statements at its top, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        in ("import_module", "__import__")
    ]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {each for node in functions for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom)}
    return len(calls) + len(inside)


def main() -> int:
    """Compare every module with the list."""
    found = {}
    for path in sources("src"):
        name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        count = dynamic_imports(path) - (name == LOADER)
        if count > 0:
            found[name] = count
    return compare(found, "allowed_imports.txt", remedy="import at the top of the file")


if __name__ == "__main__":
    sys.exit(main())
