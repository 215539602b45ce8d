"""The checks of `make lint`, each on a small tree: that it finds what it is for, and that its list only gets shorter."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
LONG = "def work(one):\n" + "    one += 1\n" * 60
WIDE = "def work(one, two, three, four, five, six, seven, eight):\n    pass\n"
LARGE = "class Work:\n" + "    pass\n" * 400
MANY = "class Work:\n" + "".join(f"    field_{number}: int\n" for number in range(21))
LATE = "def work():\n    import json\n    return json\n"
DYNAMIC = "from importlib import import_module\nimport_module('json')\n"
SILENT = 'from dalsegno.terms.errors import Damaged\n\n\ndef work():\n    """Do it."""\n    raise Damaged("no")\n'
NAMED = SILENT.replace("Do it.", "Do it; Damaged when it is no use.")
HIDDEN = SILENT.replace("def work", "def _work")


class Tree:
    """A copy of the checks, with a source tree of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        shutil.copytree(SCRIPTS, place / "scripts", ignore=shutil.ignore_patterns("__pycache__", "*.sh"))
        for path in (place / "scripts").glob("allowed_*.txt"):
            path.write_text("")
        (place / "src/dalsegno/terms").mkdir(parents=True)
        (place / "src/dalsegno/terms/errors.py").write_text("class Damaged(Exception): ...\n")
        (place / "docs").mkdir()
        (place / "README.md").write_text("# A program\n")

    def write(self, text: str) -> None:
        (self.place / "src/dalsegno/work.py").write_text(text)

    def check(self, name: str, *words: str) -> tuple[int, str]:
        command = [sys.executable, str(self.place / "scripts" / f"check_{name}.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("check", "text", "said"),
    [
        ("sizes", LONG, "work function lines: 61"),
        ("sizes", WIDE, "work parameters: 8"),
        ("sizes", LARGE, "Work class lines: 401"),
        ("sizes", MANY, "Work attributes: 21"),
        ("imports", LATE, "dalsegno.work: 1"),
        ("imports", DYNAMIC, "dalsegno.work: 1"),
        ("docstrings", SILENT, "dalsegno.work: 1"),
    ],
)
def test_what_is_over_a_bound_is_found_and_its_list_only_gets_shorter(
    tree: Tree, check: str, text: str, said: str
) -> None:
    """The kind: a rule that holds only as long as somebody remembers it."""
    tree.write(text)
    code, found = tree.check(check)
    assert code == 1 and f"{said}, allowed: nothing" in found
    listed = tree.place / "scripts" / f"allowed_{check}.txt"
    listed.write_text(f"{said.replace(': ', ' ')}\ngone 7\n")
    assert tree.check(check)[0] == 1, "it allows more than there is"
    tree.check(check, "--update")
    assert listed.read_text() == f"{said.replace(': ', ' ')}\n"
    assert tree.check(check) == (0, "")
    tree.write("")
    assert tree.check(check)[0] == 1
    tree.check(check, "--update")
    assert listed.read_text() == ""


@pytest.mark.parametrize("text", [NAMED, HIDDEN, LONG.replace("    one += 1\n", "", 1)])
def test_what_keeps_the_rules_is_let_be(tree: Tree, text: str) -> None:
    tree.write(text)
    assert [tree.check(check) for check in ("sizes", "imports", "docstrings", "words")] == [(0, "")] * 4


def test_forbidden_words_are_found_in_names_and_on_pages(tree: Tree) -> None:
    (tree.place / "scripts/forbidden_words.txt").write_text("names utils a noun\npages picture view\n")
    tree.write("def make_utils(picture):\n    pass\n")
    (tree.place / "docs/page.md").write_text("A picture.\nNo utils, and nothing pictured.\n")
    code, found = tree.check("words")
    assert code == 1
    assert [line.rpartition("/")[2] for line in found.splitlines()] == [
        "work.py:1: make_utils: say a noun, not utils",
        "page.md:1: say view, not picture",
    ]


def test_forbidden_words_are_found_in_guides_and_help_texts(tree: Tree) -> None:
    (tree.place / "scripts/forbidden_words.txt").write_text("guides,help whoever the user\n")
    (tree.place / "src/dalsegno/cli").mkdir()
    (tree.place / "src/dalsegno/cli/work.py").write_text('add("x", help="for whoever\\n" + "asks")\n')
    (tree.place / "docs/guides").mkdir()
    (tree.place / "docs/guides/page.md").write_text('Whoever asks.\nIt prints `whoever` and "for whoever".\n')
    code, found = tree.check("words")
    assert code == 1
    assert [line.rpartition("/")[2] for line in found.splitlines()] == [
        "work.py:1: say the user, not whoever",
        "page.md:1: say the user, not whoever",
    ]
