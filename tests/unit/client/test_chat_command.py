"""`spec-cascade chat`, driven by what a user would type, against small real servers."""

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
from tests.unit.client.wire_servers import Early, Pause, Refuse, Send, chunk

STATS = {"rule": "strict", "tokens_per_target_call": 1.5, "draft_acceptance_rate": 0.25, "num_draft_tokens": 4}
LAST = chunk(1, "!", [3], [2], ["!"], finish_reason=["stop"], cascade_stats=[json.dumps(STATS)])
ANSWER = (Send(chunk(0, "Die", [1, 2], [0, 1], ["D", "ie"])), Send(LAST, final=True))
TOO_LONG = "messages = '99 tokens' is not allowed: must be a prompt of at most 50 tokens"


def make_app():
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


@pytest.fixture
def talk():
    return lambda record, *lines, options=(): CliRunner().invoke(
        make_app(), ["chat", "--url", record.url, *options], input="\n".join(lines)
    )


def contents(request):
    return [message["content"] for message in json.loads(request["messages"][0])]


def test_answers_go_to_standard_output_and_the_conversation_goes_on(serve, talk):
    record = serve(*ANSWER)
    result = talk(record, "Why?", "", "How?", "/quit", "never read", options=["--system", "Be brief."])
    assert result.exit_code == 0
    assert result.stdout == "Die!\nDie!\n"
    assert result.stderr == ""
    assert [contents(request) for request in record.requests] == [
        ["Be brief.", "Why?"],
        ["Be brief.", "Why?", "Die!", "How?"],
    ]


def test_the_rule_changes_from_there_on(serve, talk):
    record = serve(*ANSWER)
    result = talk(record, "/rule", "Why?", "/rule opt:alpha=0.2", "How?")
    assert [request.get("deferral_rule") for request in record.requests] == [None, ["opt:alpha=0.2"]]
    assert result.stderr == "rule of the server\nrule opt:alpha=0.2\n"


def test_statistics_are_of_the_last_answer(serve, talk):
    record = serve(*ANSWER)
    result = talk(record, "/stats", "Why?", "/stats")
    nothing, line, *counts = result.stderr.splitlines()
    assert nothing == "nothing has been answered"
    assert line == "3 tokens, 1.50 per target call, 25% of drafts kept, rule strict, finished by stop"
    assert ["num_draft_tokens", "4"] in [count.split() for count in counts]


def test_a_reset_forgets_the_turns_but_not_the_instructions(serve, talk):
    record = serve(*ANSWER)
    talk(record, "Why?", "/reset", "How?", options=["--system", "Be brief."])
    assert contents(record.requests[1]) == ["Be brief.", "How?"]


def test_an_unknown_command_is_not_sent_to_the_model(serve, talk):
    record = serve(*ANSWER)
    result = talk(record, "/rules", "/help")
    assert record.requests == []
    assert "/rules is none of the commands" in result.stderr
    assert result.stderr.count("/reset") == 2


def test_a_refused_question_is_one_line_and_forgotten(serve, talk):
    record = serve(Early(1, Refuse("alpha = 7 is not allowed: must be in [0, 1]")), *ANSWER)
    result = talk(record, "Why?", "How?")
    assert result.exit_code == 0
    assert result.stderr == "spec-cascade: alpha = 7 is not allowed: must be in [0, 1]\n"
    assert contents(record.requests[1]) == ["How?"]


def test_old_turns_are_dropped_when_the_window_is_full_and_the_user_is_told(serve, talk):
    record = serve(Early(1, Refuse(TOO_LONG), after=1), *ANSWER)
    result = talk(record, "one", "two")
    assert [contents(request) for request in record.requests] == [["one"], ["one", "Die!", "two"], ["two"]]
    assert result.stderr == "forgot the oldest 1 of 2 turns: the model's window is full\n"


def test_a_question_beyond_the_window_does_not_cost_the_conversation(serve, talk):
    record = serve(Early(2, Refuse(TOO_LONG), after=1), *ANSWER)
    result = talk(record, "one", "two", "three")
    assert [contents(request) for request in record.requests] == [
        ["one"], ["one", "Die!", "two"], ["two"], ["one", "Die!", "three"],
    ]  # fmt: skip
    assert result.stderr == f"spec-cascade: {TOO_LONG}\n"


def test_a_line_that_is_no_text_is_not_sent(serve, talk):
    record = serve(*ANSWER)
    result = CliRunner().invoke(make_app(), ["chat", "--url", record.url], input=b"caf\xe9\nWhy?\n/quit\n")
    assert result.exit_code == 0
    assert [contents(request) for request in record.requests] == [["Why?"]]
    assert result.stderr.startswith("spec-cascade: messages = ")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_stops_the_answer_and_not_the_program(serve):
    record = serve(ANSWER[0], Early(1, Pause(30)), ANSWER[1])
    script = (
        "import typer; from spec_cascade_client.commands import register; app = typer.Typer();"
        "app.callback()(lambda: None); register(app); app()"
    )
    command = [sys.executable, "-c", script, "chat", "--url", record.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=os.environ | {"NO_COLOR": "1"}) as process:
        process.stdin.write(b"Why?\n")
        process.stdin.flush()
        assert process.stdout.read(3) == b"Die"
        process.send_signal(signal.SIGINT)
        assert record.client_gone.wait(5)
        stdout, stderr = process.communicate(b"How?\n/quit\n", timeout=20)
    assert process.returncode == 0
    assert (stdout, stderr) == (b"\nDie!\n", b"stopped\n")
    assert contents(record.requests[1]) == ["Why?", "Die", "How?"]
