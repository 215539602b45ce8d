"""docs/guides/first-backup.md, as typed: the first day, and what it says of later days."""

import pytest
from guide_house import PERSON
from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/first-backup.md",
    before="mkdir -p ~/documents/letters; echo offer > ~/documents/letters/offer.txt; ln -s letters/offer.txt ~/documents/newest",
    between={
        "dal diff documents@yesterday": """
            for days in 1 2 3 4; do
                echo "offer of day $days" > ~/documents/letters/offer.txt
                export DAL_NOW=$(date -u -d "+$days days" +%FT%TZ)
                dal backup ~/documents -q
            done"""
    },
    after="[ ! -L /tmp/back/letters/offer.txt ] && [ -L /tmp/back/newest ]",
)


@pytest.mark.parametrize("person", ["root", PERSON])
def test_as_typed(person: str) -> None:
    printed = follow(SCENE, person=person)
    assert "M letters/offer.txt" in " ".join(printed) and "offer of day 1" in printed
