"""docs/guides/dumps-and-merge.md, as typed, by somebody with a volume `home` whose directory changes between the dumps."""

from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/dumps-and-merge.md",
    before="mkdir -p ~/home/letters; echo offer > ~/home/letters/offer.txt; DAL_NOW=$(date -u -d yesterday +%FT02:00:00Z) dal backup ~/home",
    between={
        "dal dump home --level 1": "echo wednesday > ~/home/letters/wednesday; dal backup ~/home",
        "dal dump home --level 2": "rm ~/home/letters/offer.txt; echo friday > ~/home/letters/friday; dal backup ~/home",
    },
    after="""
        [ "$(dal cat full.dump:/letters/friday)" = friday ] && ! dal cat full.dump:/letters/offer.txt
        [ ! -e wrong.dump ] && [ "$(dal cat monday-0.dump:/letters/friday)" = friday ]
        dal history home | grep -q monday-0.dump && ! dal history home | grep -q day-[123].dump""",
)


def test_as_typed() -> None:
    follow(SCENE)
