"""What may be asked of a measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from spec_cascade.bench.prompts import PROMPTS
from spec_cascade.bench.settings import Settings, check_plot, parsed_concurrency
from spec_cascade.errors import ConfigError


def test_the_concurrency_is_sorted_and_each_number_stands_once() -> None:
    assert parsed_concurrency("8,1, 2,1") == (1, 2, 8)


@pytest.mark.parametrize("text", ["", "0", "1,x", "1;2", "-1"])
def test_a_concurrency_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--concurrency"):
        parsed_concurrency(text)


def test_by_default_the_engine_is_swept_up_to_what_it_takes() -> None:
    assert Settings(engine_dir=Path()).streams(5) == (1, 2, 4)
    assert Settings(engine_dir=Path(), concurrency=(3,)).streams(5) == (3,)
    with pytest.raises(ConfigError, match=r"--concurrency = 6 .* at most 5"):
        Settings(engine_dir=Path(), concurrency=(1, 6)).streams(5)


@pytest.mark.parametrize(("field", "value"), [("tokens", 1), ("prompts", 0), ("repetitions", 0), ("warm_up", -1)])
def test_too_little_is_refused_by_the_options_name(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        Settings(engine_dir=Path(), **{field: value})  # type: ignore[arg-type]


def test_a_plot_is_a_png_or_an_svg() -> None:
    check_plot(Path("a.PNG"))
    with pytest.raises(ConfigError, match=r"--plot = 'a.jpeg' .* \.png or \.svg"):
        check_plot(Path("a.jpeg"))


def test_the_prompts_differ() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) >= 8
