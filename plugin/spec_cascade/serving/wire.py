"""The wire: every tensor that goes in and out, in one place.

Names and types are those of TensorRT-LLM's Triton backend, so that its clients, load tools and Triton's OpenAI front
end work unchanged. The `config.pbtxt` files are rendered from these tables, and requests are read with them.

Inputs have the shape ``[1, n]``: TensorRT-LLM's clients and the OpenAI front end send a batch of one. Outputs have the
shape ``[n]``, as TensorRT-LLM's ``text_output`` has in practice.

An input that only has *neutral* values is one that those clients send and this version does not implement: the values
that ask for nothing are accepted, all others are refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from spec_cascade.decoding.request import DEFAULT_PRIORITY

BOOL = "TYPE_BOOL"
INT32 = "TYPE_INT32"
UINT64 = "TYPE_UINT64"
FP32 = "TYPE_FP32"
STRING = "TYPE_STRING"

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One tensor.

    Attributes:
        name: Its name on the wire.
        datatype: Triton's name of its type.
        meaning: What it says.
        default: What holds when it is absent, in words; empty where absence means nothing.
        allowed: What its value may be, in words; empty for whatever its type holds.
        is_list: Whether it has any number of elements; otherwise exactly one.
        max_elements: Most elements that a list may have; None for any number.
        max_length: Most characters that each string may have; None for any number.
        is_batch: Whether its shape begins with a batch of one, as that of a client's inputs does.
        alias_of: The field that it is another name of.
        neutral: The values that are accepted of a field that is not implemented; None for one that is.
    """

    name: str
    datatype: str
    meaning: str
    default: str = ""
    allowed: str = ""
    is_list: bool = False
    max_elements: int | None = None
    max_length: int | None = None
    is_batch: bool = False
    alias_of: str | None = None
    neutral: tuple[Scalar, ...] | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """Its shape; -1 is any number."""
        return (*((1,) if self.is_batch else ()), -1 if self.is_list else 1)


def _input(name: str, datatype: str, meaning: str, **more: Any) -> Field:
    return Field(name=name, datatype=datatype, meaning=meaning, is_batch=True, **more)


def _unsupported(name: str, datatype: str, meaning: str, *neutral: Scalar, is_list: bool = False) -> Field:
    allowed = f"{' or '.join(json.dumps(value) for value in neutral)}: not implemented"
    return _input(name, datatype, meaning, allowed=allowed, is_list=is_list, neutral=neutral)


_PROMPT = "1 to max_seq_len - 1 tokens"
# What a client may send is bounded here, and the length of a prompt by the engine: see `prompt.make_prompt`.
_WORDS: dict[str, Any] = {
    "is_list": True,
    "max_elements": 64,
    "max_length": 1000,
    "default": "none",
    "allowed": "at most 64 strings of at most 1000 characters",
}
MAX_RULE_LENGTH = 4096
MAX_TOKEN_IDS = 2**20
_MAX_NAME_LENGTH = 64

PROMPT_INPUTS = (
    _input("text_input", STRING, "The prompt; not beside messages.", allowed=_PROMPT),
    _input(
        "messages",
        STRING,
        'A conversation instead: a JSON list of {"role", "content"}, put through the model\'s chat template.',
        allowed=_PROMPT,
    ),
    _input("apply_chat_template", BOOL, "Make text_input the one user message of a conversation.", default="false"),
    _input(
        "exclude_input_in_output",
        BOOL,
        "Leave the prompt out of text_output. (TensorRT-LLM: false, but its streams leave it out.)",
        default="true",
    ),
)

