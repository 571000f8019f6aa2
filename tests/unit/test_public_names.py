"""What `import spec_cascade` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import spec_cascade


@pytest.mark.parametrize("name", spec_cascade.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(spec_cascade, name).__name__ == name


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'parse_rules'"):
        _ = spec_cascade.parse_rules


@pytest.mark.parametrize("module", ["spec_cascade", "spec_cascade.cli", "spec_cascade.commands", "spec_cascade_build"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
