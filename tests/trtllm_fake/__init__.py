"""TensorRT-LLM without a GPU: its sampler, its drafter, its loop and its LLM API as far as a verifier meets them.

A stand-in, written from what is known of the sources of 1.2.x, for CPU tensors. It keeps names, signatures, the order
in which things happen, and the faults that one has to work around; it computes nothing that a test has not given to
it. Nothing that passes on it is known to pass on a GPU.

Models are functions from tokens to rows of logits. They are handed over by the path that the code under test names::

    with installed("s15"):
        register("target", FakeModel(rows=rows, vocab_size=64))
        register("drafter", hugging_face(model))
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import DraftTargetDecodingConfig

        config = DraftTargetDecodingConfig(max_draft_len=4, speculative_model="drafter")
        with LLM("target", speculative_config=config, disable_overlap_scheduler=True) as llm:
            llm.generate([1, 2, 3], SamplingParams(end_id=0, max_tokens=8)).outputs[0].token_ids

`Bench` is an executor whose rounds a test runs one by one. The modules of the fake lie under ``tree``.

After every round the executor checks the KV cache of each request that generates: as many places as tokens committed
before the newest, and of the same tokens. What fails this leaves the loop as an ``AssertionError`` that names the
request, and reaches whoever steps or waits.
"""

from tests.trtllm_fake.bench import Bench
from tests.trtllm_fake.install import installed
from tests.trtllm_fake.models import FakeModel, hugging_face
from tests.trtllm_fake.shapes import SHAPES, Shape
from tests.trtllm_fake.stage import register
from tests.trtllm_fake.stream import GARBAGE

__all__ = ["GARBAGE", "SHAPES", "Bench", "FakeModel", "Shape", "hugging_face", "installed", "register"]
