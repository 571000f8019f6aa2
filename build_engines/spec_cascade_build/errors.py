"""The errors of a build."""

from __future__ import annotations

from spec_cascade.errors import SpecCascadeError


class BuildError(SpecCascadeError):
    """A pair cannot be built: a source, a checkpoint or a vocabulary does not allow it."""
