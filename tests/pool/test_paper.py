"""A key on paper: typed again it is the same, and a typing error is named by its line."""

import random

import pytest

from dalsegno.pool.paper import paper_lines, read_paper
from dalsegno.terms.errors import NoAccess

SECRET = bytes(range(100, 132))
LINES = paper_lines(SECRET)
GOLDEN = [
    "1: v3jk-vemg-d94x-kmws-nk46",
    "2: rdde-hhqu-tjwd-686j-wd8n",
    "3: 2anh-0puh-57mu-04hw-fq6c",
    "4: l8lq-yps2-phtf-0f45-7xrz",
]
DIGITS = "023456789acdefghjklmnpqrstuvwxyz"


def test_the_lines_are_read_for_ever():
    assert paper_lines(SECRET) == LINES and read_paper(LINES) == [SECRET]
    assert LINES == GOLDEN


def test_what_was_typed_carelessly_is_the_same():
    typed = [line.upper().replace("-", " ").replace(": ", ".  ") for line in reversed(LINES)]
    assert read_paper(typed) == [SECRET]
    assert read_paper([line.replace("-", "").replace("0", "O").replace("l", "1") for line in LINES]) == [SECRET]


def test_each_wrong_character_is_named_by_its_line():
    """Kind: a long secret is wrong, and nobody can tell where."""
    for number, line in enumerate(LINES, 1):
        for at in range(3, len(line)):
            if line[at] == "-":
                continue
            for digit in DIGITS:
                if digit == line[at]:
                    continue
                wrong = [*LINES]
                wrong[number - 1] = line[:at] + digit + line[at + 1 :]
                with pytest.raises(NoAccess, match=f"^line {number}: mistyped"):
                    read_paper(wrong)


def test_up_to_four_wrong_characters_and_exchanged_ones_are_found():
    chance = random.Random(1)
    for _ in range(500):
        number = chance.randrange(4)
        line = [*LINES[number].replace("-", "")]
        for at in chance.sample(range(3, len(line)), chance.randint(2, 4)):
            line[at] = chance.choice(DIGITS.replace(line[at], ""))
        wrong = [*LINES]
        wrong[number] = "".join(line)
        with pytest.raises(NoAccess, match=f"^line {number + 1}: mistyped"):
            read_paper(wrong)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (LINES[:2] + LINES[3:], "line 3 is missing"),
        ([*LINES, LINES[0]], "line 1: is there twice"),
        ([LINES[0], *LINES[2:], "2" + LINES[2][1:]], "line 2: that is line 3"),
        ([LINES[0][:-1], *LINES[1:]], "line 1: 19 characters, there are 20"),
        ([LINES[0] + "q", *LINES[1:]], "line 1: 21 characters"),
        ([LINES[0][:-1] + "b", *LINES[1:]], "line 1: no such character on the paper: 'b'"),
        ([LINES[0][:-1] + "\u0437", *LINES[1:]], "line 1: no such character"),
        ([*LINES, "5: x"], "line 5: there are only 4"),
        ([*LINES[:3], LINES[3][3:]], "has no number before it"),
        ([*LINES[:3], paper_lines(bytes(32))[3]], "not all of one key"),
    ],
)
def test_what_is_wrong_is_said(typed, said):
    with pytest.raises(NoAccess, match=said):
        read_paper(typed)
