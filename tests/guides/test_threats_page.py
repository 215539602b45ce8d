"""docs/guides/threats.md: each row of its tables names tests, and these exist. The kind of fault: a promise without proof."""

import ast
import re

import pytest
from guide_house import ROOT

PAGE = ROOT / "docs" / "guides" / "threats.md"
NAMED = re.compile(r"`([a-z_/]+/test_[a-z_0-9]+\.py)::(\w+)`")
ATTACKERS = 8
"""Tables at least: one for each attacker."""


def rows() -> list[list[str]]:
    """Return the cells of each row of each table, without heads and rules."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[1] != "what" and set(row[1]) != {"-"}]


def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_says_can_or_cannot_and_names_a_test() -> None:
    found = rows()
    assert PAGE.read_text().count("| | what |") >= ATTACKERS and len(found) >= 5 * ATTACKERS
    for row in found:
        assert len(row) == 4, row
        assert row[0] in ("can", "cannot") and row[1], row
        assert row[3] and not NAMED.sub("", row[3]).strip(" ,"), row


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED.findall(PAGE.read_text())}))
def test_the_tests_that_the_page_names_exist(path: str) -> None:
    wanted = {name for where, name in NAMED.findall(PAGE.read_text()) if where == path}
    assert (ROOT / "tests" / path).is_file(), f"{path} is named and not there"
    assert wanted <= names_in(path), f"{path} has no {sorted(wanted - names_in(path))}"
