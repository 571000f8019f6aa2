"""Text in pieces: whatever blocks the tokens arrive in, the pieces are the text of the whole."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spec_cascade.decoding.text import OutputText, stop_cut
from tests.unit.decoding.sample_tokenizers import (
    SPECIAL,
    TOKENIZERS,
    WINDOWED,
)

if TYPE_CHECKING:
    pass

TEXTS = [
    "plain words, with punctuation!",
    "  leading spaces and trailing ones  ",
    "emoji 😀 and a family 👨‍👩‍👧‍👦, flags 🇯🇵🇫🇷, skin 👍🏽",
    "日本語の文章です。中文字符。한국어 문장",
    "combining é ê ü and Z͑ͫ̓a͖l̝g̅o̟",
    "नमस्ते दुनिया ไทย العربية עברית",
    "\n\n\tnew\r\nlines\x00and\x7fcontrols",
    "",
]


def pieces(output: OutputText, ids: list[int], sizes: list[int]) -> list[str]:
    """The pieces of ``ids`` sent in blocks of these sizes."""
    out, sent = [], 0
    for i, size in enumerate(sizes):
        sent += size
        out.append(output.piece(ids[:sent], size, final=i == len(sizes) - 1))
    return out


@st.composite
def blocks(draw: st.DrawFn, total: int) -> list[int]:
    """Sizes of at least one block that sum to ``total``; blocks may be empty, as a last one often is."""
    cuts = sorted(draw(st.lists(st.integers(0, total), max_size=12)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_text_arrives_whole_in_blocks_of_any_size(text: str, size: int) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode(text, add_special_tokens=False)
    sizes = [min(size, len(ids) - i) for i in range(0, len(ids), size)] or [0]
    assert "".join(pieces(OutputText(tokenizer), ids, sizes)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_every_character_is_sent_whole(text: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert not any("\ufffd" in piece for piece in pieces(OutputText(tokenizer), ids, [1] * len(ids) or [0]))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_tokens_are_the_decoded_whole(name: str, data: st.DataObject) -> None:
    """Random ids: invalid UTF-8, special tokens in the middle, ids beyond the vocabulary."""
    tokenizer = TOKENIZERS[name]
    size = tokenizer._raw.get_vocab_size(with_added_tokens=True)
    ids = data.draw(st.lists(st.integers(0, size + 1), max_size=90))
    output = OutputText(tokenizer)
    sent = pieces(output, ids, data.draw(blocks(len(ids))))
    assert "".join(sent) == tokenizer.decode(ids)
    singly = pieces(output, ids, [1] * len(ids) or [0])
    assert "".join(singly) == tokenizer.decode(ids)
    assert output.token_pieces(ids, len(ids), final=True) == (singly if ids else [])


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_with_stop_strings_the_pieces_are_the_text_before_the_first(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    size = tokenizer._raw.get_vocab_size(with_added_tokens=True)
    # Few distinct tokens, so that stop strings overlap and nearly match often.
    few = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    ids = data.draw(st.lists(st.sampled_from(few), max_size=60))
    text = tokenizer.decode(ids)
    places = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 30))
    stops = tuple(text[a : a + n] for a, n in data.draw(st.lists(places, min_size=1, max_size=3)) if text[a : a + n])
    output = OutputText(tokenizer, stops)

    sent, emitted = "", 0
    for block in data.draw(blocks(len(ids))):
        kept = output.stop_cut(ids[: emitted + block], block)
        emitted += block if kept is None else kept
        finished = kept is not None or emitted == len(ids)
        sent += output.piece(ids[:emitted], block if kept is None else kept, final=finished)
        if finished:
            break
    starts = [start for stop in stops if (start := tokenizer.decode(ids[:emitted]).find(stop)) >= 0]
    assert sent == tokenizer.decode(ids[:emitted])[: min(starts, default=None)]
    assert sent == output.final_text(ids[:emitted])


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_stop_strings_within_the_least_length_are_text(name: str, data: st.DataObject) -> None:
    """What the first ``min_tokens`` tokens complete is passed over; what they only begin is not."""
    tokenizer = TOKENIZERS[name]
    size = tokenizer._raw.get_vocab_size(with_added_tokens=True)
    few = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    ids = data.draw(st.lists(st.sampled_from(few), min_size=1, max_size=60))
    least = data.draw(st.integers(0, len(ids)))
    settled = [OutputText(tokenizer)._settled(ids, 0, i) for i in range(len(ids) + 1)]
    places = st.tuples(st.integers(0, max(0, len(settled[-1]) - 1)), st.integers(1, 12))
    drawn = data.draw(st.lists(places, min_size=1, max_size=3))
    stops = tuple(settled[-1][a : a + n] for a, n in drawn if settled[-1][a : a + n])

    def first_stop(text: str) -> int | None:
        """By the definition: the first place at which a stop string stands that reaches beyond the exempt text."""
        starts = (at for at in range(len(text)) for s in stops if text.startswith(s, at))
        return next((at for at in starts if any(_reaches(text, s, at) for s in stops)), None)

    def _reaches(text: str, stop: str, at: int) -> bool:
        return text.startswith(stop, at) and at + len(stop) > len(settled[least])

    end = next((i for i in range(least + 1, len(ids) + 1) if first_stop(settled[i]) is not None), None)
    output, sent, emitted = OutputText(tokenizer, stops, least), "", 0
    for block in data.draw(blocks(len(ids))):
        kept = stop_cut(tokenizer, ids[: emitted + block], block, stops, least)
        emitted += block if kept is None else kept
        finished = kept is not None or emitted == len(ids)
        sent += output.piece(ids[:emitted], block if kept is None else kept, final=finished)
        if finished:
            break
    assert emitted == (end or len(ids))
    whole = tokenizer.decode(ids[:emitted])
    assert sent == (whole if emitted <= least else whole[: first_stop(whole)])


@pytest.mark.parametrize("name", WINDOWED)
def test_late_in_a_long_output_an_early_stop_string_stays_text(name: str) -> None:
    """The window at the end of the output begins among the first ``min_tokens`` and shows the stop string again."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("a b c d " * 15 + "z " + "a b c d " * 15, add_special_tokens=False)
    least = next(i for i in range(1, len(ids)) if "z" in tokenizer.decode(ids[:i])) + 2
    output = OutputText(tokenizer, ("z",), least)
    assert output._window(ids, least + 4) in range(1, least)
    assert stop_cut(tokenizer, ids, len(ids) - least, ("z",), least) is None
    assert "".join(pieces(output, ids, [1] * len(ids))) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_cut_does_not_depend_on_the_blocks(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    few = data.draw(st.lists(st.integers(2, 260), min_size=1, max_size=3))
    ids = data.draw(st.lists(st.sampled_from(few), min_size=1, max_size=50))
    text = tokenizer.decode(ids)
    stops = tuple(s for s in (text[3:6], text[10:31]) if s)
    singly = next((i for i in range(1, len(ids) + 1) if stop_cut(tokenizer, ids[:i], 1, stops) is not None), None)
    assert stop_cut(tokenizer, ids, len(ids), stops) == singly


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_stable_text_only_grows(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    size = tokenizer._raw.get_vocab_size(with_added_tokens=True)
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
    output = OutputText(tokenizer, ("ab", "the d", "\n\n"))
    texts = [output.stable_text(ids[:i]) for i in range(len(ids) + 1)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


@pytest.mark.parametrize("name", WINDOWED)
def test_a_piece_late_in_a_long_output_decodes_a_window(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS[name]
    assert tokenizer.decodes_in_windows
    ids = tokenizer.encode("the a the a b c é " * 2000, add_special_tokens=False)
    output = OutputText(tokenizer, ("stop here", "###"))
    decode, longest = tokenizer.decode, 0

    def measured(token_ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids))
        return decode(token_ids)

    monkeypatch.setattr(tokenizer, "decode", measured)
    assert output.piece(ids, 5, final=False)
    assert output.stop_cut(ids, 5) is None
    assert longest < 100


@pytest.mark.parametrize("name", WINDOWED)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_text_of_a_window_is_a_suffix_of_the_whole(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    emoji, words = (tokenizer.encode(text, add_special_tokens=False) for text in ("😀", "the a"))
    invisible = tokenizer._raw.token_to_id(SPECIAL)
    emoji = emoji[-4:]  # one token for each byte; sentencepiece puts a space first
    split = [token for byte in emoji for token in (byte, invisible)]
    ascii_byte = tokenizer._raw.token_to_id("<0x41>") or words[0]
    runs = st.sampled_from([emoji, split, emoji[:1], [ascii_byte], words])
    ids = [token for run in data.draw(st.lists(runs, min_size=8, max_size=20)) for token in run]
    output = OutputText(tokenizer, ("x" * data.draw(st.integers(1, 12)),))
    for end in range(17, len(ids) + 1):
        start = output._window(ids, end)
        settled = output._settled(ids, start, end)
        assert start == 0 or len(settled) >= len(output.stop_strings[0])
        assert output._settled(ids, 0, end).endswith(settled)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "byte_fallback_stripped"])
@pytest.mark.parametrize("unit", ["😀", "a", "é", "日 "])
def test_a_stop_string_longer_than_a_window_is_held_back_whole(name: str, unit: str) -> None:
    tokenizer = TOKENIZERS[name]
    for length in (2, 9, 21):
        text = unit * (2 * length) + "b" + unit * (length - 1) + "c" + unit * (length + 3) + "tail"
        ids = tokenizer.encode(text, add_special_tokens=False)
        whole = tokenizer.decode(ids)
        held = OutputText(tokenizer, (unit * length + "#", "b" + unit * length + "#"))
        assert "".join(pieces(held, ids, [1] * len(ids))) == whole
        found = OutputText(tokenizer, (unit * length + "tail", "b" + unit * length))
        end = next(i for i in range(1, len(ids) + 1) if found.stop_cut(ids[:i], 1) is not None)
        assert "".join(pieces(found, ids[:end], [1] * end)) == whole[: whole.index(unit * length + "tail")]


def test_an_unfinished_character_is_held_back_and_flushed_at_the_end() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a😀", add_special_tokens=False)
    assert len(ids) == 5  # one token for "a", one for each byte of the emoji
    output = OutputText(tokenizer)
    assert [output.stable_text(ids[:i]) for i in range(6)] == ["", "a", "a", "a", "a", "a😀"]
    assert output.final_text(ids[:3]) == "a\ufffd"


def test_a_possible_beginning_of_a_stop_string_is_held_back() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    output = OutputText(tokenizer, ("</s>", "<tool_call>"))

    def stable(text: str) -> str:
        return output.stable_text(tokenizer.encode(text, add_special_tokens=False))

    assert stable("hello <") == "hello "
    assert stable("hello </s") == "hello "
    assert stable("hello <tool_c") == "hello "
    assert stable("hello <b") == "hello <b"
    assert stable("hello </s> more") == "hello "


def test_the_token_that_completes_a_stop_string_is_kept() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("one\n\nUser: two", add_special_tokens=False)
    kept = stop_cut(tokenizer, ids, len(ids), ("\n\nUser:",))
    assert kept is not None
    assert "\n\nUser:" in tokenizer.decode(ids[:kept])
    assert "\n\nUser:" not in tokenizer.decode(ids[: kept - 1])
    assert OutputText(tokenizer, ("\n\nUser:",)).final_text(ids[:kept]) == "one"
    assert stop_cut(tokenizer, ids, len(ids), ()) is None


def test_each_token_owns_the_text_that_it_released() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a😀", add_special_tokens=False)
    assert OutputText(tokenizer).token_pieces(ids, 5, final=True) == ["a", "", "", "", "😀"]
    assert OutputText(tokenizer).token_pieces(ids[:4], 2, final=True) == ["", "\ufffd"]
