"""Where a server is and how to get there."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from spec_cascade_client.errors import InvalidRequestError

DEFAULT_PORTS = {"http": 8000, "https": 8000, "grpc": 8001, "grpcs": 8001}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files (PEM) for an encrypted connection.

    Attributes:
        ca_file: Authorities to trust; None takes the system's.
        certificate_file: The client's own certificate, where the server asks for one.
        key_file: The key of that certificate.
        insecure: Trust whoever answers. Only over HTTP, and only where nobody else can answer; gRPC has no such mode.

    Raises:
        InvalidRequestError: There is a certificate without its key, or a key without its certificate.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        # Of half a pair, gRPC ends the whole process.
        if (self.certificate_file is None) != (self.key_file is None):
            raise InvalidRequestError(
                f"certificate_file = {self.certificate_file!r}, key_file = {self.key_file!r}: must be given together"
            )


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed server URL."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str, *, default_port: int | None = None) -> Address:
        """Parse ``http://``, ``https://``, ``grpc://`` or ``grpcs://`` ``host[:port]``.

        Args:
            url: What to parse.
            default_port: Of a URL without a port; None takes that of its scheme.

        Raises:
            InvalidRequestError: The URL names no host, or a scheme or port that is not allowed.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")
        except ValueError as error:
            raise InvalidRequestError(f"url = {url!r}: {error}") from error
        if parts.scheme not in DEFAULT_PORTS or not host or port == 0:
            schemes = ", ".join(f"{scheme}://" for scheme in DEFAULT_PORTS)
            raise InvalidRequestError(f"url = {url!r}: must be host:port after one of {schemes}")
        if parts.query or parts.fragment or "@" in parts.netloc or not _is_plain(host, parts.path):
            raise InvalidRequestError(
                f"url = {url!r}: must have no user, query, fragment or space, and its path only ASCII characters"
            )
        if parts.path.strip("/") and parts.scheme.startswith("grpc"):
            raise InvalidRequestError(f"url = {url!r}: a gRPC address has no path")
        return cls(parts.scheme, host, port or default_port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def is_grpc(self) -> bool:
        """Whether the scheme asks for gRPC."""
        return self.scheme.startswith("grpc")

    @property
    def encrypted(self) -> bool:
        """Whether the scheme asks for TLS."""
        return self.scheme in ("https", "grpcs")

    @property
    def target(self) -> str:
        """``host:port``, with the brackets of an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self.target}"

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


def _is_plain(host: str, path: str) -> bool:
    return path.isascii() and (host + path).isprintable() and " " not in host + path
