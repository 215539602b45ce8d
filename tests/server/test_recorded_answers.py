"""The OpenAPI page, and which token opens which call, are those of version 1 of the protocol.

DAL_TEST_RECORD=1 writes the golden files anew, after a change that is meant: what is there already may not change.
"""

import json
import os
from pathlib import Path
from typing import Any

from http_kit import ask
from served_kit import make_user

from dalsegno.server import openapi
from server_kit import Server, start_server

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
SENT = (("", b""), ("", b"{}"), ("?unknown=1", b""), ("?offset=0&seconds=0", b'{"unknown":1}'))


def test_the_openapi_page_is_what_it_was() -> None:
    """Kind of fault: a table that no longer says what clients were made for."""
    found = openapi.encoded_page()
    if os.environ.get("DAL_TEST_RECORD"):
        PAGE.write_text(json.dumps(json.loads(found), indent=1) + "\n")
    assert json.loads(found) == json.loads(PAGE.read_text())


def statuses(server: Server) -> dict[str, Any]:
    """Return what each token is told by each call, for a volume that is not there: nothing of it changes anything."""
    tokens = {"none": "", **{right: server.token(right) for right in ("read", "append", "write", "administer")}}
    tokens["of others"] = server.token("administer", volumes=("other",))
    found: dict[str, Any] = {}
    for path, operations in json.loads(PAGE.read_text())["paths"].items():
        for method, operation in operations.items():
            for whose, token in tokens.items():
                said = []
                for query, body in SENT if token else SENT[:1]:
                    if operation["operationId"] == "watch":  # one with a body waits for its end
                        query, body = query or "?seconds=0", b""
                    status, headers, answer = ask(
                        server, method.upper(), path.format(**WORDS) + query, token=token, body=body or None
                    )
                    code = json.loads(answer)["error"]["code"] if status != 200 else headers["content-type"]
                    said.append(f"{status} {code}")
                found[f"{operation['operationId']} by {whose}"] = said
    return found


def test_each_token_opens_what_it_opened(tmp_path: Path) -> None:
    """Kind of fault: a right that a new table gives, or takes away."""
    with start_server(make_user(tmp_path / "home"), "--rate", "1000000") as server:
        found = statuses(server)
    if os.environ.get("DAL_TEST_RECORD"):
        STATUSES.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(STATUSES.read_text())
    for what, said in expected.items():
        assert found[what] == said, what
