"""Headers and the key of a restricted server, on every way there is to ask."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade_client.access import KEY_VARIABLE
from spec_cascade_client.canary import canary, main
from spec_cascade_client.commands import register
from tests.unit.client.wire_servers import Send, chunk

WHOLE = Send(chunk(0, "Die", [1], [0], ["Die"], finish_reason=["stop"]), final=True)
HEADER = ["--header", "Authorization: Bearer a:b=c"]


def invoke(*arguments):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, arguments, input="Why?")


def received(record):
    return {name.lower(): value for name, value in record.headers[-1].items()}


@pytest.mark.parametrize("arguments", [("generate", "Why?"), ("chat",)])
def test_the_commands_send_headers_and_the_key(serve, protocol, monkeypatch, arguments):
    monkeypatch.setenv(KEY_VARIABLE, "Infer-Key=sesame=")
    record = serve(WHOLE)
    assert invoke(*arguments, "--url", record.url, *HEADER).exit_code == 0
    assert received(record)["authorization"] == "Bearer a:b=c"
    assert received(record)["infer-key" if protocol == "http" else "triton-grpc-protocol-infer-key"] == "sesame="


@pytest.mark.parametrize("protocol", ["http"])
def test_the_canary_sends_them(serve, monkeypatch):
    record = serve(WHOLE)
    canary(record.url, headers={"X-A": "b"}, restricted_key=("infer-key", "sesame"))
    assert (received(record)["x-a"], received(record)["infer-key"]) == ("b", "sesame")
    monkeypatch.setenv(KEY_VARIABLE, "infer-key=simsim")
    for ask in (main, lambda arguments: invoke("canary", *arguments).exit_code):
        assert ask([record.url, *HEADER]) == 0
        assert (received(record)["authorization"], received(record)["infer-key"]) == ("Bearer a:b=c", "simsim")
        record.headers.clear()


@pytest.mark.parametrize("verb", ["generate", "chat", "canary"])
def test_a_header_without_its_form_is_one_line_and_status_1(verb):
    arguments = ["Why?"] if verb == "generate" else []
    ended = invoke(verb, *arguments, "--header", "secret")
    assert (ended.exit_code, ended.stderr) == (1, "spec-cascade: header: must be NAME:VALUE\n")
