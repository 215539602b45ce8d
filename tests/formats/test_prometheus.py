"""Prometheus' text format: escapes, numbers and kinds."""

from dalsegno.formats.prometheus import Family, render


def test_labels_are_escaped_and_numbers_keep_every_digit() -> None:
    samples = [({}, 1.5), ({"a": 'odd "\\\n', "b": ""}, 123_456_789_012_345), ({"c": "d"}, True), ({"c": "e"}, 2e20)]
    assert render([Family("x_total", "What it is.", samples, "counter"), Family("y", "None.", [])]) == [
        "# HELP x_total What it is.",
        "# TYPE x_total counter",
        "x_total 1.5",
        'x_total{a="odd \\"\\\\\\n",b=""} 123456789012345',
        'x_total{c="d"} 1',
        'x_total{c="e"} 200000000000000000000',
        "# HELP y None.",
        "# TYPE y gauge",
    ]
