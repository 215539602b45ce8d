"""Values as JSON and back, for the HTTP API (docs/formats/http.md, "Messages"). Pure.

A value is a `msgspec.Struct` of numbers, texts, bytes, lists, maps with text keys, and other such values. Bytes are
written as lowercase hexadecimal digits. A reader refuses what it does not know: a field nobody named (unless it is told
to pass over these), a number that does not fit 64 bits, text that is no text.
"""

import re
import sys
import typing
from collections.abc import Callable, Hashable
from functools import cache
from typing import Annotated, Any, ClassVar, Final, TypeVar, cast

import msgspec

from dalsegno.terms.errors import BadInput, Damaged

HEX_PATTERN: Final = "^([0-9a-f]{2})*$"
_HEX_STRICTLY: Final = r"\A([0-9a-f]{2})*\Z"
_NO_HEX: Final = "expected lowercase hexadecimal digits, two for each byte"
_BASE64_LENGTHS: Final = {44: 32, 24: 16}
"""Lengths in base64 of the bytes that have a length of their own: ids of objects, and of volumes and packs."""
_TOO_DEEP: Final = "not JSON that this program reads: nested too deeply"
_UNKNOWN: Final = re.compile("Object contains unknown field `(.*?)`", re.DOTALL)
_SCHEMA_PLACE: Final = "#/components/schemas/{name}"
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

S = TypeVar("S")


class Told:
    """A value that crosses, and is stored, as another one."""

    FORM: ClassVar[type[msgspec.Struct]]
    """What it crosses as."""

    ITEM: ClassVar[type[msgspec.Struct] | None] = None
    """Of what it crosses as a list, where its form has only a list to say; None: it never does."""

    __slots__ = ()

    @classmethod
    def of(cls, form: Any, /) -> Any:
        """Return the value that `form` stands for; Damaged for none."""
        raise NotImplementedError

    def told(self) -> Any:
        """Return what stands for this value."""
        raise NotImplementedError


_Make = Callable[[Any], Any]
"""Turns what was decoded into the value that it stands for."""


def encode(value: Any) -> bytes:
    """Return a value as JSON."""
    return msgspec.json.encode(to_plain(value))