GENERATION_INPUTS = (
    _input("max_tokens", INT32, "Most tokens to emit.", default="128", allowed=">= 1"),
    _input(
        "stream", BOOL, "One response for each round; otherwise exactly one response with everything.", default="false"
    ),
    _input("temperature", FP32, "Divides the logits; 0 is greedy.", default="1.0", allowed=">= 0"),
    _input("top_k", INT32, "Keep the k most likely tokens; 0 keeps all.", default="0", allowed=">= 0"),
    _input(
        "top_p",
        FP32,
        "Keep the smallest set of tokens of this probability; 0 and 1 keep all.",
        default="1.0",
        allowed="[0, 1]",
    ),
    _input(
        "min_p",
        FP32,
        "Drop tokens less likely than this times the most likely one.",
        default="0.0",
        allowed="[0, 1)",
    ),
    _input(
        "seed",
        UINT64,
        "The same seed gives the same output, and a draft length that no measurement changes; "
        "cascade_stats says which seed ran.",
        default="random",
    ),
    _input("random_seed", UINT64, "Another name of seed.", alias_of="seed"),
    _input(
        "stop_words",
        STRING,
        "The output ends before the first of these strings; empty ones are left out.",
        **_WORDS,
    ),
    _input(
        "end_id",
        INT32,
        "One more token that ends the output; -1 goes on past the model's own, as ignore_eos does.",
        default="none",
        allowed=">= -1",
    ),
    _input("ignore_eos", BOOL, "Go on past the model's end token.", default="false"),
    _input(
        "deferral_rule",
        STRING,
        "Who decides, e.g. strict, target_only, token_v3:alpha=0.8.",
        default="the engine's",
        max_length=MAX_RULE_LENGTH,
        allowed=f"a rule and its parameters' ranges: rules.md; at most {MAX_RULE_LENGTH} characters",
    ),
    _input(
        "draft_length",
        INT32,
        "Most tokens to draft per round; 0 is plain decoding by the target, -1 lets the engine pick.",
        default="the engine's",
        allowed="[-1, max_draft_length]",
    ),
    _input("num_draft_tokens", INT32, "Another name of draft_length.", alias_of="draft_length"),
    _input("return_token_sources", BOOL, "Send token_sources and token_texts.", default="false"),
    _input("return_num_input_tokens", BOOL, "No effect: always sent.", default="true"),
    _input("return_num_output_tokens", BOOL, "No effect: always sent.", default="true"),
    _input("return_perf_metrics", BOOL, "No effect: always sent.", default="true"),
    _input("pad_id", INT32, "No effect: nothing is padded.", default="none"),
    _input(
        "min_tokens",
        INT32,
        "Tokens before which neither an end token nor a stop word ends the output.",
        default="0",
        allowed="[0, max_tokens]",
    ),
    _input(
        "bad_words",
        STRING,
        "The output has none of these strings, as the tokenizer writes them at the start of a text and after a space; "
        "empty ones are left out.",
        **_WORDS,
    ),
    _input(
        "repetition_penalty",
        FP32,
        "Divides the logits of tokens in prompt and output, multiplies negative ones; 1 is none.",
        default="1.0",
        allowed="> 0",
    ),
    _input(
        "presence_penalty",
        FP32,
        "Subtracted from the logits of tokens in the output. (TensorRT-LLM: in the prompt too.)",
        default="0.0",
        allowed="[-2, 2]",
    ),
    _input(
        "frequency_penalty",
        FP32,
        "Subtracted as often as the token stands in the output. (TensorRT-LLM: and in the prompt.)",
        default="0.0",
        allowed="[-2, 2]",
    ),
    _input("return_log_probs", BOOL, "Send output_log_probs.", default="false"),
    _input(
        "timeout_ms",
        INT32,
        "Milliseconds after which the request ends with what it has.",
        default="none",
        allowed=">= 1",
    ),
    _input(
        "priority",
        FP32,
        "Of the requests that wait, the one with the highest gets the next free slot; equal ones in their order.",
        default=str(DEFAULT_PRIORITY),
        allowed="[0, 1]",
    ),
    _unsupported("length_penalty", FP32, "Preference of beam search.", 0.0, 1.0),
    _unsupported("beam_width", INT32, "Beams.", 1),
    _unsupported("num_return_sequences", INT32, "Outputs for one prompt.", 1),
    _unsupported("return_context_logits", BOOL, "Logits of the prompt.", False),
    _unsupported("return_generation_logits", BOOL, "Logits of the output.", False),
    _unsupported("guided_decoding_guide_type", STRING, "Constrained decoding.", ""),
    _unsupported("guided_decoding_guide", STRING, "Constrained decoding.", ""),
)

