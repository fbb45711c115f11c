"""What every process counts, for Prometheus."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily

from turnstream.schemas import unexpected


def unexpected_errors() -> CounterMetricFamily:
    """Return `turnstream_unexpected_errors_total{place}` of this process."""
    family = CounterMetricFamily(
        "turnstream_unexpected_errors",
        "Errors that no handler expected, each of which ended one item only, by place",
        labels=["place"],
    )
    for place, count in unexpected.counts().items():
        family.add_metric([place], count)
    return family
