"""Both models along a text, in chunks: against the models run whole, and the rules asked token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines.pytorch.load import trim_head
from spec_cascade.errors import ConfigError
from spec_cascade.rules import Place, Rows, parse_rule
from spec_cascade.rules.divergence import Divergence
from spec_cascade.verify.grouping import rule_at
from spec_cascade_build.drafter import score_rules, timing
from spec_cascade_build.drafter.score_pair import ScoredPair
from spec_cascade_build.drafter.score_passages import Answers, Passage, windows
from spec_cascade_build.drafter.score_prediction import LONGEST, standing
from spec_cascade_build.drafter.score_rows import CHUNK, acceptances
from spec_cascade_build.drafter.score_rules import GREEDY, STRICT, Way, ways
from tests.tiny import VOCAB, cached, noisy, tiny_engine, tiny_llama

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LONG = 2 * CHUNK + 9
TARGET = tiny_llama()
DRAFTER = noisy(TARGET, 0.2)
HEAD = torch.arange(0, VOCAB, 2)


def pair_of(
    drafter: PreTrainedModel = DRAFTER, *, head: Tensor | None = None, argmax: bool = False, slots: int = 2
) -> ScoredPair:
    return ScoredPair(
        target=cached(TARGET, slots, LONG + 20),
        drafter=cached(drafter, 1, LONG + 20),
        head=head,
        vocab_size=VOCAB,
        argmax_drafts=argmax,
        compiled=False,
    )


def passage(length: int, begin: int, seed: int = 0) -> Passage:
    generator = torch.Generator().manual_seed(seed)
    return Passage(tuple(torch.randint(VOCAB, (length,), generator=generator).tolist()), begin)


PASSAGES = [passage(LONG, CHUNK + 5), passage(12, 1, seed=1), passage(CHUNK + 1, CHUNK, seed=2)]


def scored(pair: ScoredPair, way: Way, passages: list[Passage] = PASSAGES) -> list[list[float]]:
    return [text.tolist() for text in acceptances(pair, passages, [way], lambda _: None)[way.name]]


@torch.inference_mode()
def brute_force(
    way: Way, text: Passage, drafter: PreTrainedModel = DRAFTER, *, head: Tensor | None = None, argmax: bool = False
) -> list[float]:
    """Each place by itself: rows from a whole forward, and the rule asked about every token that may be drafted."""
    ids = torch.tensor([text.token_ids])
    rows = [model(ids).logits[0].double() for model in (drafter, TARGET)]
    if head is not None:
        outside = torch.ones(VOCAB, dtype=torch.bool).index_fill(0, head, False)
        rows[0][:, outside] = -torch.inf
    found = []
    for place in range(text.begin, len(text.token_ids)):
        gates = [row[place - 1].softmax(-1) for row in rows]
        if way.temperature:
            q, p = ((row[place - 1] / way.temperature).softmax(-1) for row in rows)
        else:
            q, p = (torch.eye(VOCAB, dtype=torch.float64)[row[place - 1].argmax()] for row in rows)
        if argmax:
            q = torch.eye(VOCAB, dtype=torch.float64)[rows[0][place - 1].argmax()]
        rule = rule_at(way.rule, Place(place - text.begin, text.token_ids[:place]))
        four = Rows(q, p, *gates)
        found.append(sum(float(q[x]) * float(rule.judge(four, torch.tensor(x))[0]) for x in range(VOCAB) if q[x] > 0))
    return found


@pytest.mark.parametrize(
    ("spec", "temperature"),
    [
        ("strict", 1.0),
        ("strict", 0.7),
        ("strict", 0.0),
        ("chow:alpha=0.6", 0.7),
        ("lossy:alpha=0.5", 1.0),
        ("ears:tolerance=0.3", 1.0),
        ("token_v3:alpha=0.8,strict_prefix_tokens=4", 1.0),
        ("schedule(0=strict, 3=drafter_only, 9=cactus:delta=0.1)", 1.0),
        ("phase(drafter_only):start=5,end=7", 1.0),
    ],
)
def test_every_place_is_what_enumeration_gives_whatever_the_chunks(spec: str, temperature: float):
    way = Way(spec, parse_rule(spec), temperature)
    found = scored(pair_of(), way)
    for text, values in zip(PASSAGES, found, strict=True):
        assert values == pytest.approx(brute_force(way, text), abs=1e-4)


@pytest.mark.parametrize("spec", ["strict", "diff:alpha=0.125", "mix:weight=0.9"])
def test_a_trimmed_head_is_a_drafter_that_never_proposes_the_other_tokens(spec: str):
    trimmed = noisy(TARGET, 0.2)
    trim_head(trimmed, HEAD)
    way = Way(spec, parse_rule(spec), 1.0)
    found = scored(pair_of(trimmed, head=HEAD), way, PASSAGES[1:])
    for text, values in zip(PASSAGES[1:], found, strict=True):
        assert values == pytest.approx(brute_force(way, text, head=HEAD), abs=1e-4)


def test_argmax_drafts_are_taken_as_one_hot_rows():
    way = Way("strict", parse_rule("strict"), 1.0)
    found = scored(pair_of(argmax=True), way, PASSAGES[1:2])
    assert found == [pytest.approx(brute_force(way, PASSAGES[1], argmax=True), abs=1e-4)]


def test_greedy_counts_the_places_where_both_argmaxes_are_the_same():
    (way,) = (way for way in ways(("strict",), temperature=1.0, argmax_drafts=False)[0] if way.name == GREEDY)
    with torch.inference_mode():
        ids = torch.tensor([PASSAGES[0].token_ids])
        same = DRAFTER(ids).logits[0].argmax(-1) == TARGET(ids).logits[0].argmax(-1)
    (found,) = scored(pair_of(), way, PASSAGES[:1])
    assert found == same[PASSAGES[0].begin - 1 : -1].double().tolist()
    assert 0 < sum(found) < len(found)


def test_a_drafter_equal_to_the_target_is_accepted_everywhere_by_every_lossless_way():
    pair = pair_of(TARGET)
    found = acceptances(pair, PASSAGES, ways(("strict",), temperature=1.0, argmax_drafts=False)[0], lambda _: None)
    for texts in found.values():
        for text in texts:
            assert text.tolist() == pytest.approx([1.0] * len(text), abs=1e-5)


def test_the_answers_are_those_of_an_engine_without_drafts():
    prompts = [passage(length, 0, seed=length).token_ids for length in (3, 150, 20)]
    ends = frozenset(range(8))
    sampling = [SamplingParams(temperature=0.9, seed=5 + i, max_tokens=24) for i in range(3)]
    engine = tiny_engine(TARGET, None, eos=ends, max_seq_len=200)
    requests = [
        GenerationRequest(prompt_ids=ids, sampling=params) for ids, params in zip(prompts, sampling, strict=True)
    ]
    expected = [[token for out in engine.submit(request) for token in out.token_ids] for request in requests]
    engine.close()
    target = cached(TARGET, 2, 200)
    ended: list[int] = []
    writer = Answers(target, vocab_size=VOCAB, end_ids=ends, tokens=24, temperature=0.9, seed=5)
    found = writer.write(prompts, ended.append)
    assert [list(text.token_ids[text.begin :]) for text in found] == expected
    assert [text.token_ids[: text.begin] for text in found] == prompts
    assert any(text.scored < 24 for text in found), "an answer ended with an end token"
    assert sum(ended) == 3
    assert target.cache.lengths == [0, 0]


def test_windows_cut_a_text_and_leave_no_lone_token():
    assert windows(range(7), 3) == [Passage((0, 1, 2), 1), Passage((3, 4, 5), 1)]
    assert [text.scored for text in windows(range(8), 3)] == [2, 2, 1]


def test_every_rule_of_the_table_is_scored_and_guards_are_not():
    names = [way.name for way in ways((), temperature=1.0, argmax_drafts=False)[0]]
    assert names[0] == STRICT
    assert names[-1] == GREEDY
    assert {"chow:alpha=0.6", "typical:epsilon=0.3,delta=0.09", "all_of(chow:alpha=0.6, token_v3:alpha=0.8)"} < {*names}
    assert not [name for name in names if "phase" in name or "schedule" in name or name == "target_only"]


def test_a_rule_that_argmax_drafts_make_meaningless_is_left_out_with_the_reason_or_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    spec = "divergence:alpha=0.1,kind=kl"
    assert Divergence.about is not None

    class Infinite(Divergence):
        about = replace(Divergence.about, example=spec)

    monkeypatch.setattr(score_rules, "installed", lambda: {"infinite": Infinite})
    assert spec in [way.name for way in ways((), temperature=1.0, argmax_drafts=False)[0]]
    found, remarks = ways((), temperature=1.0, argmax_drafts=True)
    assert spec not in [way.name for way in found]
    assert [line for line in remarks if line.startswith(f"{spec} is left out: ") and "KL(p || q) is infinite" in line]
    with pytest.raises(ConfigError, match="infinite for a one-hot q"):
        ways((spec,), temperature=1.0, argmax_drafts=True)


@pytest.mark.parametrize("head", [None, HEAD])
def test_the_parts_of_a_round_are_timed_and_the_caches_left_empty(head: Tensor | None):
    drafter = noisy(TARGET, 0.2)
    if head is not None:
        trim_head(drafter, head)
    pair = pair_of(drafter, head=head)
    chosen, _ = ways(("token_v3:alpha=0.8",), temperature=0.8, argmax_drafts=False)
    done: list[int] = []
    costs = timing.measure(pair, PASSAGES[0].token_ids[:20], chosen, repetitions=2, advance=done.append)
    assert set(costs.draft) == {0.8, 0.0}
    assert set(costs.verify) == {"strict", "token_v3:alpha=0.8", GREEDY}
    assert all(len(seconds) == LONGEST + 1 for seconds in (costs.score, *costs.verify.values()))
    assert min(*costs.score, *costs.draft.values(), *(min(seconds) for seconds in costs.verify.values())) > 0
    assert (sum(done), costs.context) == (2, 19)
    assert pair.target.length(0) == pair.drafter.length(0) == 0
    assert costs.of(chosen[0]).ratio == costs.draft[0.8] / costs.score[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_predicted_tokens_per_call_are_near_those_of_the_engine(temperature: float):
    drafter, length = noisy(TARGET, 0.1), 4
    prompts = [passage(8, 0, seed=i).token_ids for i in range(24)]
    pair = pair_of(drafter, slots=8)
    writer = Answers(pair.target, vocab_size=VOCAB, end_ids=(), tokens=64, temperature=temperature, seed=0)
    way = Way(STRICT, parse_rule(STRICT), temperature)
    found = acceptances(pair, writer.write(prompts, lambda _: None), [way], lambda _: None)[STRICT]
    predicted = 1 + sum(standing(found, length))
    engine = tiny_engine(TARGET, drafter, max_seq_len=100)
    sampling = [SamplingParams(temperature=temperature, seed=i, max_tokens=64) for i in range(len(prompts))]
    running = [
        engine.submit(GenerationRequest(prompt_ids=ids, sampling=params, draft_length=length))
        for ids, params in zip(prompts, sampling, strict=True)
    ]
    counts = [list(generation)[-1].statistics for generation in running]
    engine.close()
    tokens = sum(each.num_output_tokens for each in counts if each is not None)
    calls = sum(each.num_target_calls for each in counts if each is not None)
    assert predicted > 1.2
    assert tokens / calls == pytest.approx(predicted, rel=0.1)
