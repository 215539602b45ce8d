"""Check that no class has more than 400 lines or 20 attributes, no function more than 60 lines or 7 parameters.

What is over a bound today is in scripts/allowed_sizes.txt, by name, so that a move to another module changes nothing.
"""

import ast
import sys
from collections.abc import Iterator

from allowed import compare, sources

BOUNDS = {"class lines": 400, "attributes": 20, "function lines": 60, "parameters": 7}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines(node: ast.ClassDef | Function) -> int:
    """Return how many lines a definition has."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def attributes(node: ast.ClassDef) -> int:
    """Return how many attributes a class's objects have: fields, and what its methods set on `self`."""
    fields = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    stored = (each for each in ast.walk(node) if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store))
    own = {each.attr for each in stored if isinstance(each.value, ast.Name) and each.value.id == "self"}
    return len(fields | own)


def parameters(node: Function) -> int:
    """Return how many parameters a function has beside `self`."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([each for each in given if each.arg not in ("self", "cls")])


def measure(node: ast.AST, above: str = "") -> Iterator[tuple[str, str, int]]:
    """Yield (name, bound, figure) for each definition below a node."""
    for each in ast.iter_child_nodes(node):
        name = above
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{above}.{each.name}" if above else each.name
        if isinstance(each, ast.ClassDef):
            yield name, "class lines", lines(each)
            yield name, "attributes", attributes(each)
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, "function lines", lines(each)
            yield name, "parameters", parameters(each)
        yield from measure(each, name)


def main() -> int:
    """Compare every definition with the bounds."""
    found: dict[str, int] = {}
    for path in sources():
        for name, bound, figure in measure(ast.parse(path.read_text())):
            if figure > BOUNDS[bound]:
                key = f"{name} {bound}"
                found[key] = max(found.get(key, 0), figure)
    return compare(found, "allowed_sizes.txt", remedy="cut it, by values")


if __name__ == "__main__":
    sys.exit(main())
