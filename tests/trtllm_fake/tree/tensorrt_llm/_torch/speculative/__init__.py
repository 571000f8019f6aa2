"""Drafting."""

from pathlib import Path

from tests.trtllm_fake.stage import current

if not current().shape.since_1_2_0:
    # The drafter of that time stands in a file of its own.
    __path__.insert(0, str(Path(__file__).parent / "s1"))

from tensorrt_llm._torch.speculative.utils import get_num_extra_kv_tokens, get_spec_drafter, get_spec_resource_manager

__all__ = ["get_num_extra_kv_tokens", "get_spec_drafter", "get_spec_resource_manager"]
