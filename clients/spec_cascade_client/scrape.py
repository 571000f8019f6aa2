"""What the server's metrics endpoint says, read with the standard library."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade_client.address import Address
from spec_cascade_client.errors import InvalidRequestError, ServerError
from spec_cascade_client.exchange import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

METRICS_PORT = 8002
OURS = "spec_cascade_"
_TIMEOUT = 5.0
# A sample of Prometheus's text format: a name, labels, a value, and a time that nobody needs.
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples, by the name of their series."""

    samples: Mapping[str, tuple[Sample, ...]]

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Read Prometheus's text format.

        Raises:
            ServerError: It is something else.
        """
        found: dict[str, list[Sample]] = {}
        for line in text.splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            sample = _SAMPLE.fullmatch(line.strip())
            try:
                if sample is None:
                    raise ValueError(line)
                name, labels, value = sample.groups()
                found.setdefault(name, []).append(Sample(dict(_labels(labels or "")), float(value)))
            except ValueError as error:
                raise ServerError(f"no metric in Prometheus's text format: {line[:80]!r}") from error
        return cls({name: tuple(samples) for name, samples in found.items()})

    def total(self, name: str) -> float:
        """The sum of the series of this name; 0 where there is none."""
        return sum(sample.value for sample in self.samples.get(name, ()))

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of the series of this name for each value of a label."""
        sums: Counter[str] = Counter()
        for sample in self.samples.get(name, ()):
            sums[sample.labels.get(label, "")] += sample.value  # type: ignore[assignment]
        return dict(sums)


def fetch(url: str) -> Scrape:
    """Ask a metrics endpoint of a server that runs the spec-cascade models.

    Args:
        url: ``http://`` or ``https://`` and ``host[:port]``, with a path where it is not ``/metrics``.

    Raises:
        InvalidRequestError: The URL is not usable.
        NoConnectionError: Nobody answers there.
        ServerError: What answers is no metrics endpoint, or not of such a server.
    """
    address = Address.parse(url, default_port=METRICS_PORT)
    if address.is_grpc:
        raise InvalidRequestError(f"url = {url!r}: metrics are asked for over http:// or https://")
    place = f"{address}{'' if address.path else '/metrics'}"
    reply = exchange(place, server=place, timeout=_TIMEOUT)
    if reply.status != 200:
        hint = f"metrics have a port of their own, by default {METRICS_PORT}"
        raise ServerError(f"{place} answered with HTTP status {reply.status}: {hint}")
    try:
        scrape = Scrape.parse(reply.body.decode(errors="replace"))
    except ServerError as error:
        raise ServerError(f"{place} is no metrics endpoint: {error}") from error
    if not any(name.startswith(OURS) for name in scrape.samples):
        raise ServerError(f"{place} has metrics, but none of the spec-cascade models")
    return scrape


def _labels(text: str) -> Iterator[tuple[str, str]]:
    end = 0
    while end < len(text):
        label = _LABEL.match(text, end)
        if label is None:
            raise ValueError(text)
        yield label[1], _ESCAPED.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], label[2])
        end = label.end()
