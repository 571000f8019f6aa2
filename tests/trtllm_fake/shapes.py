"""Which TensorRT-LLM is played: its private modules changed their shape from one pre-release to the next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape.

    Attributes:
        name: What `installed` is asked for.
        version: What ``tensorrt_llm.__version__`` says.
        since_1_2_0: Has what came by 1.2.0rc8: the worker for copies, the fast greedy path, cached strategies, rows
            selected together with their numbers, ``llm_args`` handed to the sampler's maker, one map of the requests
            in the drafter, requests switched off for good.
        since_1_3_0: Has what came by 1.3.0rc2: log-probs after processing, one-hot greedy probabilities, three values
            from ``sample``, limits of a request kept by slot.
    """

    name: str
    version: str
    since_1_2_0: bool
    since_1_3_0: bool


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="s1", version="1.2.0rc4", since_1_2_0=False, since_1_3_0=False),
        Shape(name="s15", version="1.2.1", since_1_2_0=True, since_1_3_0=False),
        Shape(name="s2", version="1.3.0rc2", since_1_2_0=True, since_1_3_0=True),
    )
}
