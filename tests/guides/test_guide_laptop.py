"""docs/guides/laptop.md, as typed: the server and the laptop are one machine, whose name is backup1."""

from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/laptop.md",
    between={
        "dal realm join": "mkdir ~/documents; echo offer > ~/documents/letter; echo x > ~/documents/big.iso",
    },
    after="""
        [ "$(cat /tmp/back/letter)" = offer ] && [ ! -e /tmp/back/big.iso ]
        [ ! -e ~/.local/share/dalsegno/pool ]
        [ "$(dal --pool /srv/pool volume list -q | grep -c laptop-documents)" = 1 ]
        ! dal volume remove laptop-documents --yes""",
)


def test_as_typed() -> None:
    follow(SCENE)
