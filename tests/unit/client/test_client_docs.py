"""What docs/client.md shows runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.client.wire_servers import GrpcServer, HttpServer, Send, chunk

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
WHOLE = Send(chunk(0, "Die", [1], [0], ["Die"], finish_reason=["stop"]), final=True)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_each_snippet_runs_by_itself(snippet, capsys):
    servers = [GrpcServer([WHOLE]), HttpServer([WHOLE])]
    try:
        for server, url in zip(servers, ("grpc://127.0.0.1:8001", "http://127.0.0.1:8000"), strict=True):
            snippet = snippet.replace(url, server.record.url)
        exec(compile(snippet, PAGE, "exec"), {})
        assert sum(len(server.record.requests) for server in servers) > 0
        assert "Die" in capsys.readouterr().out
    finally:
        for server in servers:
            server.stop()
