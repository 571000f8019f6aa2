"""A model compiled ahead of time for one processor: AOTInductor makes one package of its forward, weights and all.

What is compiled is the model between its attentions: the linear layers with their weights laid out for the processor's
matrix kernels, and all that lies between them in one pass over memory each. The attention itself, which knows the
sequences, stays `attention.slot_attention`: to the compiler it is one operation that it does not look into.
"""

from __future__ import annotations

import warnings
from functools import cache
from threading import local
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_cascade.decoding.models import Feed
from spec_cascade.engines.pytorch.attention import refuse_inexact, slot_attention
from spec_cascade.engines.pytorch.cache import SlotCache
from spec_cascade.engines.pytorch.inputs import ragged
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade.engines.pytorch.attention import SlotBatch
    from spec_cascade.engines.pytorch.inputs import Inputs

COMPILED_ATTENTION = "spec_cascade_compiled"
FILE_NAME = "compiled.pt2"
INT8_FILE_NAME = "compiled_int8.pt2"
_INT8_TOKENS = 4
"""Most tokens of a forward that eight-bit weights make faster: with more it is the arithmetic that takes the time."""

# The batch of the forward that runs on this thread: a compiled graph takes tensors and numbers only.
_running = local()


class _Layer(torch.nn.Module):
    """What `slot_attention` asks of the module that it is called for: its number."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx


@cache
def _layer(number: int) -> _Layer:
    return _Layer(number)


def _attend(query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float, window: int) -> Tensor:
    batch: SlotBatch = _running.batch
    output, _ = slot_attention(
        _layer(layer),
        query,
        key,
        value,
        None,
        scaling=scaling,
        sliding_window=window if window >= 0 else None,
        slot_batch=batch,
    )
    # What is compiled reads the output in the layout that `_shape` promises.
    return output.contiguous()


_operation = torch.library.custom_op(
    "spec_cascade::slot_attention",
    _attend,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int layer, float scaling, int window) -> Tensor",
)


@_operation.register_fake
def _shape(query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float, window: int) -> Tensor:  # noqa: ARG001
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def _compiled_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    refuse_inexact(module, attention_mask, softcap, s_aux)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = -1 if sliding_window is None else sliding_window
    return torch.ops.spec_cascade.slot_attention(query, key, value, layer, scale, window), None


ALL_ATTENTION_FUNCTIONS.register(COMPILED_ATTENTION, _compiled_attention)


class Forward(torch.nn.Module):
    """The part of a model that is compiled: token ids and positions ``[1, T]``, wanted tokens ``[W]`` to ``[W, V]``."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """See the class."""
        output = self.model(input_ids=token_ids, position_ids=positions, use_cache=False, logits_to_keep=wanted)
        logits: Tensor = output.logits[0]
        return logits


def compile_model(model: PreTrainedModel, package: Path) -> None:
    """Compile a model's forward for any number of tokens and wanted rows; takes a C++ compiler and a minute or two.

    What was compiled is held against the model before it counts.

    Args:
        model: On the CPU; comes back with its attention as it was.
        package: The file to write.

    Raises:
        EngineError: There is no working compiler, the model cannot be exported, or its compiled form computes something
            else.
    """
    from torch._inductor.exc import InductorError

    attention = model.config._attn_implementation
    try:
        model.eval().set_attn_implementation(COMPILED_ATTENTION)
        with warnings.catch_warnings():
            # torch's compiler warns of torch's own deprecated parts.
            warnings.simplefilter("ignore")
            _compile(Forward(model), package)
        _check(CompiledForward(Forward(model)), CompiledForward.load(package), model)
    except (InductorError, torch._dynamo.exc.TorchDynamoException, RuntimeError, OSError) as error:
        package.unlink(missing_ok=True)
        raise EngineError(f"{type(model).__name__} cannot be compiled: {error}") from error
    finally:
        model.set_attn_implementation(attention)


def _compile(forward: Forward, package: Path) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch.fx.experimental import _config as shapes

    tokens, any_size = torch.zeros(1, 6, dtype=torch.long), torch.export.Dim.DYNAMIC
    # One token and one row are sizes like any other: nothing is to be specialised for them.
    with torch.no_grad(), shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(
            forward,
            (tokens, tokens.clone(), torch.arange(4)),
            dynamic_shapes=({1: any_size}, {1: any_size}, {0: any_size}),
            strict=False,
        )
        # Freezing lays the weights out for the processor's matrix kernels: most of what is gained. The threads are
        # those of the process that runs it, not of the one that compiles it.
        configs = {"freezing": True, "cpp.dynamic_threads": True}
        aoti_compile_and_package(program, package_path=str(package), inductor_configs=configs)


def _check(model: CompiledForward, compiled: CompiledForward, source: PreTrainedModel) -> None:
    """Hold a package against its model on a prompt, a token, a block, and two sequences at once.

    Raises:
        RuntimeError: Their logits are further apart than rounding brings them.
    """
    # On a prompt without sense a deep model in bfloat16 is itself up to 0.4 of its logits away from float32; what is
    # computed from the wrong memory is off by more than all of them.
    allowed = 0.7 if source.dtype == torch.bfloat16 else 1e-2
    runs = [
        (forward, SlotCache(source.config, slots=2, max_seq_len=32, dtype=source.dtype, device=source.device))
        for forward in (model, compiled)
    ]
    for feeds in _CHECKED:
        with torch.inference_mode():
            expected, got = (forward(*ragged(feeds, slots)).double() for forward, slots in runs)
        error = ((got - expected).norm(dim=-1) / expected.norm(dim=-1)).mean().item()
        if not error <= allowed:
            raise RuntimeError(f"its compiled form is off by {error:.2g} of its logits, rounding by at most {allowed}")
        for feed in feeds:
            for _, slots in runs:
                slots.extend(feed.slot, len(feed.token_ids))


_CHECKED = (
    [Feed(0, tuple(range(3, 15)), 4)],
    [Feed(0, (5,), 1)],
    [Feed(0, (7, 8, 9, 4, 6), 5), Feed(1, (3, 11), 2)],
    [Feed(0, (2,), 1), Feed(1, (9,), 1)],
)


class CompiledForward:
    """A compiled `Forward`, called as a model's own is.

    Args:
        run: Token ids, positions and wanted tokens to logits, as `Forward` takes and gives them.
        few: The same for forwards of few tokens; None takes the one for all.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor], Tensor],
        few: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._run = run
        self._few = few or run

    @classmethod
    def load(cls, package: Path) -> CompiledForward:
        """From the file that `compile_model` wrote, and the one with eight-bit weights if it stands beside it."""
        from torch._inductor import aoti_load_package

        int8 = package.with_name(INT8_FILE_NAME)
        return cls(aoti_load_package(str(package)), aoti_load_package(str(int8)) if int8.is_file() else None)

    def __call__(self, inputs: Inputs, batch: SlotBatch) -> Tensor:
        """Logits ``[W, V]`` of the wanted tokens."""
        wanted = inputs.wanted
        # The matrix kernels want a row at least.
        rows = wanted if len(wanted) else inputs.positions.new_zeros(1)
        _running.batch = batch
        try:
            run = self._few if inputs.tokens <= _INT8_TOKENS else self._run
            logits = run(inputs.token_ids.unsqueeze(0), inputs.positions.unsqueeze(0), rows)
        finally:
            del _running.batch
        return logits[: len(wanted)]