ROUND_OUTPUTS = (
    Field(
        name="token_sources", datatype=INT32, is_list=True, meaning="Who wrote each token: the values of TokenSource."
    ),
    Field(
        name="output_log_probs",
        datatype=FP32,
        is_list=True,
        meaning="Of each new token, whoever wrote it, the log of the target's probability: at temperature 1, without "
        "truncation, after penalties; where return_log_probs asked.",
    ),
    Field(name="num_input_tokens", datatype=INT32, meaning="Tokens of the prompt."),
    Field(name="num_output_tokens", datatype=INT32, meaning="New tokens in this response."),
    Field(
        name="finish_reason",
        datatype=STRING,
        meaning="stop, length or timeout in the last response, before that empty.",
    ),
    Field(name="response_index", datatype=INT32, meaning="Number of this response within its request, from 0."),
    Field(name="acceptance_rate", datatype=FP32, meaning="Accepted over drafted tokens; in the last response."),
    Field(name="total_accepted_draft_tokens", datatype=INT32, meaning="Drafted tokens emitted; in the last response."),
    Field(name="total_draft_tokens", datatype=INT32, meaning="Tokens drafted; in the last response."),
    Field(name="cascade_stats", datatype=STRING, meaning="What ran and what it counted, JSON; in the last response."),
)

TEXT_OUTPUTS = (
    Field(name="text_output", datatype=STRING, meaning="New text; text that may yet change comes later."),
    Field(name="token_ids", datatype=INT32, is_list=True, meaning="New tokens."),
    Field(
        name="token_texts",
        datatype=STRING,
        is_list=True,
        meaning="The text that each new token released; beside token_sources.",
    ),
)

ENSEMBLE_INPUTS = PROMPT_INPUTS + GENERATION_INPUTS
ENSEMBLE_OUTPUTS = TEXT_OUTPUTS + ROUND_OUTPUTS

# Between the models of the ensemble. The server passes a tensor from step to step once: what postprocessing needs in
# each response has to come out of cascade in each response.
PROMPT_TEXT = Field(name="prompt_text", datatype=STRING, meaning="The prompt, where the output shall begin with it.")
REQUEST_TOKEN = Field(
    name="request_token",
    datatype=STRING,
    max_length=_MAX_NAME_LENGTH,
    meaning="Names the request, so that postprocessing can have it cancelled; with it cascade sends heartbeats.",
)
# The server passes the parameters of an ensemble's request to every step, and has no way to cancel what a model asked
# another for: ensemble_unary therefore names the request itself.
UNARY_TOKEN = Field(
    name="unary_token",
    datatype=STRING,
    max_length=_MAX_NAME_LENGTH,
    meaning="The request_token to take; a parameter, set by ensemble_unary.",
)
CANCEL_TOKEN = Field(
    name="cancel_token",
    datatype=STRING,
    max_length=_MAX_NAME_LENGTH,
    meaning="Cancel the request with this token; alone.",
)
INPUT_IDS = Field(
    name="input_ids",
    datatype=INT32,
    is_list=True,
    max_elements=MAX_TOKEN_IDS,
    meaning="The prompt; required but for a cancel_token.",
)
OUTPUT_IDS = Field(
    name="output_ids", datatype=INT32, is_list=True, max_elements=MAX_TOKEN_IDS, meaning="All output tokens so far."
)
STOP_STRINGS = Field(name="stop_strings", datatype=STRING, is_list=True, meaning="stop_words without empty ones.")
STOP_STRINGS_AFTER = Field(
    name="stop_strings_after",
    datatype=INT32,
    meaning="Output tokens whose text may have stop strings in it: min_tokens.",
)

ERROR_MESSAGE = Field(name="error_message", datatype=STRING, meaning="Why the request ended; comes alone.")
ERROR_STATUS = Field(name="error_status", datatype=STRING, meaning="Triton's name of the error's status.")

PREPROCESSING_OUTPUTS = (INPUT_IDS, PROMPT_TEXT, REQUEST_TOKEN)
CASCADE_INPUTS = (INPUT_IDS, PROMPT_TEXT, REQUEST_TOKEN, CANCEL_TOKEN, *GENERATION_INPUTS)
CASCADE_OUTPUTS = (
    OUTPUT_IDS,
    STOP_STRINGS,
    STOP_STRINGS_AFTER,
    PROMPT_TEXT,
    REQUEST_TOKEN,
    ERROR_MESSAGE,
    ERROR_STATUS,
    *ROUND_OUTPUTS,
)
