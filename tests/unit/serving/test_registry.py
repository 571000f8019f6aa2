"""The series that Triton keeps for us; Triton is played."""

from __future__ import annotations

from typing import Any

import pytest

from spec_cascade.serving import metric_families
from tests.unit.serving.played_triton import GONE, MetricFamily

ARGUMENTS = {"model_name": "cascade", "model_version": "1"}


def test_a_series_is_made_once_with_its_labels(registries: Any) -> None:
    registry = registries.open_registry(ARGUMENTS)
    requests = registry.metric(metric_families.REQUESTS, "stop", "strict")
    assert requests.labels == {"finish_reason": "stop", "rule": "strict", "model": "cascade", "version": "1"}
    assert (requests.kind, requests.description) == (MetricFamily.COUNTER, metric_families.REQUESTS.meaning)
    assert registry.metric(metric_families.REQUESTS, "stop", "strict") is requests
    assert registry.metric(metric_families.REQUESTS, "length", "strict") is not requests
    waited = registry.metric(metric_families.QUEUE_TIME)
    assert (waited.kind, waited.buckets) == (MetricFamily.HISTOGRAM, list(metric_families.QUEUE_TIME.buckets))
    with pytest.raises(ValueError, match="shorter"):
        registry.metric(metric_families.REQUESTS, "stop")


def test_metrics_go_before_their_families(registries: Any) -> None:
    registry = registries.open_registry(ARGUMENTS)
    registry.metric(metric_families.REQUESTS, "stop", "strict")
    GONE.clear()
    registry.close()
    assert sorted(GONE, reverse=True) == GONE
    assert GONE.count("family") == len(metric_families.FAMILIES)
    assert GONE.count("metric") == 1 + sum(not family.labels for family in metric_families.FAMILIES)


def test_a_server_without_metrics_is_served_without(
    registries: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(MetricFamily, "refused", True)
    assert registries.open_registry(ARGUMENTS) is None
    assert "serving without metrics: metrics not supported" in caplog.text
