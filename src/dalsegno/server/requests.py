"""What a request says, read by the table of calls: words of its path and query, its message; may its token ask that."""

from typing import Any
from urllib.parse import parse_qsl

from dalsegno.formats import messages
from dalsegno.replicas import wire
from dalsegno.replicas.answers import check
from dalsegno.replicas.calls import ANY_RIGHT, NO_TOKEN, Call
from dalsegno.replicas.view import check_realm_name
from dalsegno.server.exchange import Exchange, Scope
from dalsegno.server.refusals import OldProtocol
from dalsegno.server.routes import Ask
from dalsegno.terms.errors import BadInput, NoAccess
from dalsegno.terms.ids import UUID_BYTES
from dalsegno.volumes.store import check_volume_name


def require_protocol(exchange: Exchange) -> None:
    """OldProtocol when the client speaks another version than this server."""
    spoken = exchange.headers.get(wire.PROTOCOL_HEADER, wire.PROTOCOL)
    if spoken != wire.PROTOCOL:
        raise OldProtocol(
            f"protocol {spoken[:20]!r}: this server speaks version {wire.PROTOCOL}: update whichever is older"
        )


def read_path(scope: Scope, ask: Ask) -> None:
    """Put the words of the path into `ask`; BadInput for a name that is none, or that hides a slash."""
    raw = scope.get("raw_path", b"").lower()
    if b"%2f" in raw or b"%00" in raw or b"%5c" in raw:
        raise BadInput("path: a name has no slash and no zero byte in it")
    words = scope["path_params"]
    if "volume" in words:
        name = words["volume"]
        if not name.isprintable():
            raise BadInput(f"volume name {name[:80]!r}: expected letters, digits and . _ - + , =")
        check_volume_name(name)
        ask.volume = name
    if "upload" in words:
        digits = words["upload"]
        if len(digits) != 2 * UUID_BYTES:
            raise BadInput(f"upload: expected {2 * UUID_BYTES} hexadecimal digits")
        ask.upload = messages.parse_hex(digits, "upload")
    ask.token_id = words.get("token_id", "")
    ask.request_id = words.get("request_id", "")
    if "server" in words:
        ask.server = check_realm_name(words["server"])


def read_message(data: bytes, kind: type[Any]) -> Any:
    """Return what a body says; BadInput for what is none.

    Of what gets into a volume's state all that clients look at is looked at here, too.
    """
    return check(messages.decode(data, kind))


def require_right(call: Call[Any], ask: Ask) -> None:
    """NoAccess when the token does not give the call's right on the volume, or on anything where there is none."""
    if call.right == NO_TOKEN:
        return
    token = ask.token
    if not ask.volume:
        if call.right != ANY_RIGHT and call.right not in token.effective():
            raise NoAccess(f"this token does not give the right to {call.right}")
        return
    if call.right == ANY_RIGHT:
        if not token.covers(ask.volume):
            raise NoAccess(f"this token gives no right on volume {ask.volume!r}")
    elif call.peers and token.peer and token.covers(ask.volume):
        return
    elif not token.allows(call.right, ask.volume) and not (call.also and token.allows(call.also, ask.volume)):
        raise NoAccess(f"this token does not give the right to {call.right} on volume {ask.volume!r}")


def read_query(call: Call[Any], raw: bytes) -> dict[str, Any]:
    """Return the words of the query, or their defaults; BadInput for one that is unknown, missing, or no value."""
    from_url = _parse_query(raw)
    known = {one.name for one in call.query}
    unknown = from_url.keys() - known
    if unknown:
        raise BadInput(f"unknown parameter {min(unknown)[:64]!r}")
    values: dict[str, Any] = {}
    for one in call.query:
        text = from_url.get(one.name)
        if text is None:
            if one.required:
                raise BadInput(f"parameter {one.name!r} is missing")
            values[one.name] = one.default
            continue
        try:
            values[one.name] = one.read(text)
        except BadInput as error:
            raise BadInput(f"parameter {one.name!r}: {error}") from None
    return values


def _parse_query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=32, errors="strict"
        )
    except ValueError:
        raise BadInput("the query is none: expected name=value&name=value") from None
    if len(dict(pairs)) != len(pairs):
        raise BadInput("a parameter stands twice")
    return dict(pairs)
