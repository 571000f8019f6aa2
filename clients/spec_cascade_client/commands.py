"""The client's verbs of the `spec-cascade` command. Needs typer and rich."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from spec_cascade_client.access import read_access
from spec_cascade_client.canary import DEFAULT_DEADLINE, canary
from spec_cascade_client.canary import DEFAULT_URL as DEFAULT_HTTP_URL
from spec_cascade_client.chat import Chat
from spec_cascade_client.client import Client
from spec_cascade_client.console import TokenPrinter, is_colored, make_console, summary
from spec_cascade_client.errors import ClientError, NoConnectionError
from spec_cascade_client.options import AUTO, Options
from spec_cascade_client.scrape import METRICS_PORT
from spec_cascade_client.stats import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from spec_cascade_client.options import Message
    from spec_cascade_client.results import Result

DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_METRICS_URL = f"http://127.0.0.1:{METRICS_PORT}"
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, by the shell's convention."""


def register(app: typer.Typer) -> None:
    """Add the client's verbs to ``app``."""
    app.command("generate")(generate)
    app.command("canary")(canary_command)
    app.command("chat")(chat)
    app.command("stats")(stats)


def _draft_length(text: str) -> int:
    if text == "auto":
        return AUTO
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto") from None


Url = Annotated[str, typer.Option(help="Server: grpc://, grpcs://, http:// or https:// host:port.")]
Rule = Annotated[str | None, typer.Option(help="Deferral rule, e.g. strict or token_v3:alpha=0.8.")]
DraftLength = Annotated[
    int | None, typer.Option(parser=_draft_length, metavar="N|auto", help="Most tokens to draft per round; 0: none.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to emit.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to this mass.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same output.")]
Color = Annotated[bool | None, typer.Option(help="Colour tokens by who wrote them; default: on a terminal.")]
Header = Annotated[
    list[str] | None, typer.Option(metavar="NAME: VALUE", help="Sent with every request; may be repeated.")
]
CaFile = Annotated[str | None, typer.Option(metavar="PEM", help="Authorities to trust instead of the system's.")]
CertificateFile = Annotated[str | None, typer.Option(metavar="PEM", help="The client's own certificate.")]
KeyFile = Annotated[str | None, typer.Option(metavar="PEM", help="The key of that certificate.")]
IdleTimeout = Annotated[float, typer.Option(help="Seconds of silence after which to give up.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    url: Url = DEFAULT_URL,
    rule: Rule = None,
    draft_length: DraftLength = None,
    max_tokens: MaxTokens = None,
    min_tokens: Annotated[int | None, typer.Option(help="Let nothing but --max-tokens end it before these.")] = None,
    temperature: Temperature = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")] = None,
    top_p: TopP = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Over 1: less of what stands there; 1: off.")] = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="End with what is there after this time.")] = None,
    priority: Annotated[float | None, typer.Option(help="0 to 1: where requests wait, the highest goes first.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is: no chat template.")] = False,
    color: Color = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when all is there.")] = False,
    idle_timeout: IdleTimeout = 60.0,
    header: Header = None,
    ca_file: CaFile = None,
    certificate_file: CertificateFile = None,
    key_file: KeyFile = None,
) -> None:
    """Ask a running server and print the answer as it streams."""
    options = Options(
        rule=rule,
        draft_length=draft_length,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        timeout_ms=timeout_ms,
        priority=priority,
    )
    request: str | Sequence[Message] = prompt if raw else [{"role": "user", "content": prompt}]
    out, notes = make_console(color=color), make_console(color=color, stderr=True)
    with _told("; is the server running? start one with: spec-cascade serve ENGINE_DIR"):
        access = read_access(header or (), ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
        with Client(url, idle_timeout=idle_timeout, **access) as client:
            if as_json:
                typer.echo(json.dumps(_as_dict(client.stream(request, options).result()), ensure_ascii=False))
            else:
                _stream(client, request, options, out, notes)


def canary_command(
    url: Annotated[str, typer.Argument(help="Server: http:// or https:// host:port.")] = DEFAULT_HTTP_URL,
    model: Annotated[str, typer.Option(help="The Triton model to ask.")] = "ensemble",
    deadline: Annotated[float, typer.Option(help="Seconds for all of it.")] = DEFAULT_DEADLINE,
    header: Header = None,
    ca_file: CaFile = None,
    certificate_file: CertificateFile = None,
    key_file: KeyFile = None,
) -> None:
    """Have a running server make one token: exit status 0 if it does, 1 if not, fit for a Kubernetes probe."""
    with _told():
        access = read_access(header or (), ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
        line = canary(url, model=model, deadline=deadline, **access)
    typer.echo(line)


def chat(
    url: Url = DEFAULT_URL,
    system: Annotated[str | None, typer.Option(help="Instructions for the whole conversation.")] = None,
    rule: Rule = None,
    draft_length: DraftLength = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    color: Color = None,
    idle_timeout: IdleTimeout = 60.0,
    header: Header = None,
    ca_file: CaFile = None,
    certificate_file: CertificateFile = None,
    key_file: KeyFile = None,
) -> None:
    """Talk with a running server; /help lists what else can be typed."""
    options = Options(
        rule=rule,
        draft_length=draft_length,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    out, notes = make_console(color=color), make_console(color=color, stderr=True)
    with _told():
        access = read_access(header or (), ca_file=ca_file, certificate_file=certificate_file, key_file=key_file)
        with Client(url, idle_timeout=idle_timeout, **access) as client:
            Chat(client, options, system, out, notes).run()


def stats(
    url: Annotated[str, typer.Argument(help="Metrics endpoint: http:// or https:// host:port.")] = DEFAULT_METRICS_URL,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each look as one line of JSON.")] = False,
) -> None:
    """Watch what a running server does: rates, acceptance by rule, latencies, queue, slots."""
    with _told():
        show(url, make_console(), every=every, once=once, as_json=as_json)


@contextmanager
def _told(unconnected: str = "") -> Iterator[None]:
    """End the command with one line on what went wrong; ``unconnected`` is added where nobody answers."""
    try:
        yield
    except ClientError as error:
        typer.echo(f"spec-cascade: {error}{unconnected if isinstance(error, NoConnectionError) else ''}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _stream(client: Client, request: str | Sequence[Message], options: Options, out: Console, notes: Console) -> None:
    """Print the answer on standard output and what there is to say about it on standard error."""
    with TokenPrinter(out) as printer, client.stream(request, options) as stream:
        for chunk in stream:
            printer.write(chunk.pieces)
    if is_colored(out):
        notes.print(printer.legend(), soft_wrap=True)
    notes.print(summary(stream.result()), style="dim", soft_wrap=True)


def _as_dict(result: Result) -> dict[str, object]:
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "token_sources": [source.name.lower() for source in result.token_sources],
        "pieces": [
            [piece.text, piece.source.name.lower() if piece.source is not None else None] for piece in result.pieces
        ],
        "finish_reason": result.finish_reason,
        "statistics": asdict(result.statistics),
    }
