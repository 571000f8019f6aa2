"""A script that was written for TensorRT-LLM's backend runs unchanged."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.triton.clients import TIMEOUT, post

if TYPE_CHECKING:
    from spec_cascade.serving.server import TritonServer

SCRIPT = Path(__file__).with_name("trtllm_client.py")
PROMPT = "the cat sat on 😀"


@pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
def test_a_script_for_tensorrt_llm_runs_unchanged(server: TritonServer, protocol: str) -> None:
    url = urlsplit(server.http_url if protocol == "http" else server.grpc_url).netloc
    command = [sys.executable, "-I", str(SCRIPT), protocol, url, PROMPT]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * TIMEOUT)
    assert ended.returncode == 0, ended.stderr
    pieces = [ast.literal_eval(line) for line in ended.stdout.splitlines()]
    # top_k = 1 is greedy by another name.
    body = {"text_input": PROMPT, "max_tokens": 24, "temperature": 0.0, "ignore_eos": True}
    assert "".join(pieces) == post(server, body).json["text_output"]
    assert (len(pieces) > 1) == (protocol == "stream")
