"""The OpenAPI page, and which token opens which call, are those of version 1 of the protocol.

DAL_TEST_RECORD=1 writes the golden files anew, after a change that is meant: what is there already may not change.
"""

import http.client
import json
import os
from pathlib import Path
from typing import Any

from served_kit import Served

from dalsegno.replicas import wire
from dalsegno.replicas.tokens import RIGHTS
from dalsegno.server import openapi

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PAGE = GOLDEN / "http-v1-openapi.json"
STATUSES = GOLDEN / "http-v1-statuses.json"
WORDS = {
    "volume": "nobody",
    "upload": "00" * 16,
    "server": "s9",
    "token_id": "00" * 8,
    "request_id": "00" * 8,
}


def test_the_openapi_page_is_what_it_was() -> None:
    """Kind of fault: a table that no longer says what clients were made for."""
    found = openapi.encoded_page()
    if os.environ.get("DAL_TEST_RECORD"):
        PAGE.write_text(json.dumps(json.loads(found), indent=1) + "\n")
    assert json.loads(found) == json.loads(PAGE.read_text())


def statuses(served: Served) -> dict[str, Any]:
    """Return what each token is told by each call, for a volume that is not there: nothing of it changes anything."""
    site = served.server.site(served.token)
    tokens = {"none": ""}
    for right in RIGHTS:
        tokens[right] = site.add_token(wire.NewToken(rights=[right], volumes=["*"])).token
    tokens["of others"] = site.add_token(wire.NewToken(rights=["administer"], volumes=["other"])).token
    found: dict[str, Any] = {}
    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=60)
    for path, operations in json.loads(PAGE.read_text())["paths"].items():
        for method, operation in operations.items():
            for whose, token in tokens.items():
                given = {"Authorization": f"Bearer {token}"} if token else {}
                target = path.format(**WORDS) + ("?seconds=0" if operation["operationId"] == "watch" else "")
                connection.request(method.upper(), target, headers=given)
                response = connection.getresponse()
                status, answer = response.status, response.read()
                code = response.headers["Content-Type"] if status == 200 else json.loads(answer)["error"]["code"]
                found[f"{operation['operationId']} by {whose}"] = f"{status} {code}"
    connection.close()
    return found


def test_each_token_opens_what_it_opened(served: Served) -> None:
    """Kind of fault: a right that a new table gives, or takes away."""
    found = statuses(served)
    if os.environ.get("DAL_TEST_RECORD"):
        STATUSES.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(STATUSES.read_text())
    for what, said in expected.items():
        assert found[what] == said, what
