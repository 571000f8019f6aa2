"""The start-up hook of the workers, in fresh interpreters of environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import spec_cascade
from spec_cascade.engines.tensorrt_llm.delivery import deliver
from spec_cascade.engines.tensorrt_llm.hook import FILE_NAME, LINE, hook_path, hook_state, install_hook, remove_hook
from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE
from spec_cascade.errors import EngineError

ROOT = Path(__file__).parents[3]
PLUGIN = Path(spec_cascade.__file__).parents[1]
SETTINGS = SamplerSettings(default_rule="token_v3:alpha=0.5", draft_length=3)

PLAY = """
import sys
from tests.trtllm_fake.install import installed
fake = installed("s15", threaded=False)
fake.__enter__()
"""
CREATE = """
import tensorrt_llm._torch.pyexecutor.py_executor_creator as creator
print(type(creator.instantiate_sampler).__name__)
"""


class Environment:
    """A Python environment without packages, but with the paths it is given."""

    def __init__(self, directory: Path, *paths: Path | str) -> None:
        venv.create(directory, symlinks=True)
        self.python = directory / "bin" / "python"
        self.site = directory / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
        (self.site / "paths.pth").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")

    def run(self, script: str, variable: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if variable is not None:
            environment[VARIABLE] = variable
        command = [str(self.python), "-c", script]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)

    def said(self, script: str, variable: str | None = None) -> list[str]:
        run = self.run(script, variable)
        assert run.returncode == 0, run.stderr
        return run.stdout.split("\n")[:-1]


@pytest.fixture
def worker(tmp_path: Path) -> Environment:
    """Where the workers of an engine run: the plugin, what it needs, and the hook."""
    # Whatever this interpreter finds its packages in; the hook itself has to be in the environment's own directory.
    made = Environment(tmp_path / "worker", PLUGIN, *(path for path in sys.path if Path(path).is_dir()))
    install_hook(made.site)
    return made


MODULES = "import sys; print(sorted(sys.modules)); print([type(f).__name__ for f in sys.meta_path])"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_hook_leaves_no_trace(worker, value):
    with_hook = worker.said(MODULES, value)
    assert remove_hook(worker.site)
    assert with_hook == worker.said(MODULES, value)
    assert "spec_cascade" not in with_hook[0]


def test_with_the_variable_it_waits_and_imports_nothing_large(worker):
    script = "import sys; print([type(f).__name__ for f in sys.meta_path]); print(' '.join(sys.modules))"
    finders, modules = worker.said(script, SETTINGS.to_json())
    assert finders.startswith("['_Waiting', ")
    loaded = modules.split()
    assert {"torch", "tensorrt_llm", "mpi4py", "numpy", "yaml", "pydantic"}.isdisjoint(loaded)
    assert "spec_cascade.engines.tensorrt_llm.startup" in loaded
    assert "spec_cascade.engines.tensorrt_llm.injection" not in loaded


def test_it_activates_behind_the_creator_and_not_before(worker):
    script = f"""{PLAY}
import tensorrt_llm._torch.pyexecutor.sampler
print("spec_cascade.engines.tensorrt_llm.injection" in sys.modules)
{CREATE}
from spec_cascade.engines.tensorrt_llm import injection, startup
print(injection.active().settings.to_json())
standing = injection.active()
startup.install()
print(injection.active() is standing)
print(sum(type(f).__name__ == "_Waiting" for f in sys.meta_path))
import tensorrt_llm._torch.pyexecutor._util as util
print(creator.instantiate_sampler.original is util.instantiate_sampler)
"""
    assert worker.said(script, SETTINGS.to_json()) == [
        "False",
        "CascadeFactory",
        SETTINGS.to_json(),
        "True",
        "1",
        "True",
    ]


def test_settings_reach_every_worker_and_its_receipt_comes_back(worker, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr("spec_cascade.engines.tensorrt_llm.delivery.hook_state", lambda: hook_state(worker.site))
    delivery = deliver(SETTINGS, world_size=2)
    for rank in range(2):
        with pytest.raises(EngineError, match="verifies without our rules"):
            delivery.confirm()
        made = f"""{PLAY}
