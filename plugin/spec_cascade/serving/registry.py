"""The side of the metrics that faces Triton's Python backend."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from spec_cascade.serving.metric_families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade.serving.metric_families import Family

log = logging.getLogger(__name__)


def open_registry(args: Mapping[str, str]) -> MetricRegistry | None:
    """The server's metrics, for the model with these arguments of ``initialize``; None where it keeps none."""
    try:
        return MetricRegistry(args["model_name"], args["model_version"])
    except pb_utils.TritonModelException as error:
        log.warning("serving without metrics: %s", error)
        return None


class MetricRegistry:
    """Implements `metrics.Registry` on the server's metrics endpoint.

    What has no labels of its own is there from the start.

    Args:
        model: Label of every metric; so is the version.

    Raises:
        TritonModelException: The server refuses.
    """

    def __init__(self, model: str, version: str) -> None:
        self._labels = {"model": model, "version": version}
        self._families = {
            family: pb_utils.MetricFamily(
                name=family.name,
                description=family.meaning,
                kind=getattr(pb_utils.MetricFamily, family.kind.upper()),
            )
            for family in FAMILIES
        }
        self._metrics: dict[tuple[Family, tuple[str, ...]], Any] = {}
        for family in FAMILIES:
            if not family.labels:
                self.metric(family)

    def metric(self, family: Family, *labels: str) -> Any:
        """The series of these label values, in the order of the family's labels; made when first asked for."""
        if (family, labels) not in self._metrics:
            own = dict(zip(family.labels, labels, strict=True))
            buckets = {"buckets": list(family.buckets)} if family.buckets else {}
            self._metrics[family, labels] = self._families[family].Metric(labels={**own, **self._labels}, **buckets)
        return self._metrics[family, labels]

    def close(self) -> None:
        """Take all metrics away."""
        # A metric must not outlive its family.
        self._metrics.clear()
        self._families.clear()
