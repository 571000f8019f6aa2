"""A stage for builds: two checkpoints, a pair of them, and programs of TensorRT-LLM that are played by scripts.

The scripts parse the real command lines, so that a wrong option fails; they write what the real ones write, without
any weights; and they tell what they do through a FIFO, so that no test looks at a clock.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from spec_cascade_build.pair import Pair
from spec_cascade_build.sources import fingerprint
from spec_cascade_build.tensorrt.plan import ModelSource, Plan, make_plan
from spec_cascade_build.tensorrt.run import CompiledPair, run_plan
from spec_cascade_build.tensorrt.section import TensorrtSection
from spec_cascade_build.tensorrt.tools import find_tools

if TYPE_CHECKING:
    from types import ModuleType

    import pytest

PROGRAMS = Path(__file__).parent / "programs"
SCRIPTS = {
    "models/core/llama/convert_checkpoint.py": "convert_llama.py",
    "models/core/qwen/convert_checkpoint.py": "convert_llama.py",
    "models/core/gemma/convert_checkpoint.py": "convert_gemma.py",
    "quantization/quantize.py": "quantize.py",
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
DEFAULTS = {"max_batch_size": 4, "max_seq_len": 512, "draft_length": 3, "max_draft_length": 5}
STEPS = ["convert-drafter", "convert-target", "build-drafter", "build-target"]


class Printed(io.StringIO):
    """What a console printed; another thread can wait for a word."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def write(self, text: str) -> int:
        """As a file."""
        with self._changed:
            self._changed.notify_all()
            return super().write(text)

    def wait_for(self, word: str) -> None:
        """Until it has been printed."""
        with self._changed:
            self._changed.wait_for(lambda: word in self.getvalue())


@dataclass
class Stage:
    """Where a test builds.

    Attributes:
        root: Holds all of it.
        defaults: Of the pair.
        section: Its `tensorrt` section.
        printed: What the console was told.
    """

    root: Path
    defaults: dict[str, Any] = field(default_factory=lambda: dict(DEFAULTS))
    section: dict[str, Any] = field(default_factory=dict)
    printed: Printed = field(default_factory=Printed)

    @property
    def output(self) -> Path:
        """The engine directory."""
        return self.root / "engines" / "tiny"

    @property
    def examples(self) -> Path:
        """TensorRT-LLM's examples."""
        return self.root / "examples"

    @property
    def played(self) -> Path:
        """Where wishes and calls lie."""
        return self.root / "played"

    def pair(self, **fields: Any) -> Pair:
        """The pair of the two checkpoints."""
        content: dict[str, Any] = {"name": "tiny", "target": {"path": "target"}, "drafter": {"path": "drafter"}}
        return Pair.model_validate(content | {"defaults": self.defaults} | fields)

    def plan(self, pair: Pair | None = None, **section: Any) -> Plan:
        """What would be done."""
        pair = pair or self.pair()
        console = Console(file=io.StringIO())
        settings = TensorrtSection.model_validate({"examples": "examples"} | self.section | section)
        tools = find_tools(settings.examples, self.root)
        sources = {
            "drafter": ModelSource(self.root / "drafter", fingerprint(pair.drafter, self.root, console)),
            "target": ModelSource(self.root / "target", fingerprint(pair.target, self.root, console)),
        }
        return make_plan(pair, settings, sources, tools, self.output, self.root)

    def build(self, *, force: bool = False, **section: Any) -> CompiledPair:
        """Do it."""
        with run_plan(self.plan(**section), Console(file=self.printed, width=200), force=force) as compiled:
            return compiled

    def set_gpu(self, name: str = "NVIDIA H100 80GB HBM3", capability: tuple[int, int] = (9, 0)) -> None:
        """Put another GPU into the machine."""
        self.played.joinpath("gpu.json").write_text(json.dumps({"name": name, "capability": capability}))

    def wish(self, step: str, what: str, value: object = "") -> None:
        """Ask the program of a step for something."""
        text = value if isinstance(value, str) else json.dumps(value)
        (self.played / f"{step}.{what}").write_text(text, encoding="utf-8")

    def forget(self, step: str, what: str) -> None:
        """Take a wish back."""
        (self.played / f"{step}.{what}").unlink()

    def let_wait(self, step: str) -> None:
        """Have the program of a step wait, half done, until `let_go`."""
        os.mkfifo(self.played / f"{step}.wait")

    def let_go(self, step: str) -> None:
        """End its waiting, now and ever after."""
        with (self.played / f"{step}.wait").open("w", encoding="utf-8"):
            self.forget(step, "wait")

    def calls(self, event: str = "start") -> list[dict[str, Any]]:
        """What the programs wrote down, of one kind, in its order."""
        return [call for call in self.history() if call["event"] == event]

    def history(self) -> list[dict[str, Any]]:
        """All that they wrote down."""
        path = self.played / "calls"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def started(self) -> list[str]:
        """Names of the steps whose programs ran, in the order of their starts."""
        return [call["step"] for call in self.calls()]

    def happened(self) -> list[str]:
        """Starts and ends, in their order."""
        return [f"{call['event']} {call['step']}" for call in self.history()]

    def log(self, step: str) -> str:
        """What the program of a step printed."""
        return (self.output / "build" / "logs" / f"{step}.log").read_text(encoding="utf-8")


