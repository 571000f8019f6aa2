"""What an engine directory refers to instead of holding it: models that TensorRT-LLM loads from where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spec_cascade.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """A checkpoint in Hugging Face's format: a commit on the hub, or a directory.

    Attributes:
        hub: Id of a hub model; None for a directory.
        commit: Its commit; None for a directory.
        directory: A directory; a relative one starts at the engine directory. None for a hub model.
        content: SHA-256 over the names and hashes of the directory's files; None for a hub model, which its commit
            identifies, and for a directory in the engine directory, whose files the manifest lists.
        weights: Number format of the linear layers, in TensorRT-LLM's words: ``FP8``; None for the engine's dtype.
    """

    hub: str | None = None
    commit: str | None = None
    directory: str | None = None
    content: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no build writes."""
        if (self.hub is None) == (self.directory is None) or (self.hub is None) != (self.commit is None):
            raise ValueError("a model reference has either hub and commit, or directory")

    def path(self, engine_dir: Path | str) -> Path:
        """The checkpoint on this machine; a hub model is downloaded where it is not in the local cache.

        Raises:
            EngineError: It is neither here nor can be fetched.
        """
        if self.directory is not None:
            path = Path(engine_dir) / self.directory
            if not (path / "config.json").is_file():
                raise EngineError(f"{path} holds no checkpoint (no config.json): run spec-cascade build again")
            return path
        return fetch_checkpoint(str(self.hub), str(self.commit))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtLlmEntry:
    """What TensorRT-LLM's LLM API runs; its arguments stand in ``llm.yaml``, its models are elsewhere.

    Attributes:
        target: The target.
        drafter: The drafter.
        gpu: Name of the GPU that memory was planned for.
        tensor_parallel_size: GPUs that both models are split over.
        autotuner_gpu: GPU, as its driver names it, that the autotuner's cache was made on; None where there is none.
            TensorRT-LLM does not look at it: a cache of another GPU means slow kernels.
    """

    target: ModelReference
    drafter: ModelReference
    gpu: str
    tensor_parallel_size: int
    autotuner_gpu: str | None


def fetch_checkpoint(hub: str, commit: str) -> Path:
    """The snapshot of a hub model at a commit, from the local cache where it is there.

    Raises:
        EngineError: It cannot be fetched.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise EngineError("a hub model needs huggingface_hub: pip install 'spec-cascade[embedded]'") from error
    try:
        # Pickle files are left out: loading one runs code.
        return Path(snapshot_download(hub, revision=commit, allow_patterns=["*.safetensors*", "*.json", "*.jinja"]))
    except LocalEntryNotFoundError as error:
        raise EngineError(f"{hub} at {commit} is not in the local cache and the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise EngineError(f"{hub} at {commit} cannot be fetched: {str(error).splitlines()[0]}") from error
