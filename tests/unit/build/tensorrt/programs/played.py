"""What the played programs share: they write down what they were asked, and wait, fail or forget as a test says.

A test's wishes lie in the directory PLAYED, as files named after the step: `STEP.wait` (a FIFO that is read to its
end before the work), `STEP.fail` (the exit status), `STEP.say` (printed), `STEP.forget` (a file that is not written),
`STEP.config` (what `config.json` is updated with). `events` is a FIFO that they tell the test of by lines.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

PLAYED = Path(os.environ["PLAYED"])


class Played:
    """One run of a program, for the step whose partial directory it was told to write into."""

    def __init__(self, output):
        self.output = Path(output)
        self.step = self.output.parent.name

    def begin(self):
        """Tell of the start, then do as the test wishes."""
        self._record("start", command=sys.orig_argv[1:], directory=str(Path.cwd()), pid=os.getpid())
        sys.stdout.write(f"this is {self.step}\n{self._wish('say') or ''}")
        sys.stdout.flush()
        if self._wish("stubborn") is not None:
            signal.signal(signal.SIGTERM, lambda *_: self.tell("asked to end"))
        self.tell("started")
        if (PLAYED / f"{self.step}.wait").exists():
            self._wait()
        if (status := self._wish("fail")) is not None:
            sys.exit(int(status))

    def _wait(self):
        self.output.mkdir(parents=True)
        (self.output / "config.json").write_text("{", encoding="utf-8")
        with (PLAYED / f"{self.step}.wait").open(encoding="utf-8") as fifo:
            fifo.read()

    def write(self, files):
        """Write the files, one at a time, and tell of the end."""
        self.output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if name != self._wish("forget"):
                (self.output / name).write_text(content, encoding="utf-8")
        self._record("end")

    def config(self, values):
        """`config.json` with the test's changes: dotted keys, null removes."""
        for key, value in json.loads(self._wish("config") or "{}").items():
            *path, last = key.split(".")
            inner = values
            for name in path:
                inner = inner[name]
            if value is None:
                del inner[last]
            else:
                inner[last] = value
        return json.dumps(values, indent=4)

    def tell(self, what):
        """A line to the test, if it listens."""
        if (PLAYED / "events").exists():
            with (PLAYED / "events").open("w", encoding="utf-8") as fifo:
                fifo.write(f"{self.step} {what}\n")

    def _wish(self, what):
        path = PLAYED / f"{self.step}.{what}"
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def _record(self, event, **more):
        line = json.dumps({"step": self.step, "event": event, **more}) + "\n"
        with (PLAYED / "calls").open("a", encoding="utf-8") as file:
            file.write(line)


def content_of(directory, pattern):
    """A hash of files: outputs depend on inputs."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory).glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_checkpoint(played, model_dir, tp_size, dtype, quantisation):
    """As `save_checkpoint` writes it: config.json and a file for each rank."""
    model = json.loads((Path(model_dir) / "config.json").read_text(encoding="utf-8"))
    config = {
        "architecture": model["architectures"][0],
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": model["vocab_size"],
        "hidden_size": model["hidden_size"],
        "num_hidden_layers": model["num_hidden_layers"],
        "num_attention_heads": model["num_attention_heads"],
        "num_key_value_heads": model["num_key_value_heads"],
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": model["max_position_embeddings"],
        "mapping": {"world_size": tp_size, "tp_size": tp_size, "pp_size": 1, "cp_size": 1, "gpus_per_node": 8},
        "quantization": quantisation,
    }
    weights = content_of(model_dir, "*.safetensors")
    ranks = {f"rank{rank}.safetensors": f"{weights} {rank}" for rank in range(tp_size)}
    played.write({"config.json": played.config(config)} | ranks)
