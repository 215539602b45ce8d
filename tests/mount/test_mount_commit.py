"""When the changes of a writable mount are committed by the clock."""

import pytest

from dalsegno.mount.commit import (
    COMMIT_SECONDS,
    LOOK_SECONDS,
    RETRY_SECONDS,
    RISK_SECONDS_MAX,
    SPOOL_BYTES_SOON,
    is_due,
)
from dalsegno.terms.times import SECOND_NS

NOW_NS = 10**9 * SECOND_NS


@pytest.mark.parametrize(
    ("dirty_seconds", "spooled_bytes", "failed_seconds", "due"),
    [
        (None, 0, None, False),
        (COMMIT_SECONDS - 0.5, 0, None, False),
        (COMMIT_SECONDS, 0, None, True),
        (0, SPOOL_BYTES_SOON + 1, None, True),
        (COMMIT_SECONDS * 9, 0, RETRY_SECONDS - 0.5, False),
        (COMMIT_SECONDS * 9, 0, RETRY_SECONDS, True),
    ],
)
def test_changes_are_committed_when_old_or_many_and_not_at_once_after_a_failure(
    dirty_seconds: float | None, spooled_bytes: int, failed_seconds: float | None, due: bool
) -> None:
    since, failed = (
        NOW_NS - round(each * SECOND_NS) if each is not None else 0 for each in (dirty_seconds, failed_seconds)
    )
    assert is_due(NOW_NS, dirty_since_ns=since, spooled_bytes=spooled_bytes, failed_ns=failed) == due


def test_a_change_waits_so_short_that_its_commit_fits_into_what_was_promised() -> None:
    assert COMMIT_SECONDS + LOOK_SECONDS <= RISK_SECONDS_MAX - 1
