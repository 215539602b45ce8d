"""docs/guides/server.md, as typed on the server, whose name is backup1."""

from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/server.md",
    between={
        "TOKEN=": "mkdir ~/home; echo offer > ~/home/letter; dal backup ~/home; dal clone home monday",
        'curl -sf -H "$AUTH" --cacert backup1.pem -T': "dal volume remove home --yes",
    },
    after="""
        [ "$(dal cat home@monday:/letter)" = offer ]
        dal token list | grep -q "Ada's laptop"
        curl -sf --cacert backup1.pem https://backup1:8420/health""",
    left_out={"pip install '.[server]'": "typed by the test of README.md, which has a network"},
    only_read={
        "scrape_configs:": "a part of Prometheus's configuration",
        "# useradd": "changes who is on this machine; the unit that it is for is judged in tests/server/test_unit.py",
    },
)


def test_as_typed() -> None:
    follow(SCENE)
