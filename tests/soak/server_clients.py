"""Clients of a server, of every kind: patient ones, those that leave, those with little time, and those that err."""

from __future__ import annotations

import random
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from spec_cascade_client import BusyError, Client, ClientError, InvalidRequestError, Options, Retry

if TYPE_CHECKING:
    from spec_cascade.serving.server import TritonServer
    from spec_cascade_client import Result
    from tests.soak.clients import Tally

RULES = ("strict", "target_only", "token_v3:alpha=0.8", "opt:alpha=0.1", "chow:alpha=0.3", "mix:weight=0.5")
PROMPT = "the quick brown fox jumps over the lazy dog and runs away from the cat that sat on the mat"
TIMEOUT = 120.0
# Triton 2.51 can die when a gRPC stream is cancelled at the moment it completes: who leaves does so long before.
LONG = 160
MOST_CHUNKS = 3

WRONG_OPTIONS = (
    {"rule": "no_such_rule"},
    {"rule": "token_v3:alpha=7"},
    {"temperature": -1.0},
    {"top_p": 2.0},
    {"draft_length": 999},
    {"max_tokens": 0},
)
WRONG_BODIES = (
    b"",
    b"not json",
    b"[1, 2]",
    b'{"text_input": 5}',
    b'{"text_input": ""}',
    b'{"max_tokens": 4}',
    b'{"text_input": "a", "tempature": 1.0}',
    b'{"text_input": "a", "max_tokens": {"a": 1}}',
    b'{"text_input": "a\\u0000b"}',
)


class ServerClient(Thread):
    """Sends one request after the other until it is stopped."""

    def __init__(self, server: TritonServer, tally: Tally, stop: Event, seed: int) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self._http_url = server.http_url
        self._urls = {"grpc": server.grpc_url, "http": server.http_url}
        self._tally, self._stopping, self._dice = tally, stop, random.Random(seed)
        self._asking: dict[str, Client] = {}

    def run(self) -> None:
        """Until stopped."""
        manners = {self._stay: 6, self._leave: 2, self._hurry: 1, self._err: 1, self._send_nonsense: 1}
        settings: dict[str, Any] = {"retry": Retry(attempts=1), "idle_timeout": TIMEOUT, "response_timeout": TIMEOUT}
        self._asking = {name: Client(url, **settings) for name, url in self._urls.items()}
        self._asking["unary"] = Client(self._http_url, model="ensemble_unary", **settings)
        try:
            while not self._stopping.is_set():
                [manner] = self._dice.choices(list(manners), list(manners.values()))
                try:
                    manner()
                except BusyError:
                    self._tally.add(refused=1)
                    time.sleep(0.02)
                except ClientError as error:
                    self._tally.complain(f"{manner.__name__}: {type(error).__name__}: {error}")
                    time.sleep(0.5)
        finally:
            for client in self._asking.values():
                client.close()

    def _stay(self) -> None:
        self._check(self._answer(options := self._options(self._dice.choice((1, 4, 24, 60)))), options)

    def _hurry(self) -> None:
        """Leave the server little time."""
        options = self._options(LONG, timeout_ms=self._dice.randint(1, 200))
        self._check(self._answer(options), options)

    def _leave(self) -> None:
        """Cancel over gRPC, disconnect over HTTP; both once the stream has begun, long before its end."""
        with self._asking[self._dice.choice(("grpc", "http"))].stream(self._prompt(), self._options(LONG)) as stream:
            for _ in range(self._dice.randint(1, MOST_CHUNKS)):
                next(stream)
        self._tally.add(left=1)

    def _err(self) -> None:
        options = Options(**self._dice.choice(WRONG_OPTIONS))  # type: ignore[arg-type]
        try:
            self._answer(options)
        except InvalidRequestError:
            self._tally.add(invalid=1)
        else:
            self._tally.complain(f"{options} was answered")

    def _send_nonsense(self) -> None:
        body = self._dice.choice(WRONG_BODIES)
        request = Request(f"{self._http_url}/v2/models/ensemble/generate", body)
        try:
            with urlopen(request, timeout=TIMEOUT) as reply:
                self._tally.complain(f"{body!r} got status {reply.status}")
        except HTTPError as error:
            error.close()
            self._tally.add(invalid=1)
        except OSError as error:
            self._tally.complain(f"{body!r}: {error}")

    def _answer(self, options: Options) -> Result:
        how = self._dice.choice(("grpc stream", "grpc whole", "http stream", "http whole", "unary whole"))
        protocol, _, form = how.partition(" ")
        client, prompt = self._asking[protocol], self._prompt()
        return client.stream(prompt, options).result() if form == "stream" else client.generate(prompt, options)

    def _check(self, result: Result, options: Options) -> None:
        reason, statistics, tokens = result.finish_reason, result.statistics, len(result.token_ids)
        self._tally.add(submitted=1, tokens=tokens, **{str(reason): 1})
        assert options.rule is not None
        if reason not in ("length", "timeout") or (reason == "timeout" and options.timeout_ms is None):
            self._tally.complain(f"finished by {reason}: {options}")
        if reason == "length" and tokens != options.max_tokens:
            self._tally.complain(f"{tokens} tokens: {options}")
        if statistics.num_output_tokens != tokens:
            self._tally.complain(f"{tokens} tokens, counted {statistics.num_output_tokens}: {options}")
        if not statistics.rule.startswith(options.rule.partition(":")[0]):
            self._tally.complain(f"{statistics.rule} ran: {options}")

    def _prompt(self) -> str:
        return PROMPT[: self._dice.randint(1, len(PROMPT))].strip() or "a"

    def _options(self, max_tokens: int, timeout_ms: int | None = None) -> Options:
        dice = self._dice
        return Options(
            rule=dice.choice(RULES),
            draft_length=dice.choice((None, -1, 0, 1, 4)),
            max_tokens=max_tokens,
            temperature=dice.choice((0.0, 0.7, 1.0)),
            top_k=dice.choice((None, 20)),
            top_p=dice.choice((None, 0.9)),
            repetition_penalty=dice.choice((None, 1.2)),
            seed=dice.randrange(2**64),
            ignore_eos=True,
            token_sources=dice.random() < 0.5,
            log_probs=dice.random() < 0.2,
            timeout_ms=timeout_ms,
        )
