"""docs/guides/restore.md, as typed, by somebody with a volume `home` that has a past, and dumps of it."""

from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/restore.md",
    before="""
        mkdir -p ~/home/letters /media/usb
        echo old > ~/home/letters/offer.txt
        DAL_NOW=2026-10-03T02:00:00Z dal backup ~/home
        dal dump home --level 0 -o full.dump
        echo older > ~/home/letters/offer.txt
        DAL_NOW=$(date -u -d yesterday +%FT02:00:00Z) dal backup ~/home
        dal dump home --level 1 -o incr1.dump
        echo offer > ~/home/letters/offer.txt
        dal backup ~/home
        dal dump home --level 2 -o incr2.dump""",
    between={
        "dal restore home --to ~/home --dry-run": """
            [ "$(cat /tmp/back/letters/offer.txt)" = offer ]
            echo mine > ~/home/letters/offer.txt; echo new > ~/home/new""",
        "dal key export": "[ ! -e ~/home/new ] && [ \"$(cat ~/home/letters/offer.txt)\" = offer ]",
        "dal init --join": "rm -rf ~/.local ~/.config ~/.cache ~/home",
    },
    after="[ \"$(cat ~/home/letters/offer.txt)\" = older ] && [ \"$(dal cat home:/letters/offer.txt)\" = older ]",
    only_read={"user hmpierce 1042": "lines of a file for --owners"},
)  # fmt: skip


def test_as_typed() -> None:
    follow(SCENE)
