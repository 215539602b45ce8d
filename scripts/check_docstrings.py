"""Check that a public function that raises an error of the project names it in its docstring, or in its class's.

How many do not is in scripts/allowed_docstrings.txt, by package.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator

from allowed import ROOT, compare, sources

Function = ast.FunctionDef | ast.AsyncFunctionDef


def error_names() -> set[str]:
    """Return the names of the project's errors."""
    tree = ast.parse((ROOT / "src/dalsegno/terms/errors.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def raised(function: Function) -> Iterator[str]:
    """Yield the names of what a function raises itself."""
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            yield node.exc.func.id


def silent(node: ast.Module | ast.ClassDef, errors: set[str], above: str = "") -> Iterator[str]:
    """Yield the names of public functions that raise an error which no docstring names."""
    for each in node.body:
        if isinstance(each, ast.ClassDef) and not each.name.startswith("_"):
            yield from silent(each, errors, f"{above}{each.name}.")
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and (
            each.name == "__init__" or each.name[0] != "_"
        ):
            text = f"{ast.get_docstring(each)} {ast.get_docstring(node) if above else ''}"
            if any(name not in text for name in errors.intersection(raised(each))):
                yield f"{above}{each.name}"


def main() -> int:
    """Compare the number of each package with the list; `--all` names the functions."""
    errors, counts = error_names(), Counter[str]()
    for path in sources("src"):
        package = ".".join(path.relative_to(ROOT / "src").parts[:2]).removesuffix(".py")
        for name in silent(ast.parse(path.read_text()), errors):
            counts[package] += 1
            if "--all" in sys.argv:
                print(f"{path.relative_to(ROOT)}: {name}")
    remedy = "name the errors that callers get in the docstrings; `--all` lists who does not"
    return compare(counts, "allowed_docstrings.txt", remedy=remedy)


if __name__ == "__main__":
    sys.exit(main())
