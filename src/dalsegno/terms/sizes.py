"""Sizes in bytes: named units, parsing and printing."""

import re

from dalsegno.terms.errors import BadInput

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_UNITS = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"^\s*(\d{1,18}(?:\.\d+)?)\s*([kmgt]?)i?b?\s*$", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that `text` names: `4096`, `10K`, `1.5GiB` (units are powers of 1024)."""
    match = _SIZE.match(text)
    if match is None:
        raise BadInput(f"size {text!r}: expected a number with K, M, G or T, for example 100M")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def format_size(size_bytes: float) -> str:
    """Return `size_bytes` as people read it: `17 B`, `4.0 KiB`, `1.2 GiB`."""
    if abs(size_bytes) < KIB:
        return f"{int(size_bytes)} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= KIB
        if abs(size_bytes) < KIB:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / KIB:.1f} TiB"
