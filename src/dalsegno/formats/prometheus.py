"""Prometheus' text format, version 0.0.4: families of samples into lines. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `name` with its unit last, what it is, and a number for each set of labels."""

    name: str
    what: str
    samples: Iterable[tuple[Labels, float]]
    kind: Literal["gauge", "counter"] = "gauge"


def render(families: Iterable[Family]) -> list[str]:
    """Return the lines of families; whole numbers keep every digit."""
    lines = []
    for family in families:
        lines += [f"# HELP {family.name} {family.what}", f"# TYPE {family.name} {family.kind}"]
        for labels, value in family.samples:
            inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
            number = f"{value:.0f}" if value == int(value) else repr(value)
            lines.append(f"{family.name}{{{inside}}} {number}" if inside else f"{family.name} {number}")
    return lines


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
