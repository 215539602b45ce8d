"""A realm's secret on paper: four lines that a person types again, each with a checksum that tells where he went wrong.

    1: qpzr-y9x8-gf2t-vdw0-s3jn

A line is 14 digits of the secret and the 6 of a Bech32 checksum (BIP 173), which finds up to four wrong characters for
certain; the prefix of the checksum is the line's number, so that no line can stand for another. The 280 bits of the
lines are the 32 bytes of the secret and 3 of BLAKE3 over them. Lines 5 to 8 are the secret before it, and so on.
"""

import re
from collections.abc import Sequence
from typing import Final

import bech32
from blake3 import blake3

from dalsegno.terms.errors import NoAccess

LINES: Final = 4
"""Of one secret. When the key was changed, further ones follow with the older secrets, the newest first."""
LINES_MAX: Final = 4 * 256
_DIGITS: Final = 14
_CHECK_DIGITS: Final = 6
_GROUP: Final = 4
_SECRET_BYTES: Final = 32
_CHECK_BYTES: Final = 3
_NUMBERED: Final = re.compile(r"^([1-9][0-9]{0,3})\s*[:.)]\s*(.*)$")
_LOOKS_ALIKE: Final = str.maketrans({"o": "0", "1": "l", "i": "l"})
"""Read as what they look like: they are no digits of Bech32."""
assert LINES * _DIGITS * 5 == (_SECRET_BYTES + _CHECK_BYTES) * 8


def _prefix(number: int) -> str:
    return f"dalsegno{number}"


def _check_bytes(secret: bytes) -> bytes:
    return blake3(secret, derive_key_context="dalsegno 2026-11 paper").digest(_CHECK_BYTES)


def paper_lines(*secrets: bytes) -> list[str]:
    """Return the lines to print, four for each secret."""
    digits: list[int] = []
    for secret in secrets:
        assert len(secret) == _SECRET_BYTES
        digits += bech32.convertbits(secret + _check_bytes(secret), 8, 5) or []
    lines = []
    for number in range(1, LINES * len(secrets) + 1):
        part = digits[(number - 1) * _DIGITS : number * _DIGITS]
        text = "".join(bech32.CHARSET[digit] for digit in part + bech32.bech32_create_checksum(_prefix(number), part))
        lines.append(f"{number}: " + "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP)))
    return lines


def is_paper(lines: Sequence[str]) -> bool:
    """Tell whether the lines of a file, without comments and empty ones, look like typed ones of a paper key."""
    return bool(lines) and _NUMBERED.match(lines[0].strip()) is not None


def read_paper(lines: Sequence[str]) -> list[bytes]:
    """Return the secrets of typed lines, in any order, case and grouping; the newest first.

    NoAccess names each line that is wrong.
    """
    typed: list[tuple[int, str]] = []
    wrong = []
    for line in lines:
        numbered = _NUMBERED.match(line.strip())
        if numbered is None:
            wrong.append(f"{line.strip()[:30]!r} has no number before it (1: to {LINES}:)")
        else:
            typed.append((int(numbered[1]), numbered[2]))
    # How many there are on the page, the last good line tells.
    last = max((number for number, text in typed if number <= LINES_MAX and _is_right(number, text)), default=0)
    count = LINES * max(1, -(-last // LINES))
    found: dict[int, list[int]] = {}
    for number, text in typed:
        digits, problem = _read_line(number, text, count)
        if problem or number in found:
            wrong.append(f"line {number}: {problem or 'is there twice'}")
        found[number] = digits
    wrong += [f"line {number} is missing" for number in range(1, count + 1) if number not in found]
    if wrong:
        raise NoAccess("; ".join(wrong))
    return [_secret_of([found[number] for number in range(at + 1, at + LINES + 1)]) for at in range(0, count, LINES)]


def _secret_of(lines: Sequence[Sequence[int]]) -> bytes:
    data = bytes(bech32.convertbits([digit for line in lines for digit in line], 5, 8, False) or b"")
    secret = data[:_SECRET_BYTES]
    if data[_SECRET_BYTES:] != _check_bytes(secret):
        raise NoAccess("the lines are not all of one key")
    return secret


def _letters(text: str) -> str:
    return re.sub(r"[\s\-]", "", text.lower()).translate(_LOOKS_ALIKE)


def _is_right(number: int, text: str) -> bool:
    letters = _letters(text)
    if len(letters) != _DIGITS + _CHECK_DIGITS or not set(letters) <= set(bech32.CHARSET):
        return False
    return bool(bech32.bech32_verify_checksum(_prefix(number), [bech32.CHARSET.index(letter) for letter in letters]))


def _read_line(number: int, text: str, count: int) -> tuple[list[int], str]:
    """Return the digits of a line, of so many on the page, or what is wrong with it."""
    if not 1 <= number <= count:
        return [], f"there are only {count}"
    letters = _letters(text)
    unknown = sorted({letter for letter in letters if letter not in bech32.CHARSET})
    if unknown:
        return [], f"no such character on the paper: {' '.join(map(ascii, unknown[:3]))}"
    if len(letters) != _DIGITS + _CHECK_DIGITS:
        return [], f"{len(letters)} characters, there are {_DIGITS + _CHECK_DIGITS} in each"
    digits = [bech32.CHARSET.index(letter) for letter in letters]
    if bech32.bech32_verify_checksum(_prefix(number), digits):
        return digits[:_DIGITS], ""
    for other in range(1, count + 1):
        if bech32.bech32_verify_checksum(_prefix(other), digits):
            return [], f"that is line {other}"
    return [], "mistyped, compare it with the paper"
