"""The table of calls as an OpenAPI 3.1 page."""

from functools import cache
from typing import Any, Final

import msgspec

from dalsegno.formats.messages import schemas
from dalsegno.replicas import wire
from dalsegno.replicas.calls import CALLS, HEX_UPLOAD_PATTERN, NO_TOKEN, Call

MESSAGES: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (*(call.body for call in CALLS), *(call.answer for call in CALLS), wire.Problem)
    if kind is not None and issubclass(kind, msgspec.Struct)
}
OTHERS: Final[dict[type, tuple[str, dict[str, Any]]]] = {
    bytes: ("application/octet-stream", {"type": "string", "format": "binary"}),
    str: ("text/plain", {"type": "string"}),
    dict: ("application/json", {"type": "object"}),
}
REASONS: Final = {
    400: "The request is not one: words, header or body are wrong.",
    401: "No token, or one that opens nothing.",
    403: "The token does not give this right here.",
    404: "It is not there.",
    408: "The body did not arrive.",
    409: "Somebody else was faster, the volume is frozen, or the name is taken.",
    413: "The body is too large.",
    421: "The volume is on another server now: `moved_to` says on which.",
    422: "It would be wrong: what was sent does not fit what is here, or is damaged.",
    426: "The client speaks another version of this protocol.",
    429: "Too many requests: Retry-After says when to come again.",
    500: "The server's pool is damaged, or the server has a fault.",
    503: "Not now: too busy, stopping, or something it needs is away.",
    507: "The server's disk is full.",
}
ALWAYS: Final = (400, 401, 403, 413, 426, 429, 500, 503)
PATH_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "volume": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[^/@:]+$"},
    "upload": {"type": "string", "pattern": HEX_UPLOAD_PATTERN},
    "server": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    "request_id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "token_id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}


@cache
def encoded_page() -> bytes:
    """Return the OpenAPI page, which says the protocol's version: the program's is for those who have a token."""
    return msgspec.json.encode(page())


def page() -> dict[str, Any]:
    """Return the OpenAPI page."""
    paths: dict[str, Any] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dal Segno",
            "version": wire.PROTOCOL,
            "description": "Volumes, their objects and their replicas. docs/formats/http.md explains each call.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(list(MESSAGES.values())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(call: Call[Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]}
        for name in PATH_PARAMETERS
        if f"{{{name}}}" in call.path
    ]
    parameters += [
        {"name": one.name, "in": "query", "required": one.required, "schema": dict(one.schema)} for one in call.query
    ]
    errors = {*ALWAYS, *call.errors}
    if call.body is not None:
        errors |= {408, 507}
    if "{volume}" in call.path:
        errors.add(421)
    responses: dict[str, Any] = {"200": {"description": call.what, "content": _content(call.answer)}}
    for status in sorted(errors):
        responses[str(status)] = {"description": REASONS[status], "content": _content(wire.Problem)}
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.what,
        "parameters": parameters,
        "responses": responses,
        "security": [] if call.right == NO_TOKEN else [{"token": []}],
    }
    if call.body is not None:
        operation["requestBody"] = {"required": call.body is not bytes, "content": _content(call.body)}
    return operation


def _content(kind: type) -> dict[str, Any]:
    if kind in OTHERS:
        media, schema = OTHERS[kind]
        return {media: {"schema": schema}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
