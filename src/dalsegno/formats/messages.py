"""Values as JSON and back, for the HTTP API (docs/formats/http.md, "Messages"). Pure.

A value is a `msgspec.Struct` of numbers, texts, bytes, lists, maps with text keys, and other such values. Bytes are
written as lowercase hexadecimal digits. A reader refuses what it does not know: a field nobody named, a number that
does not fit 64 bits, text that is no text.
"""

import math
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import inspect

from dalsegno.terms.errors import BadInput

HEX_PATTERN: Final = "^([0-9a-f]{2})*$"
_BASE64_LENGTHS: Final = {44: 32, 24: 16}
"""Lengths in base64 of the bytes that have a length of their own: ids of objects, and of volumes and packs."""
_TOO_DEEP: Final = "not JSON that this program reads: nested too deeply"
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

S = TypeVar("S")
_Read = Callable[[Any, str], Any]
"""Turns what JSON holds at a place into the value it stands for; the place is named in complaints."""


def encode(value: Any) -> bytes:
    """Return a value as JSON."""
    return msgspec.json.encode(to_plain(value))


def decode(data: bytes | bytearray, kind: type[S]) -> S:
    """Return the value of `kind` in `data`; BadInput says where it is none."""
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"not JSON: {error}") from None
    except RecursionError:
        raise BadInput(_TOO_DEEP) from None
    return from_plain(plain, kind)


def decode_map(data: bytes | bytearray) -> dict[str, Any]:
    """Return a JSON object without a kind of its own."""
    return decode(data, dict[str, Any])


def to_plain(value: Any) -> Any:
    """Return a value as JSON knows it: structs as maps, bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return {name: to_plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(plain: Any, kind: type[S]) -> S:
    """Return the value of `kind` that `plain` (as `to_plain` makes it) stands for."""
    try:
        return msgspec.convert(_reader(cast(Hashable, kind))(plain, "$"), kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise BadInput(" ".join(str(error).split())) from None
    except RecursionError:
        raise BadInput(_TOO_DEEP) from None


@cache
def _reader(kind: Hashable) -> _Read:
    return _compile(inspect.type_info(kind))


def _compile(info: inspect.Type) -> _Read:
    if isinstance(info, inspect.StructType):
        return _struct_reader(info)
    if isinstance(info, inspect.ListType):
        return _list_reader(_compile(info.item_type))
    if isinstance(info, inspect.DictType):
        return _map_reader(_compile(info.value_type))
    if isinstance(info, inspect.BytesType):
        return _read_bytes
    if isinstance(info, inspect.UnionType):
        return _union_reader(info)
    if isinstance(info, inspect.AnyType):
        return _read_any
    return _read_scalar


def _read_scalar(value: Any, where: str) -> Any:
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise BadInput(f"a number beyond 64 bits - at `{where}`")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"not a finite number - at `{where}`")
    return value


def _read_any(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_read_any(item, where) for item in value]
    if isinstance(value, dict):
        return {key: _read_any(item, where) for key, item in value.items()}
    return _read_scalar(value, where)


def _read_bytes(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        raise BadInput(f"expected hexadecimal digits - at `{where}`")
    return parse_hex(value, where)


def parse_hex(text: str, where: str) -> bytes:
    """Return the bytes that lowercase hexadecimal digits name."""
    if len(text) % 2 or text.strip("0123456789abcdef"):
        raise BadInput(f"expected lowercase hexadecimal digits, two for each byte - at `{where}`")
    return bytes.fromhex(text)


def _struct_reader(info: inspect.StructType) -> _Read:
    fields = {field.encode_name: _compile(field.type) for field in info.fields}

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            return value
        unknown = value.keys() - fields.keys()
        if unknown:
            raise BadInput(f"unknown field {min(unknown)[:64]!r} - at `{where}`")
        return {name: fields[name](item, f"{where}.{name}") for name, item in value.items()}

    return read


def _list_reader(item_reader: _Read) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            return value
        return [item_reader(item, f"{where}[...]") for item in value]

    return read


def _map_reader(item_reader: _Read) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item_reader(item, f"{where}[...]") for key, item in value.items()}

    return read


def _union_reader(info: inspect.UnionType) -> _Read:
    others = [choice for choice in info.types if not isinstance(choice, inspect.NoneType)]
    if len(others) > 1:
        plain = (inspect.StrType, inspect.IntType, inspect.FloatType, inspect.BoolType, inspect.ListType)
        assert all(isinstance(choice, plain) for choice in others), "JSON could not tell these apart"
        return _read_any
    reader = _compile(others[0])

    def read(value: Any, where: str) -> Any:
        return None if value is None else reader(value, where)

    return read


def schemas(kinds: list[type]) -> dict[str, Any]:
    """Return JSON schemas of the kinds and of what they hold, by name, for an OpenAPI page."""
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
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