def decode(data: bytes | bytearray, kind: type[S], *, more: bool = False) -> S:
    """Return the value of `kind` in `data`; BadInput says where it is none.

    It is looked at while it is read: what is none costs no memory beyond its own. `more`: fields that nobody named are
    passed over, as a later version's may be.
    """
    try:
        found = _decoder(cast(Hashable, kind), more).decode(data)
    except msgspec.ValidationError as error:
        raise BadInput(_words(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"not JSON: {error}") from None
    except RecursionError:
        raise BadInput(_TOO_DEEP) from None
    make = _maker(cast(Hashable, kind))
    try:
        value: S = make(found) if make is not None else found
    except Damaged as error:
        raise BadInput(str(error)) from None
    return value


def _words(error: Exception) -> str:
    text = " ".join(str(error).split()).replace(f"Expected `str` matching regex {_HEX_STRICTLY!r}", _NO_HEX)
    return _UNKNOWN.sub(lambda match: f"unknown field {match[1][:64]!r}", text)


def to_plain(value: Any) -> Any:
    """Return a value as JSON knows it: structs as maps, bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Told):
        return to_plain(value.told())
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(plain: Any, kind: type[S]) -> S:
    """Return the value of `kind` that `plain` (as `to_plain` makes it) stands for."""
    return decode(msgspec.json.encode(plain), kind)


def convert(plain: Any, kind: type[S]) -> S:
    """Return the value of `kind` in maps, lists and bytes; msgspec.ValidationError where there is none."""
    return msgspec.convert(plain, kind, builtin_types=(bytes,), dec_hook=_of_form)


def _of_form(kind: type, plain: Any) -> Any:
    assert issubclass(kind, Told)
    if isinstance(plain, list) and kind.ITEM is not None:
        return kind.of(convert(plain, list[kind.ITEM]))  # type: ignore[name-defined]
    return kind.of(convert(plain, kind.FORM))


def parse_hex(text: str, where: str) -> bytes:
    """Return the bytes that lowercase hexadecimal digits name; BadInput, naming `where`, for other text."""
    if len(text) % 2 or text.strip("0123456789abcdef"):
        raise BadInput(f"{_NO_HEX} - at `{where}`")
    return bytes.fromhex(text)


# msgspec has base64 for bytes in JSON. A type of our own for hexadecimal digits, read and written by hooks, would have
# no bounds of length (Meta takes bytes and text only), would need hooks wherever the same values are stored as msgpack,
# too, and plain bytes in its place would cross as base64, unnoticed. So a kind is read in two steps: as its likeness on
# the wire, where bytes are hexadecimal digits and a field that is not there is UNSET, by msgspec;
# and from that as itself.


@cache
def _decoder(kind: Hashable, more: bool) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_on_wire(kind, more))


@cache
def _on_wire(kind: Any, more: bool) -> Any:
    """Return the type that JSON has in the place of `kind`."""
    if isinstance(kind, type) and issubclass(kind, Told):
        if kind.ITEM is not None:
            return list[_on_wire(kind.ITEM, more)] | _on_wire(kind.FORM, more)  # type: ignore[misc]
        kind = kind.FORM
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = [
            (field.name, _on_wire(hints[field.name], more))
            if field.required
            else (field.name, _on_wire(hints[field.name], more) | msgspec.UnsetType, msgspec.UNSET)
            for field in msgspec.structs.fields(kind)
        ]
        return msgspec.defstruct(kind.__name__, fields, kw_only=True, forbid_unknown_fields=not more)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _with_limits(parts[0], parts[1:], more)
    if origin in (list, dict):
        return origin[tuple(_on_wire(part, more) for part in parts)]
    if origin is typing.Literal or not parts:
        return _with_limits(kind, (), more)
    return typing.Union[tuple(_on_wire(part, more) for part in parts)]  # noqa: UP007 - of parts that are counted here


def _with_limits(kind: Any, limits: tuple[Any, ...], more: bool) -> Any:
    if kind is bytes:
        digits = {
            f"{side}_length": 2 * length
            for meta in limits
            for side in ("min", "max")
            if (length := getattr(meta, f"{side}_length")) is not None
        }
        return Annotated[str, msgspec.Meta(pattern=_HEX_STRICTLY, **digits)]
    if kind is int:
        least = max((meta.ge for meta in limits if meta.ge is not None), default=INT_MIN)
        most = min((meta.le for meta in limits if meta.le is not None), default=INT_MAX)
        return Annotated[int, msgspec.Meta(ge=least, le=most)]
    if kind is float:
        return Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
    likeness = kind if typing.get_origin(kind) is typing.Literal else _on_wire(kind, more) if limits else kind
    for meta in limits:
        likeness = Annotated[likeness, meta]
    return likeness


@cache
def _maker(kind: Any) -> _Make | None:
    """Return what makes a value of `kind` of its likeness; None where they are the same."""
    if kind is bytes:
        return bytes.fromhex
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct_maker(kind)
    if isinstance(kind, type) and issubclass(kind, Told):
        of, form = kind.of, _struct_maker(kind.FORM)
        if kind.ITEM is not None:
            item = _struct_maker(kind.ITEM)
            return lambda value: of([item(each) for each in value] if isinstance(value, list) else form(value))
        return lambda value: of(form(value))
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _maker(parts[0])
    if origin is list:
        each = _maker(parts[0])
        return None if each is None else lambda value: [each(item) for item in value]
    if origin is dict:
        item_maker = _maker(parts[1])
        return None if item_maker is None else lambda value: {key: item_maker(item) for key, item in value.items()}
    makers = [_maker(part) for part in parts] if origin is not typing.Literal else []
    found = [maker for maker in makers if maker is not None]
    if not found:
        return None
    assert len(parts) == 2 and type(None) in parts, "JSON could not tell these apart"
    return lambda value: None if value is None else found[0](value)


def _struct_maker(kind: type[msgspec.Struct]) -> _Make:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [(name, _maker(hints[name])) for name in kind.__struct_fields__]

    def make(found: Any) -> Any:
        given = {}
        for name, maker in fields:
            value = getattr(found, name)
            if value is not msgspec.UNSET:
                given[name] = value if maker is None else maker(value)
        return kind(**given)

    return make


def schemas(kinds: list[type]) -> dict[str, Any]:
    """Return JSON schemas of the kinds and of what they hold, by name, for an OpenAPI page."""
    forms: list[type] = []

    def schema_hook(kind: type) -> dict[str, Any]:
        assert issubclass(kind, Told)
        forms.append(kind.FORM)
        whole = {"$ref": _SCHEMA_PLACE.format(name=kind.FORM.__name__)}
        if kind.ITEM is None:
            return whole
        forms.append(kind.ITEM)
        return {"anyOf": [{"type": "array", "items": {"$ref": _SCHEMA_PLACE.format(name=kind.ITEM.__name__)}}, whole]}

    _, found = msgspec.json.schema_components(kinds, schema_hook=schema_hook, ref_template=_SCHEMA_PLACE)
    _, of_forms = msgspec.json.schema_components(forms, schema_hook=schema_hook, ref_template=_SCHEMA_PLACE)
    found = {**of_forms, **found}
    result: dict[str, Any] = _tell_json(found)
    return result


def _tell_json(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_tell_json(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return {"type": "string", "pattern": _hex_pattern(schema), **_other_words(schema)}
    result = {key: _tell_json(item) for key, item in schema.items()}
    if schema.get("type") == "integer":
        result = {"minimum": INT_MIN, "maximum": INT_MAX, **result}
    if schema.get("type") == "object" and "properties" in schema:
        result["additionalProperties"] = False
    return result


def _hex_pattern(schema: dict[str, Any]) -> str:
    """Return the pattern of bytes whose lengths are given as those of base64, which has 4 characters for 3 bytes."""
    least, most = (schema.get(key) for key in ("minLength", "maxLength"))
    if most is None:
        return HEX_PATTERN
    bytes_max = _BASE64_LENGTHS[most]
    return f"^[0-9a-f]{{{2 * bytes_max}}}$" if least == most else f"^([0-9a-f]{{2}}){{0,{bytes_max}}}$"


def _other_words(schema: dict[str, Any]) -> dict[str, Any]:
    ours = ("contentEncoding", "type", "minLength", "maxLength")
    return {key: _tell_json(item) for key, item in schema.items() if key not in ours}