import tensorrt_llm._torch.pyexecutor.py_executor_creator as creator
from tests.unit.trtllm.playing import make
sampler = make(creator, rank={rank})
print(type(sampler).__name__, sampler._settings.default_rule, sampler._settings.draft_length)
"""
        assert worker.said(made, os.environ[VARIABLE]) == ["CascadeSampler token_v3:alpha=0.5 3"]
    assert delivery.confirm() == "trtllm-1.2.1"
    delivery.close()


def test_a_worker_that_meets_a_broken_promise_says_which(worker):
    script = f"""{PLAY}
import tensorrt_llm._torch.pyexecutor.sampler as sampler
del sampler.TorchSampler.process_draft_tokens
for _ in range(2):
    try:
        import tensorrt_llm._torch.pyexecutor.py_executor_creator
    except Exception as error:
        import pickle
        told = pickle.loads(pickle.dumps(error))  # on its way to the process that waits for the engine
        print(type(told).__name__, "TorchSampler.process_draft_tokens: expected a method" in str(told))
"""
    # The second import fails as the first did: no executor is made without our leave.
    assert worker.said(script, SETTINGS.to_json()) == ["EngineError True", "EngineError True"]


def test_the_stock_verifier_stands_in_where_its_user_allowed_it(worker):
    script = f"""{PLAY}
import tensorrt_llm._torch.pyexecutor.sampler as sampler
del sampler.TorchSampler.process_draft_tokens
{CREATE}
"""
    allowed = SamplerSettings(fallback="stock").to_json()
    run = worker.run(script, allowed)
    assert run.stdout == "function\n", run.stderr
    assert "TensorRT-LLM's own verifier decides" in run.stderr
    assert "TorchSampler.process_draft_tokens" in run.stderr


@pytest.mark.parametrize(
    "value", ["{", "[]", '{"draft_mode": "both"}', '{"rule": "strict"}', '{"report_key": "c0ffee"}', '{"c0ffee"']
)
def test_settings_that_are_none_stop_the_worker(worker, value):
    run = worker.run(PLAY + CREATE, value)
    assert run.returncode != 0
    assert f"EngineError: {VARIABLE}: " in run.stderr
    assert "c0ffee" not in run.stderr, "logs are no place for a key"


def test_an_environment_without_the_plugin_cannot_import_tensorrt_llm(tmp_path):
    bare = Environment(tmp_path / "bare")
    install_hook(bare.site)
    script = "import importlib.util, sys; print(sys.modules.get('tensorrt_llm', 0)); import tensorrt_llm"
    run = bare.run(script, SETTINGS.to_json())
    assert run.stdout == "None\n"
    assert run.returncode != 0
    assert "ModuleNotFoundError: No module named 'spec_cascade'" in run.stderr
    # The variable is what does it, and nothing else.
    assert bare.said("import sys; print(sys.modules.get('tensorrt_llm', 0))") == ["0"]


def test_the_hook_is_one_line_that_is_written_once_and_taken_away(tmp_path):
    assert hook_state(tmp_path) == "absent"
    assert install_hook(tmp_path) == hook_path(tmp_path) == tmp_path / FILE_NAME
    assert install_hook(tmp_path).read_text(encoding="utf-8") == LINE
    assert LINE.count("\n") == 1
    assert LINE.startswith("import "), "other lines of such files are paths"
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert hook_state(tmp_path) == "installed"
    hook_path(tmp_path).write_text("import something_older\n", encoding="utf-8")
    assert hook_state(tmp_path) == "outdated"
    assert remove_hook(tmp_path)
    assert not remove_hook(tmp_path)


def test_a_site_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="start-up hook cannot be written"):
        install_hook(tmp_path / "missing")


def test_settings_travel_as_one_line():
    text = SETTINGS.to_json()
    assert "\n" not in text
    assert SamplerSettings.from_json(text) == SETTINGS
    assert SamplerSettings.from_json("{}") == SamplerSettings()
    assert json.loads(text)["draft_length"] == 3
