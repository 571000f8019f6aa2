"""The configurations in the model repository are the wire's, by the real protobuf schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from spec_cascade.serving import wire
from spec_cascade.serving.model_configs import ENSEMBLE, MODELS, PythonModel, write
from spec_cascade.serving.repository import find_model_repository

REPOSITORY = Path(__file__).parents[3] / "triton_model_repo"
PYTHON_MODELS = [model for model in MODELS if isinstance(model, PythonModel)]


def config(name: str) -> Any:
    text = (REPOSITORY / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def described(tensors: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {t.name: (model_config_pb2.DataType.Name(t.data_type), tuple(t.dims)) for t in tensors}


def test_the_files_are_what_the_wire_renders(tmp_path: Path) -> None:
    """If this fails, run python -m spec_cascade.serving.model_configs triton_model_repo."""
    write(tmp_path)
    for model in MODELS:
        rendered = (tmp_path / model.name / "config.pbtxt").read_text(encoding="utf-8")
        assert (REPOSITORY / model.name / "config.pbtxt").read_text(encoding="utf-8") == rendered


def test_the_repository_has_no_other_models() -> None:
    assert {path.name for path in REPOSITORY.iterdir()} == {model.name for model in MODELS}
    assert find_model_repository() == REPOSITORY


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_names_types_shapes_and_optionality_are_the_wires(model: Any) -> None:
    parsed = config(model.name)
    assert parsed.name == model.name
    assert described(parsed.input) == {f.name: (f.datatype, f.dims) for f in model.inputs}
    assert described(parsed.output) == {f.name: (f.datatype, f.dims) for f in model.outputs}
    assert all(t.optional for t in parsed.input)
    assert parsed.max_batch_size == 0


@pytest.mark.parametrize("model", PYTHON_MODELS, ids=lambda m: m.name)
def test_python_models_but_the_unary_have_one_instance_and_take_an_engine_directory(model: PythonModel) -> None:
    parsed = config(model.name)
    is_unary = model.name == "ensemble_unary"
    assert parsed.backend == "python"
    assert [group.count for group in parsed.instance_group] == [4 if is_unary else 1]
    assert dict(parsed.parameters).keys() == (set() if is_unary else {"engine_dir"})
    assert all(parameter.string_value == "" for parameter in parsed.parameters.values())
    assert parsed.model_transaction_policy.decoupled == (model.name in ("cascade", "postprocessing"))
    assert (REPOSITORY / model.name / "1" / "model.py").is_file()


def test_the_ensemble_joins_tensors_of_one_type_and_shape() -> None:
    parsed = config("ensemble")
    assert parsed.platform == "ensemble"
    assert parsed.model_transaction_policy.decoupled
    tensors = described(parsed.input)
    for step in parsed.ensemble_scheduling.step:
        inputs, outputs = (described(getattr(config(step.model_name), side)) for side in ("input", "output"))
        for name, source in step.input_map.items():
            assert inputs[name] == tensors[source], (step.model_name, name)
        tensors |= {target: outputs[name] for name, target in step.output_map.items()}
    assert described(parsed.output).items() <= tensors.items()


def test_the_unary_model_speaks_the_ensembles_wire() -> None:
    unary, ensemble = config("ensemble_unary"), config("ensemble")
    assert described(unary.input) == described(ensemble.input)
    assert described(unary.output) == described(ensemble.output)


def test_every_input_of_the_ensemble_reaches_a_model() -> None:
    steps = config("ensemble").ensemble_scheduling.step
    reached = {source for step in steps for source in step.input_map.values()}
    assert {f.name for f in wire.ENSEMBLE_INPUTS} <= reached


def test_all_that_one_response_carries_comes_out_of_the_last_model() -> None:
    last = config("ensemble").ensemble_scheduling.step[-1]
    assert set(last.output_map.values()) == {f.name for f in ENSEMBLE.outputs}


def test_no_client_is_told_the_name_by_which_a_request_is_cancelled() -> None:
    """Nor may one give a name to a request of the ensemble but as a parameter, for its own."""
    assert wire.REQUEST_TOKEN not in (*wire.ENSEMBLE_OUTPUTS, *wire.ENSEMBLE_INPUTS)
    assert not {"request_token", "unary_token", "cancel_token"} & set(described(config("ensemble").output))


def test_every_model_has_a_version_with_a_file_in_it() -> None:
    """Git keeps no empty directory, and Triton loads no model without a version."""
    for model in MODELS:
        assert any((REPOSITORY / model.name / "1").iterdir()), model.name


def test_a_wheel_brings_every_file_of_the_repository() -> None:
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((REPOSITORY.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    listed = {f"{place}/{Path(name).name}": name for place, names in settings["data-files"].items() for name in names}
    files = [path for path in REPOSITORY.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    wanted = {path.relative_to(REPOSITORY.parent).as_posix() for path in files}
    assert set(listed.values()) == wanted
    assert set(listed) == {f"share/spec-cascade/{name}" for name in wanted}


def test_names_are_unique_and_aliases_name_a_field_of_the_same_type() -> None:
    for fields in (wire.ENSEMBLE_INPUTS, wire.ENSEMBLE_OUTPUTS, wire.CASCADE_INPUTS, wire.CASCADE_OUTPUTS):
        by_name = {f.name: f for f in fields}
        assert len(by_name) == len(fields)
        for f in fields:
            assert f.alias_of is None or by_name[f.alias_of].datatype == f.datatype


@pytest.mark.parametrize(
    ("name", "datatype"),
    [
        ("text_input", "TYPE_STRING"),
        ("stream", "TYPE_BOOL"),
        ("max_tokens", "TYPE_INT32"),
        ("stop_words", "TYPE_STRING"),
        ("bad_words", "TYPE_STRING"),
        ("temperature", "TYPE_FP32"),
        ("top_k", "TYPE_INT32"),
        ("top_p", "TYPE_FP32"),
        ("seed", "TYPE_UINT64"),
        ("frequency_penalty", "TYPE_FP32"),
        ("presence_penalty", "TYPE_FP32"),
        ("repetition_penalty", "TYPE_FP32"),
        ("min_tokens", "TYPE_INT32"),
        ("return_log_probs", "TYPE_BOOL"),
        ("return_num_input_tokens", "TYPE_BOOL"),
        ("return_num_output_tokens", "TYPE_BOOL"),
        ("exclude_input_in_output", "TYPE_BOOL"),
    ],
)
def test_what_tensorrt_llm_clients_and_the_openai_front_end_send_fits(name: str, datatype: str) -> None:
    dims = (1, -1) if name in ("stop_words", "bad_words") else (1, 1)
    assert described(config("ensemble").input)[name] == (datatype, dims)
