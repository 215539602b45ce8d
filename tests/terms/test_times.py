"""Times as people type and read them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalsegno.terms import times
from dalsegno.terms.errors import BadInput
from dalsegno.terms.sizes import parse_size
from dalsegno.terms.times import SECOND_NS, format_time, parse_duration_seconds, parse_time_ns, show_time, time_name

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY_NOON = int(datetime(2026, 11, 30, 11, 0, tzinfo=UTC).timestamp()) * SECOND_NS  # 12:00 in Berlin


@pytest.fixture(autouse=True)
def berlin():
    times.set_zone(BERLIN)
    yield
    times.set_zone(None)


@pytest.mark.parametrize(
    ("text", "last_second"),
    [
        ("2026-11-21", "2026-11-21T22:59:59Z"),
        ("20261121", "2026-11-21T22:59:59Z"),
        ("2026-11-21T02", "2026-11-21T01:59:59Z"),
        ("2026-11-21T02:00", "2026-11-21T01:00:59Z"),
        ("2026-11-21 02:00", "2026-11-21T01:00:59Z"),
        ("2026-11-21T02:00:07", "2026-11-21T01:00:07Z"),
        ("2026-11-21T02:00:07Z", "2026-11-21T02:00:07Z"),
        ("2026-11-21T020007Z", "2026-11-21T02:00:07Z"),
        ("2026-11-21T02:00:07-05:00", "2026-11-21T07:00:07Z"),
        ("today", "2026-11-30T22:59:59Z"),
        ("yesterday", "2026-11-29T22:59:59Z"),
        ("monday", "2026-11-30T22:59:59Z"),
        ("sunday", "2026-11-29T22:59:59Z"),
        ("tuesday", "2026-11-24T22:59:59Z"),
        ("2026-03-28", "2026-03-28T22:59:59Z"),
        ("2026-03-29", "2026-03-29T21:59:59Z"),  # the day on which the clock goes forward
        ("2026-10-25", "2026-10-25T22:59:59Z"),  # and back
    ],
)
def test_what_is_named_means_its_end_in_the_zone_of_who_types(text, last_second):
    found = parse_time_ns(text, now_ns=MONDAY_NOON)
    assert found is not None
    assert format_time(found) == last_second
    assert found % SECOND_NS == SECOND_NS - 1


@pytest.mark.parametrize(
    ("text", "seconds_ago"), [("now", 0), ("90s", 90), ("2h", 7200), ("3d", 3 * 86400), ("1w", 7 * 86400)]
)
def test_spans_are_counted_back_from_now(text, seconds_ago):
    assert parse_time_ns(text, now_ns=MONDAY_NOON) == MONDAY_NOON - seconds_ago * SECOND_NS


@pytest.mark.parametrize(
    "text",
    ["", "lastweek", "30.11.2026", "2026-W48", "2026", "2026-13-01", "2026-11-21T25:00", "Monday ", "T02:00", "3x"],
)
def test_what_is_no_time_is_told(text):
    assert parse_time_ns(text, now_ns=MONDAY_NOON) is None


@given(st.integers(min_value=-(2**61), max_value=2**62), st.sampled_from([None, BERLIN, UTC, ZoneInfo("Asia/Kolkata")]))
def test_a_time_that_was_shown_finds_what_was_made_then(at_ns, zone):
    """Kind: what one command prints, another does not take. Shown times leave fractions of a second out."""
    times.set_zone(zone)
    for text in (show_time(at_ns), time_name(at_ns), format_time(at_ns)):
        found = parse_time_ns(text, now_ns=MONDAY_NOON)
        assert found is not None
        assert found // SECOND_NS == at_ns // SECOND_NS
        assert found >= at_ns


def test_times_are_shown_with_their_offset_and_names_have_no_colon():
    assert show_time(MONDAY_NOON) == "2026-11-30T12:00:00+01:00"
    times.set_zone(UTC)
    assert show_time(MONDAY_NOON) == "2026-11-30T11:00:00Z"
    assert time_name(MONDAY_NOON) == "2026-11-30T110000Z"


@pytest.mark.parametrize("parse", [parse_duration_seconds, parse_size])
@pytest.mark.parametrize("unit", ["d", "G", "h", ""])
def test_numbers_that_nobody_can_mean_are_no_durations_and_no_sizes(parse, unit):
    """Kind: Python reads no number of thousands of digits, and one of hundreds is infinite as a float."""
    for digits in (19, 400, 5000):
        with pytest.raises(BadInput):
            parse("9" * digits + unit)
        assert parse_time_ns("9" * digits + unit, now_ns=MONDAY_NOON) is None
