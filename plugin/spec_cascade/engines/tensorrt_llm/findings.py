"""What an inspection found: broken promises, contract by contract, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_cascade.engines.tensorrt_llm.contract import Contract, Need


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPromise:
    """A promise that does not hold.

    Attributes:
        name: What was looked at, with its module: ``tensorrt_llm.….sampler.TorchSampler.update_requests``.
        expected: What the contract says of it.
        found: What is there.
        need: ``must`` or ``should``.
        without: What is lost where it is only a ``should``.
    """

    name: str
    expected: str
    found: str
    need: Need = "must"
    without: str | None = None

    def __str__(self) -> str:
        lost = f" (lost: {self.without})" if self.need == "should" and self.without else ""
        return f"{self.name}: expected {self.expected}, found {self.found}{lost}"


@dataclass(frozen=True, slots=True)
class ContractReport:
    """One contract held against what is installed."""

    contract: Contract
    broken: tuple[BrokenPromise, ...]

    @property
    def must(self) -> tuple[BrokenPromise, ...]:
        """Broken promises that nothing works without."""
        return tuple(promise for promise in self.broken if promise.need == "must")

    @property
    def should(self) -> tuple[BrokenPromise, ...]:
        """Broken promises that something is lost without."""
        return tuple(promise for promise in self.broken if promise.need == "should")

    @property
    def holds(self) -> bool:
        """Whether the installed package is of this shape."""
        return not self.must

    def lines(self) -> list[str]:
        """What to print, the verdict first."""
        verdict = "holds" if self.holds else f"broken in {len(self.must)}"
        if self.should:
            verdict += f", {len(self.should)} warnings"
        marks = [f"  broken: {promise}" for promise in self.must] + [f"  warning: {promise}" for promise in self.should]
        return [f"{self.contract.name}: {verdict}", *marks]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "contract": self.contract.name,
            "holds": self.holds,
            "broken": [asdict(promise) for promise in self.broken],
        }


@dataclass(frozen=True, slots=True)
class Inspection:
    """All contracts held against what is installed.

    Attributes:
        version: What the package says of itself; None where it says nothing.
        reports: One per contract.
    """

    version: str | None
    reports: tuple[ContractReport, ...]

    @property
    def matched(self) -> ContractReport | None:
        """The contract that holds; of several, the one with the fewest warnings. The version has no say in it."""
        holding = [report for report in self.reports if report.holds]
        return min(holding, key=lambda report: len(report.should), default=None)

    @property
    def by_version(self) -> Contract | None:
        """The contract that was written from this version."""
        version = self.version or ""
        return next((r.contract for r in self.reports if r.contract.covers(version)), None)

    @property
    def nearest(self) -> ContractReport:
        """The one that holds, or else the one that is least broken; where that is no answer, the version's."""
        named = self.by_version
        return self.matched or min(
            self.reports, key=lambda report: (len(report.must), len(report.should), report.contract is not named)
        )

    @property
    def remark(self) -> str | None:
        """What to say of the version: nothing, where it and the shape agree."""
        named, matched = self.by_version, self.matched
        if matched is None or named is matched.contract:
            return None
        says = f"stands for {named.name}" if named else "is in no contract"
        return f"version {self.version} {says}; its shape is that of {matched.contract.name}, which is what counts"

    def refusal(self) -> str:
        """Why nothing can be activated: the broken promises of the nearest contract."""
        nearest = self.nearest
        listed = "".join(f"\n  {promise}" for promise in nearest.must)
        return (
            f"TensorRT-LLM {self.version or 'of unknown version'} is of no shape that this plugin knows; "
            f"nearest is {nearest.contract.name}, broken in {len(nearest.must)}:{listed}"
        )

    def lines(self) -> list[str]:
        """What to print."""
        lines = [line for report in self.reports for line in report.lines()]
        return [*lines, self.remark] if self.remark else lines

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": self.version,
            "matched": self.matched.contract.name if self.matched else None,
            "by_version": self.by_version.name if self.by_version else None,
            "remark": self.remark,
            "contracts": [report.as_dict() for report in self.reports],
        }
