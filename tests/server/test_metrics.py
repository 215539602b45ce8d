"""Numbers for Prometheus: rates are differences, so no digit may be lost."""

from dalsegno.server.metrics import Metrics


def test_large_counters_keep_every_digit() -> None:
    metrics = Metrics(started_ns=0)
    metrics.bytes_in = 123_456_789_012_345
    metrics.seconds["upload"] = 1_234_567.875
    lines = metrics.text([], now_ns=10**9).splitlines()
    assert "dalsegno_received_bytes_total 123456789012345" in lines
    assert 'dalsegno_request_seconds_total{call="upload"} 1234567.875' in lines
