"""Modules that take the place of TensorRT-LLM, ModelOpt and pynvml, which need a GPU, where a build calls them.

They record what they are called with, and answer as the real ones do: what is shown is what a build hands over, in
which order, and what it does when they fail.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_LLM = """
import json, os, signal
from pathlib import Path

HERE = Path(__file__).parents[1]

class SamplingParams:
    def __init__(self, max_tokens):
        self.max_tokens = max_tokens

class LLM:
    def __init__(self, **arguments):
        if (HERE / "fail").exists():
            raise SystemExit("CUDA out of memory")
        if (HERE / "wait").exists():
            print("started", file=open(HERE / "wait", "w"), flush=True)
            signal.pause()
        self.arguments = arguments

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def generate(self, prompts, params):
        record = {"arguments": self.arguments, "prompts": prompts, "max_tokens": params.max_tokens}
        (HERE / "started.json").write_text(json.dumps(record))
        cache = Path(os.environ["TLLM_AUTOTUNER_CACHE_PATH"])
        cache.with_name("cache.rank0.json").write_text("{}")
        tokens = [] if (HERE / "silent").exists() else [1, 2]
        answer = type("Completion", (), {"token_ids": tokens})
        return [type("RequestOutput", (), {"outputs": [answer]})]
"""
_LLM_ARGS = """
def update_llm_args_with_extra_dict(llm_args, extra):
    return {**llm_args, **extra}
"""
# `quantise` asks for a GPU; whoever else asks is told the truth. The export is what the real one writes, not quantised.
_MODELOPT = """
import sys, torch

truth = torch.cuda.is_available
torch.cuda.is_available = lambda: sys._getframe(1).f_globals["__name__"] == "__main__" or truth()
"""
_MODELOPT_QUANTIZATION = """
FP8_DEFAULT_CFG = {"quant_cfg": {}}

def quantize(model, config, forward_loop):
    return model
"""
_MODELOPT_EXPORT = """
import json
from pathlib import Path

HERE = Path(__file__).parents[2]

def export_hf_checkpoint(model, export_dir):
    with open(HERE / "quantised", "a") as file:
        print(export_dir, file=file)
    model.save_pretrained(export_dir)
    (Path(export_dir) / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
"""
_MODELOPT_DATASETS = """
def get_dataset_dataloader(**asked):
    return []

def create_forward_loop(dataloader):
    return None
"""
_NVML = """
import json
from pathlib import Path

class NVMLError(Exception):
    pass

GPUS = []

def nvmlInit():
    GPUS[:] = json.loads((Path(__file__).parent / "gpus.json").read_text()) or []
    if not GPUS:
        raise NVMLError("driver not loaded")

def nvmlShutdown():
    pass

def nvmlDeviceGetCount():
    return len(GPUS)

def nvmlDeviceGetHandleByIndex(index):
    return GPUS[index]

def nvmlDeviceGetUUID(gpu):
    return gpu.get("uuid", "GPU-0")

def nvmlDeviceGetHandleByUUID(uuid):
    found = [gpu for gpu in GPUS if gpu.get("mig") == uuid]
    if not found:
        raise NVMLError("Not Found")
    return found[0]

def nvmlDeviceGetName(gpu):
    if gpu.get("lost"):
        raise NVMLError("GPU is lost")
    return gpu["name"].encode()

def nvmlDeviceGetCudaComputeCapability(gpu):
    return tuple(gpu["capability"])

def nvmlDeviceGetMemoryInfo(gpu):
    return type("Memory", (), {"total": gpu["memory"]})
"""


@dataclass(frozen=True)
class StandIn:
    """The directory of the modules."""

    directory: Path

    @classmethod
    def install(cls, directory: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
        """Write the modules, and put them on the path of this process and of its children."""
        here = cls(directory)
        here.write("tensorrt_llm/__init__.py", _LLM)
        here.write("tensorrt_llm/llmapi/__init__.py", "")
        here.write("tensorrt_llm/llmapi/llm_args.py", _LLM_ARGS)
        here.write("pynvml.py", _NVML)
        here.write("modelopt/__init__.py", "")
        here.write("modelopt/torch/__init__.py", _MODELOPT)
        here.write("modelopt/torch/quantization.py", _MODELOPT_QUANTIZATION)
        here.write("modelopt/torch/export.py", _MODELOPT_EXPORT)
        here.write("modelopt/torch/utils/__init__.py", "")
        here.write("modelopt/torch/utils/dataset_utils.py", _MODELOPT_DATASETS)
        here.write(
            "nvidia_modelopt-0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nvidia-modelopt\nVersion: 0.39\n"
        )
        here.version("1.2.1")
        here.gpus(1)
        monkeypatch.syspath_prepend(str(directory))
        monkeypatch.setenv("PYTHONPATH", str(directory))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return here

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def version(self, version: str) -> None:
        """Have TensorRT-LLM be of a version."""
        self.write(
            "tensorrt_llm-0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n"
        )

    def gpus(self, count: int | None, memory: int = 81559 << 20, capability: tuple[int, int] = (9, 0)) -> None:
        """Have the machine GPUs; None is a machine without a driver."""
        gpu = {"name": "NVIDIA H100 80GB HBM3", "memory": memory, "capability": capability}
        self.write("gpus.json", json.dumps(None if count is None else [gpu] * count))

    def let_wait(self) -> Path:
        """Have TensorRT-LLM never be ready; the file that tells when it waits."""
        os.mkfifo(self.directory / "wait")
        return self.directory / "wait"

    def quantised(self) -> list[str]:
        """Where ModelOpt wrote, in its order."""
        return (self.directory / "quantised").read_text().splitlines()

    def started(self) -> dict[str, Any]:
        """What the LLM API was last started with."""
        record: dict[str, Any] = json.loads((self.directory / "started.json").read_text())
        return record
