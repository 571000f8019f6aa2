"""In the place of the `tritonserver` of NVIDIA's image: takes its options, is ready at once, and answers one request.

Written into a file of that name by `write`; it prints what it was started with as its first line.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SOURCE = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

options = dict(word[2:].split("=", 1) if "=" in word else (word[2:], "") for word in sys.argv[1:])
Path(os.environ["RECORD"]).write_text(json.dumps({
    "options": options,
    "engine": os.environ["SPEC_CASCADE_ENGINE_DIR"],
    "models": sorted(path.name for path in Path(options["model-repository"]).iterdir()),
}))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(json.dumps({"text_output": asked["text_input"], "finish_reason": "length"}).encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer((options["http-address"], int(options["http-port"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
server.serve_forever()
"""


def write(directory: Path) -> None:
    """Write the program into a directory."""
    directory.mkdir(parents=True)
    program = directory / "tritonserver"
    program.write_text(f"#!{sys.executable}\n{_SOURCE}", encoding="utf-8")
    program.chmod(0o755)
