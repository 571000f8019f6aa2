"""The load test of docs/load.md, as it stands there: AIPerf, in an environment of its own, drives a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jinja2 import Environment

from spec_cascade_client.activity import OUTPUT_TOKENS, REQUESTS, Counts
from spec_cascade_client.scrape import fetch
from tests.triton.clients import post
from tests.triton.conftest import eventually

if TYPE_CHECKING:
    from spec_cascade.serving.server import TritonServer

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/load.md").read_text(encoding="utf-8")
INSTALL, PROFILE = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
REQUESTS_SENT = 12
TOKENS_ASKED = 32


def run(script: str, directory: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    ended = subprocess.run(
        ["bash", "-ec", script],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]


def test_the_template_makes_a_request(server: TritonServer) -> None:
    """Filled in as AIPerf 0.13 does it: with jinja2, escaping, and the further inputs added to what comes out."""
    inputs = dict(given.partition(":")[::2] for given in re.findall(r"--extra-inputs (\S+)", PROFILE))
    template = (ROOT / inputs.pop("payload_template")).read_text(encoding="utf-8")
    asked = {"text": 'say "hi" <b> & \n', "max_tokens": 5, "stream": True}
    body = json.loads(Environment(autoescape=True).from_string(template).render(**asked))
    assert body == {"text_input": asked.pop("text"), **asked}
    field = inputs.pop("response_field")
    events = post(server, body | inputs | {"ignore_eos": True}, stream=True).events
    assert sum(event["num_output_tokens"] for event in events) == 5
    assert all(field in event for event in events)
    assert json.loads(events[-1]["cascade_stats"])["rule"].startswith("token_v3:alpha=0.8")


# Installing takes minutes: AIPerf brings pandas, transformers, plotly and much else.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="AIPerf needs Python 3.11")
def test_aiperf_measures_the_server(server: TritonServer, tiny_engine_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs/load", tmp_path / "docs/load")
    run(INSTALL.replace("python3", sys.executable), tmp_path)
    before = Counts.of(fetch(server.metrics_url))
    command = PROFILE.replace("http://127.0.0.1:8000", server.http_url).replace("ENGINE_DIR", str(tiny_engine_dir))
    run(command.replace("--request-count 40", f"--request-count {REQUESTS_SENT}"), tmp_path)
    figures = json.loads((tmp_path / "load/profile_export_aiperf.json").read_text())
    assert figures["request_count"]["avg"] == REQUESTS_SENT
    assert figures["error_summary"] == []
    assert figures["time_to_first_token"]["count"] == REQUESTS_SENT
    assert figures["time_to_first_token"]["min"] > 0
    assert figures["inter_token_latency"]["p50"] > 0
    assert figures["total_output_tokens"]["avg"] > 0

    def gained() -> Counts:
        counted = Counts.of(fetch(server.metrics_url)).since(before, 1.0)
        assert counted is not None
        return counted

    eventually(lambda: gained().by(REQUESTS, "rule") == {"token_v3": REQUESTS_SENT}, 30)
    assert gained().by(REQUESTS, "finish_reason") == {"length": REQUESTS_SENT}
    assert gained().total(OUTPUT_TOKENS) == REQUESTS_SENT * TOKENS_ASKED
