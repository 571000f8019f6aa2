"""HTTP and gRPC clients; needs tritonclient and numpy alone."""

from spec_cascade_client.address import Tls
from spec_cascade_client.aio import AsyncClient, AsyncStream
from spec_cascade_client.client import Client
from spec_cascade_client.errors import (
    BusyError,
    ClientError,
    DeadlineError,
    IdleTimeoutError,
    InvalidRequestError,
    NoConnectionError,
    PromptTooLongError,
    ServerError,
    UnavailableError,
)
from spec_cascade_client.history import History
from spec_cascade_client.options import AUTO, Message, Options
from spec_cascade_client.results import Chunk, Piece, Result, Statistics, TokenSource
from spec_cascade_client.retry import Retry
from spec_cascade_client.stream import Stream

__all__ = [
    "AUTO",
    "AsyncClient",
    "AsyncStream",
    "Retry",
    "History",
    "PromptTooLongError",
    "DeadlineError",
    "BusyError",
    "Chunk",
    "Client",
    "ClientError",
    "IdleTimeoutError",
    "InvalidRequestError",
    "Message",
    "NoConnectionError",
    "Options",
    "Piece",
    "Result",
    "ServerError",
    "Statistics",
    "Stream",
    "TokenSource",
    "Tls",
    "UnavailableError",
]
