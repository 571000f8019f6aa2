"""The README's commands are run, as they stand there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = [block.strip() for block in re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]
BIN = Path(sys.executable).parent
READY_SECONDS = 300


def environment() -> dict[str, str]:
    """Ours, less what a surrounding `make` hands down."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def started(command: str) -> subprocess.Popen[str]:
    """The command in a shell, with the virtual environment of the tests in the place of `.venv`."""
    return subprocess.Popen(
        ["bash", "-c", f"exec {command.replace('.venv/bin', str(BIN))}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(command: str) -> str:
    process = started(command)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def wait_until_ready(server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, server.communicate()[0]
        try:
            with urlopen("http://127.0.0.1:8000/v2/health/ready", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    pytest.fail("the server of the README did not become ready")


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("demo_engine")
def test_every_snippet_does_what_the_readme_says() -> None:
    build, serve, generate, curl, library, canary, stats, metrics, rules, bench_verify, score, bench = SNIPPETS
    assert "up to date" in output_of(build)
    server = started(serve)
    try:
        wait_until_ready(server)
        assert "Paris" in output_of(generate)
        assert '"finish_reason":"stop"' in output_of(curl)
        assert "Paris" in output_of(library)
        assert output_of(canary).startswith("ok: ")
        looked = output_of(stats)
        assert all(what in looked for what in ("tokens per target call", "token_v3", "time to first token"))
        counted = output_of(metrics)
        assert all(f'rule="{rule}"' in counted for rule in ("token_v3", "opt"))
    finally:
        server.send_signal(signal.SIGINT)
        output, _ = server.communicate(timeout=60)
    assert server.returncode in (0, 130), output
    assert "token_v3" in output_of(rules)
    measured = output_of(bench_verify)
    assert all(verifier in measured for verifier in ("softmax, then reject", "reference", "TB/s"))
    scored = output_of(score)
    assert all(word in scored for word in ("strict: ", "token_v3:alpha=0.8: ", "greedy: ", "c = "))
    measured = output_of(bench)
    assert all(subject in measured for subject in ("target only", "no drafter", "strict", "generate", "assisted"))


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("demo_engine")
def test_make_demo_shows_rules_with_more_than_one_token_per_target_call() -> None:
    is_house = Path(sys.prefix) == ROOT / ".venv"
    output = output_of("make --no-print-directory demo" if is_house else ".venv/bin/spec-cascade demo")
    rows = re.findall(r"^ +(target_only|strict|[a-z_0-9]+:alpha=\S+) +(\d+) +(\d+\.\d+)", output, re.MULTILINE)
    per_call = {rule: float(value) for rule, _, value in rows}
    assert per_call["target_only"] == 1
    assert per_call["strict"] > 1
    assert sum(value > 1 for rule, value in per_call.items() if ":" in rule) >= 2
    assert "Paris" in output or "paris" in output


def test_make_without_a_target_lists_the_targets() -> None:
    assert "make demo" in output_of("make")
