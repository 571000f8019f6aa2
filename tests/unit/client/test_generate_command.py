"""`spec-cascade generate`, against small real servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade_client.commands import register
from tests.unit.client.wire_servers import Fail, Pause, Refuse, Send, chunk

STATS = {"rule": "strict", "tokens_per_target_call": 1.5, "draft_acceptance_rate": 0.25, "num_draft_tokens": 4}
FIRST = chunk(0, " Die", [1, 2], [0, 1], [" D", "ie"])
LAST = chunk(1, "!\x1b[2J", [3], [2], ["!\x1b[2J"], finish_reason=["stop"], cascade_stats=[json.dumps(STATS)])
ANSWER = (Send(FIRST), Send(LAST, final=True))


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return lambda *arguments, **env: CliRunner(env=env).invoke(app, ["generate", *arguments])


def test_the_answer_alone_goes_to_standard_output(serve, run):
    record = serve(*ANSWER)
    result = run("Why?", "--url", record.url)
    assert result.exit_code == 0
    assert result.stdout == " Die!\x1b[2J\n"
    assert result.stderr == "3 tokens, 1.50 per target call, 25% of drafts kept, rule strict, finished by stop\n"


def test_plain_decoding_is_not_said_to_have_kept_nothing(serve, run):
    record = serve(Send(FIRST | {"finish_reason": ["stop"]}, final=True))
    assert "nothing drafted" in run("Why?", "--url", record.url).stderr


def test_the_prompt_is_a_chat_message_unless_raw(serve, run):
    record = serve(*ANSWER)
    run("Why?", "--url", record.url)
    run("Why?", "--url", record.url, "--raw")
    assert json.loads(record.requests[0]["messages"][0]) == [{"role": "user", "content": "Why?"}]
    assert record.requests[1]["text_input"] == ["Why?"]


def test_options_reach_the_server(serve, run):
    record = serve(*ANSWER)
    run(
        "Why?", "--url", record.url, "--rule", "chow:alpha=0.5", "--draft-length", "3", "--max-tokens", "9",
        "--temperature", "0.5", "--top-k", "4", "--top-p", "0.5", "--seed", "7", "--stop", "a", "--stop", "b",
        "--min-tokens", "2", "--repetition-penalty", "1.25", "--timeout-ms", "900",
    )  # fmt: skip
    sent = record.requests[0]
    assert sent["deferral_rule"] == ["chow:alpha=0.5"]
    assert sent["stop_words"] == ["a", "b"]
    numbers = [sent[k][0] for k in ("draft_length", "max_tokens", "temperature", "top_k", "top_p", "seed")]
    assert numbers == [3, 9, 0.5, 4, 0.5, 7]
    assert [sent[k][0] for k in ("min_tokens", "repetition_penalty", "timeout_ms")] == [2, 1.25, 900]


def test_the_draft_length_may_be_left_to_the_server(serve, run):
    record = serve(*ANSWER)
    assert run("Why?", "--url", record.url, "--draft-length", "auto").exit_code == 0
    assert record.requests[0]["draft_length"] == [-1]
    refused = run("Why?", "--url", record.url, "--draft-length", "most")
    assert refused.exit_code == 2
    assert "neither a whole number nor auto" in " ".join(refused.stderr.replace("│", " ").split())


def test_color_shows_who_wrote_what_and_keeps_the_terminal_safe(serve, run):
    record = serve(*ANSWER)
    result = run("Why?", "--url", record.url, "--color")
    assert "\x1b[32m D\x1b[0m\x1b[1;33mie\x1b[0m\x1b[36m!" in result.stdout
    assert "\x1b[2J" not in result.stdout
    assert "target for a rejected draft" in result.stderr


@pytest.mark.parametrize(("arguments", "env"), [(["--no-color"], {}), ([], {"NO_COLOR": "1", "FORCE_COLOR": "1"})])
def test_colour_can_be_refused(serve, run, arguments, env):
    record = serve(Send(FIRST | {"finish_reason": ["stop"]}, final=True))
    result = run("Why?", "--url", record.url, *arguments, **env)
    assert result.stdout == " Die\n"


def test_json_is_one_object_with_text_tokens_sources_and_statistics(serve, run):
    record = serve(*ANSWER)
    result = run("Why?", "--url", record.url, "--json")
    answer = json.loads(result.stdout)
    assert answer["text"] == " Die!\x1b[2J"
    assert answer["token_ids"] == [1, 2, 3]
    assert answer["token_sources"] == ["drafter", "residual", "bonus"]
    assert answer["pieces"][0] == [" D", "drafter"]
    assert answer["statistics"]["tokens_per_target_call"] == 1.5


def test_a_refusal_is_one_line_and_status_1(serve, run):
    record = serve(Refuse("alpha = 7 is not allowed:\nmust be in [0, 1]"))
    result = run("Why?", "--url", record.url)
    assert result.exit_code == 1
    assert result.stderr == "spec-cascade: alpha = 7 is not allowed: must be in [0, 1]\n"


def test_a_busy_server_is_not_said_to_be_down(serve, run):
    record = serve(Refuse("UNAVAILABLE: the queue is full"))
    result = run("Why?", "--url", record.url)
    assert result.stderr == "spec-cascade: the queue is full\n"


def test_an_error_in_mid_stream_keeps_what_came_before_and_ends_its_line(serve, run):
    record = serve(Send(FIRST), Fail("the engine fell over"))
    result = run("Why?", "--url", record.url)
    assert result.exit_code == 1
    assert result.stdout == " Die\n"
    assert result.stderr == "spec-cascade: the engine fell over\n"


def test_a_server_that_is_not_there_is_one_line_with_a_hint(run, protocol):
    result = run("Why?", "--url", f"{protocol}://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "spec-cascade serve" in result.stderr


def test_ctrl_c_cancels_on_the_server_and_exits_130(serve):
    record = serve(Send(FIRST), Pause(30))
    script = (
        "import typer; from spec_cascade_client.commands import register; app = typer.Typer();"
        "app.callback()(lambda: None); register(app); app()"
    )
    command = [sys.executable, "-c", script, "generate", "Why?", "--url", record.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"NO_COLOR": "1"}
    ) as process:
        assert process.stdout.read(4) == b" Die"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr == b""
    assert record.client_gone.wait(5)