class Events:
    """What the programs tell, line by line, as they tell it."""

    def __init__(self, stage: Stage) -> None:
        path = stage.played / "events"
        os.mkfifo(path)
        # Opened for both: no end of file between two writers, and no waiting for the first one.
        self._file = os.fdopen(os.open(path, os.O_RDWR), encoding="utf-8")

    def next(self) -> str:
        """The next one, however long it takes."""
        return self._file.readline().strip()

    def close(self) -> None:
        """Listen no more."""
        self._file.close()


class Building(threading.Thread):
    """A build at the side of a test."""

    def __init__(self, stage: Stage, **section: Any) -> None:
        super().__init__()
        self._stage, self._section = stage, section
        self.result: CompiledPair | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Build."""
        try:
            self.result = self._stage.build(**self._section)
        except Exception as error:
            self.error = error

    def done(self) -> CompiledPair:
        """What it came to."""
        self.join()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def set_stage(root: Path, monkeypatch: pytest.MonkeyPatch, version: str | None = "1.2.1") -> Stage:
    """Write the checkpoints, and put the programs where they are looked for."""
    stage = Stage(root)
    stage.played.mkdir()
    for whose, content in (("drafter", b"small"), ("target", b"large")):
        write_checkpoint(root / whose, LLAMA, content)
    for place, program in SCRIPTS.items():
        (stage.examples / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROGRAMS / program, stage.examples / place)
    install_builder(root / "bin")
    set_version(root, version)
    set_version(root, "0.37.0", "nvidia_modelopt")
    monkeypatch.setenv("PATH", f"{root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{PROGRAMS}:{root / 'packages'}")
    monkeypatch.setenv("PLAYED", str(stage.played))
    monkeypatch.setitem(sys.modules, "pynvml", _driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stage.set_gpu()
    return stage


def _driver() -> ModuleType:
    """The played binding of the driver, for this process; those that it starts find it on their path."""
    spec = spec_from_file_location("pynvml", PROGRAMS / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_checkpoint(directory: Path, config: dict[str, Any], weights: bytes = b"weights") -> None:
    """A checkpoint whose weights nobody reads."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "model.safetensors").write_bytes(weights)
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")


def install_builder(directory: Path) -> None:
    """`trtllm-build` as pip installs a console script: its first line names the Python."""
    directory.mkdir()
    script = (PROGRAMS / "trtllm_build.py").read_text(encoding="utf-8")
    (directory / "trtllm-build").write_text(f"#!{sys.executable}\n{script}", encoding="utf-8")
    (directory / "trtllm-build").chmod(0o755)


def set_version(root: Path, version: str | None, package: str = "tensorrt_llm") -> None:
    """The metadata of an installed TensorRT-LLM, or of another package, without the package."""
    directory = root / "packages" / f"{package}-0.dist-info"
    shutil.rmtree(directory, ignore_errors=True)
    if version is not None:
        directory.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        (directory / "METADATA").write_text(text, encoding="utf-8")
