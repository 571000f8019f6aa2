"""The build itself, on a machine with GPUs and TensorRT-LLM.

tokenizer/   the target's: tokenizer.json  tokenizer_config.json  special_tokens_map.json
target/      a quantised target; likewise drafter/; others stay where they are, and the manifest says where
llm.yaml     the arguments of the LLM API
autotuner/   kernels that were found fast on this machine's GPUs: a cache, which no hash is kept of
logs/        what the commands printed
manifest.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import AUTOTUNER_CACHE, LLM_CONFIG, FileEntry, Manifest
from spec_cascade.engines.model_reference import fetch_checkpoint
from spec_cascade.errors import EngineError
from spec_cascade_build.checkpoints import read_tokenizer
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step
from spec_cascade_build.sources import Checkpoint
from spec_cascade_build.tensorrt_llm.llm_manifest import make_manifest
from spec_cascade_build.tensorrt_llm.plan import plan_build
from spec_cascade_build.vocabulary import check_same_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.checked import CheckedPair
    from spec_cascade_build.tensorrt_llm.configs import Configs
    from spec_cascade_build.tensorrt_llm.inputs import Inputs
    from spec_cascade_build.tensorrt_llm.running import Work
    from spec_cascade_build.tensorrt_llm.section import Role

_UNHASHED = ("autotuner", "logs")


class LlmEngineWriter:
    """Writes one engine directory.

    Args:
        pair: What to build.
        checked: What a check found.
        inputs: What determines the directory.
        base: Where the pair's relative paths start.
        directory: An empty directory.
        final: Where it will stand in the end.
        work: Runs the commands.
        console: Shows what is being done.
    """

    def __init__(
        self,
        pair: Pair,
        checked: CheckedPair,
        inputs: Inputs,
        base: Path,
        directory: Path,
        final: Path,
        work: Work,
        console: Console,
    ) -> None:
        self._pair = pair
        self._checked = checked
        self._inputs = inputs
        self._base = base
        self._directory = directory
        self._final = final
        self._work = work
        self._console = console

    def write(self) -> Manifest:
        """Write everything, the manifest last.

        Raises:
            BuildError: A model cannot be fetched, the tokenizers differ, or a command fails.
        """
        section = self._pair.tensorrt_llm
        if section is None:
            raise ValueError("not a pair of engine tensorrt_llm")
        plan = plan_build(self._pair, self._checked, self._base, self._directory, self._final)
        self._write_tokenizer()
        for role, command in plan.quantise.items():
            identity = self._inputs.quantisation(role, section)
            self._work.quantise(role, command, identity, self._directory / role)
        (self._directory / LLM_CONFIG).write_text(plan.llm_config, encoding="utf-8")
        cache = (self._directory / AUTOTUNER_CACHE).parent
        cache.mkdir()
        self._work.run(plan.warm_up)
        self._work.copy_logs((*plan.quantise.values(), plan.warm_up), self._directory / "logs")
        with step(self._console, "hashing"):
            files = {name: FileEntry.of(self._directory / name) for name in hashed_names(self._directory)}
        manifest = make_manifest(
            self._pair,
            self._checked,
            key=self._inputs.key,
            files=files,
            versions=self._inputs.versions,
            contents={role: self._inputs.content(role) for role in self._inputs.places},
            autotuner_gpu=self._inputs.gpu[0] if any(cache.iterdir()) else None,
        )
        manifest.write(self._directory)
        return manifest

    def _write_tokenizer(self) -> None:
        """Fetch both models, compare their tokenizers, and write the target's."""
        found: dict[Role, Configs] = {
            "target": self._checked.target_configs,
            "drafter": self._checked.drafter_configs,
        }
        tokenizers = []
        for role, configs in found.items():
            with step(self._console, f"fetching the {role}"):
                directory = _checkpoint(configs)
            tokenizers.append(read_tokenizer(Checkpoint(directory, None, configs.title)))
        check_same_vocabulary(*tokenizers)
        tokenizers[0].save_pretrained(self._directory / "tokenizer", save_jinja_files=False)


def hashed_names(directory: Path) -> Iterator[str]:
    """Files of an engine directory that do not change while the engine runs."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and name.parts[0] not in _UNHASHED:
            yield name.as_posix()


def _checkpoint(configs: Configs) -> Path:
    """The whole checkpoint, weights included."""
    if configs.commit is None:
        return configs.directory
    try:
        return fetch_checkpoint(configs.title, configs.commit)
    except EngineError as error:
        raise BuildError(str(error)) from error
