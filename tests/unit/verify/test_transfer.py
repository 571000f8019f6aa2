"""What goes between host and device, and that nothing goes there past `to_device` and `to_host`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import spec_cascade.verify
from spec_cascade.verify import HostCopy, to_device, to_host

PLUGIN = Path(spec_cascade.verify.__file__).parents[1]
OF_A_ROUND = [
    path
    for part in ("decoding", "engines/pytorch", "engines/tensorrt_llm", "verify")
    for path in sorted((PLUGIN / part).rglob("*.py"))
    if path.name != "transfer.py"
]
MAKERS = {"tensor", "as_tensor", "new_tensor", "asarray"}


def uploads(source: str) -> list[int]:
    """Lines that make a tensor of host numbers straight on a device: on a GPU each is a wait."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [(call, call.func.attr) for call in calls if isinstance(call.func, ast.Attribute)]
    return [
        call.lineno
        for call, name in named
        if name == "new_tensor" or (name in MAKERS and any(keyword.arg == "device" for keyword in call.keywords))
    ]


@pytest.mark.parametrize("path", OF_A_ROUND, ids=lambda path: str(path.relative_to(PLUGIN)))
def test_a_round_sends_nothing_to_the_device_past_the_one_helper(path: Path) -> None:
    assert uploads(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line", ["torch.tensor([1], device=d)", "x.new_tensor((1, 2))", "torch.as_tensor(a, device=d)"]
)
def test_an_upload_past_the_helper_is_seen(line: str) -> None:
    assert uploads(f"a = 1\nb = {line}\n") == [2]


def test_numbers_arrive_as_they_are() -> None:
    sent = to_device([[1, -(2**63)], [3, 4]], torch.long, "cpu")
    assert (sent.dtype, sent.tolist()) == (torch.long, [[1, -(2**63)], [3, 4]])
    assert to_device([], torch.long, "cpu").shape == (0,)
    assert to_device(torch.tensor([1, 0]), torch.bool, torch.device("cpu")).tolist() == [True, False]
    assert to_device([1, 2], torch.float64, "meta").device.type == "meta"
    assert to_host(sent).tolist() == HostCopy(sent).get().tolist() == sent.tolist()
