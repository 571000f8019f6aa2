"""Counter-based draws: Random123's published vectors, and what a draw may and may not depend on."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from spec_cascade.verify import Purpose, round_uniforms, uniforms
from spec_cascade.verify.draws import philox

ONES = 0xFFFFFFFF
# tests/kat_vectors of Random123 1.14.0, lines "philox4x32 10": counter, key, result.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def column(*words: int) -> torch.Tensor:
    return torch.tensor(words)[:, None]


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, ...], result: tuple[int, ...]) -> None:
    even, odd = philox(column(*counter[::2]), column(*counter[1::2]), column(*key))
    assert (*even[:, 0].tolist(), *odd[:, 0].tolist()) == (result[0], result[2], result[1], result[3])


def test_the_counter_is_position_and_purpose_and_the_key_is_the_seed() -> None:
    seed, position = 0x299F31D0A4093822, 0x85A308D3243F6A88 - 2**64
    even, odd = philox(column(0x243F6A88, Purpose.DRAFT), column(0x85A308D3, 0), column(0xA4093822, 0x299F31D0))
    expected = ((int(even[0]) >> 5) * 2**26 + (int(odd[0]) >> 6)) * 2.0**-53
    drawn = uniforms(torch.tensor(seed), torch.tensor(position), Purpose.DRAFT)
    assert drawn.item() == expected
    assert drawn.shape == ()


def test_a_draw_depends_on_nothing_but_seed_position_and_purpose() -> None:
    seeds, positions = torch.arange(-3, 5)[:, None], torch.tensor([0, 1, 2**31, 2**33 + 7])
    together = uniforms(seeds, positions, Purpose.ACCEPT)
    for i, seed in enumerate(seeds[:, 0]):
        for j, position in enumerate(positions):
            assert uniforms(seed, position, Purpose.ACCEPT) == together[i, j]
    others = [uniforms(seeds, positions, purpose) for purpose in (Purpose.DRAW, Purpose.DRAFT)]
    everything = torch.stack([together, *others])
    assert everything.unique().numel() == everything.numel()


def test_a_rounds_numbers_are_those_of_its_positions() -> None:
    seeds, positions = torch.tensor([3, -9, 2**62]), torch.tensor([0, 17, 2**40])
    numbers = round_uniforms(seeds, positions, 4)
    steps = positions[:, None] + torch.arange(5)
    for i, purpose in enumerate((Purpose.ACCEPT, Purpose.DRAW)):
        assert torch.equal(numbers[..., i], uniforms(seeds[:, None], steps, purpose))


def test_draws_are_uniform_along_positions_and_along_seeds() -> None:
    """Kolmogorov-Smirnov at a level of 1e-3 over the two tests; seeds are fixed."""
    many = torch.arange(20_000)
    for numbers in (uniforms(torch.tensor(7), many, Purpose.DRAW), uniforms(many, torch.tensor(7), Purpose.DRAW)):
        assert 0 <= numbers.min() < numbers.max() < 1
        assert kstest(numbers.numpy(), "uniform").pvalue > 1e-3 / 2
