"""A conversation within the model's window."""

from __future__ import annotations

import json

import pytest

from spec_cascade_client import History, InvalidRequestError, PromptTooLongError, ServerError
from tests.unit.client.wire_servers import Early, Refuse, Send, chunk

ANSWER = Send(chunk(0, "Die!", [1], [0], ["Die!"], finish_reason=["stop"]), final=True)
TOO_LONG = Refuse(
    "in ensemble 'ensemble', messages = '99 tokens' is not allowed: must be a prompt of at most 50 tokens"
)


def conversation(turns: int) -> History:
    history = History(system="Be brief.")
    for i in range(turns):
        history.ask(f"question {i}")
        history.answer(f"answer {i}")
    history.ask("Why?")
    return history


def contents(request: dict) -> list[str]:
    return [message["content"] for message in json.loads(request["messages"][0])]


def test_turns_are_sent_in_order_after_the_instructions():
    assert conversation(1).messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "question 0"},
        {"role": "assistant", "content": "answer 0"},
        {"role": "user", "content": "Why?"},
    ]


def test_the_oldest_turns_are_forgotten_until_the_prompt_fits(serve, connect):
    record = serve(Early(2, TOO_LONG), ANSWER)
    history = conversation(3)
    with connect(record.url) as client:
        assert client.chat(history).text == "Die!"
    assert len(record.requests) == 3
    assert contents(record.requests[2]) == ["Be brief.", "question 2", "answer 2", "Why?"]
    assert [message["content"] for message in history.messages] == contents(record.requests[2])


def test_a_stream_forgets_too(serve, connect):
    record = serve(Early(1, TOO_LONG), ANSWER)
    history = conversation(1)
    with connect(record.url) as client, client.stream(history) as stream:
        assert [chunk.text for chunk in stream] == ["Die!"]
    assert history.num_turns == 1


def test_a_question_that_is_too_long_by_itself_is_an_error_that_says_the_limit(serve, connect):
    record = serve(TOO_LONG)
    history = conversation(2)
    with connect(record.url) as client, pytest.raises(PromptTooLongError, match="at most 50 tokens") as caught:
        client.chat(history)
    assert caught.value.limit == 50
    assert len(record.requests) == 3
    assert history.messages == conversation(2).messages


def test_nothing_is_forgotten_for_a_request_that_fails(serve, connect):
    record = serve(Early(1, TOO_LONG), Refuse("INTERNAL: the engine failed"))
    history = conversation(3)
    with connect(record.url) as client, pytest.raises(ServerError):
        client.chat(history)
    assert len(record.requests) == 2
    assert history.messages == conversation(3).messages


def test_plain_messages_are_the_callers_and_stay_as_they_are(serve, connect):
    record = serve(TOO_LONG)
    messages = conversation(2).messages
    with connect(record.url) as client, pytest.raises(InvalidRequestError):
        client.chat(messages)
    assert len(record.requests) == 1
    assert messages == conversation(2).messages


def test_a_question_that_was_not_answered_is_taken_back():
    history = conversation(1)
    history.ask("How?")
    assert [message["content"] for message in history.messages] == ["Be brief.", "question 0", "answer 0", "How?"]
    history.retract()
    history.retract()
    assert history.num_turns == 1
    with pytest.raises(ValueError, match="no question"):
        history.answer("So.")


def test_a_cleared_history_keeps_its_instructions():
    history = conversation(2)
    history.clear()
    assert history.messages == [{"role": "system", "content": "Be brief."}]
    assert not history.forget_oldest()
