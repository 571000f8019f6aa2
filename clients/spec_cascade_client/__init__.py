"""HTTP and gRPC clients; needs tritonclient and numpy alone."""

from spec_cascade_client.address import Tls
from spec_cascade_client.client import Client
from spec_cascade_client.errors import (
    ClientError,
    IdleTimeoutError,
    InvalidRequestError,
    NoConnectionError,
    ServerError,
    UnavailableError,
)
from spec_cascade_client.options import Message, Options
from spec_cascade_client.results import Chunk, Piece, Result, Statistics, TokenSource
from spec_cascade_client.stream import Stream

__all__ = [
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
