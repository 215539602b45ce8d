"""What the client sends for each call, byte for byte, is what it sent when version 1 of the protocol was recorded.

DAL_TEST_RECORD=1 writes tests/golden/http-v1-requests.json anew, after a change that is meant.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_client_calls import ASKED, CLONE, DUMP, REVISION, STATE, good_body

from dalsegno.replicas import wire
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.ids import ObjectId
from lying_kit import Asked, Liar, Said

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "http-v1-requests.json"
NAME = "a b%/ü"
LARGE = bytes(300 * 1024)
MORE: dict[str, tuple[str, Callable[[RemoteSite], Any]]] = {
    "block, all words": ("block", lambda site: site.block("home", ObjectId(REVISION), bytes_max=100)),
    "commit, all words": (
        "commit",
        lambda site: site.commit("home", REVISION, DUMP, [b"x", b"y"], common=REVISION, owner="me & you"),
    ),
    "commit of nothing": ("commit", lambda site: site.commit("home", REVISION, b"", [])),
    "commit of many bytes": ("commit", lambda site: site.commit("home", REVISION, DUMP, iter([LARGE, b"", LARGE]))),
    "upload of many bytes": ("upload", lambda site: site.upload("home", DUMP, 77, [LARGE, LARGE])),
    "advance of an owner": ("advance", lambda site: site.advance("home", REVISION, owner="me")),
    "agree on tombstones": ("agree", lambda site: site.agree("home", b"", uncloned={"old": [CLONE]})),
    "unclone here": ("unclone", lambda site: site.unclone("home", "daily", CLONE, here_only=True)),
    "watch, all words": ("watch", lambda site: site.watch("home", b"", seconds=1.5, follower="s2, s3")),
    "watch for ever": ("watch", lambda site: site.watch("home", REVISION, seconds=1e9)),
    "dump, all words": (
        "dump",
        lambda site: b"".join(
            site.dump("home", clone="daily", level=0, base="00" * 16, taken_at_ns=9, recipients=["age1x", "ssh-rsa y"])
        ),
    ),
    "another name": ("remove", lambda site: site.remove(NAME)),
    "another name in the directory": ("forget", lambda site: site.forget(NAME)),
    "create": ("create", lambda site: site.create(STATE)),
    "a token's words": (
        "add_token",
        lambda site: site.add_token(wire.NewToken(rights=["append"], volumes=["a*"], note="n", expires_seconds=9)),
    ),
}


def sent(asked: Asked) -> list[Any]:
    """Return a request; the secret of a lease is another one in each process."""
    headers = sorted((name, value) for name, value in asked.headers.items() if name not in ("Host", "Accept-Encoding"))
    body = asked.body.hex() if asked.body == LARGE * 2 or b"\0" in asked.body else asked.body.decode()
    if len(body) > 100_000:
        body = f"{len(asked.body)} bytes"
    hide = re.compile('(secret(?:=|":"))[0-9a-f]{32}')
    return [asked.method, hide.sub(r"\1SECRET", asked.path), headers, hide.sub(r"\1SECRET", body)]


def recorded() -> dict[str, Any]:
    asks = {name: (name, ask) for name, (ask, _) in ASKED.items()} | MORE
    found: dict[str, Any] = {}
    with Liar() as liar:
        for what, (name, ask) in asks.items():
            liar.lie = lambda asked, name=name: Said(body=good_body(name))
            liar.asked.clear()
            site = RemoteSite(liar.url, "token", name="s1")
            ask(site)
            site.close()
            found[what] = [sent(asked) for asked in liar.asked]
    return found


def test_each_call_is_sent_as_it_was() -> None:
    """Kind of fault: a client that older servers no longer understand."""
    found = json.loads(json.dumps(recorded()))
    if os.environ.get("DAL_TEST_RECORD"):
        GOLDEN.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    for what, requests in expected.items():
        assert found[what] == requests, what
