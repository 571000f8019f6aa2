"""What it takes to be let in, as a command line says it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

from spec_cascade_client.address import Tls
from spec_cascade_client.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_VARIABLE = "SPEC_CASCADE_RESTRICTED_KEY"
"""Environment variable for the key of a restricted server, which a list of processes does not show."""


class Access(TypedDict):
    """Arguments of the clients and of `canary`."""

    headers: dict[str, str]
    restricted_key: tuple[str, str] | None
    tls: Tls


def read_access(
    headers: Iterable[str] = (),
    *,
    ca_file: str | None = None,
    certificate_file: str | None = None,
    key_file: str | None = None,
) -> Access:
    """Read headers of the form ``NAME: VALUE``, the files of `Tls`, and `KEY_VARIABLE`, of the form ``NAME=VALUE``.

    Raises:
        InvalidRequestError: One of them does not have its form.
    """
    key = os.environ.get(KEY_VARIABLE)
    return {
        "headers": dict(_pair(header, ":", "header") for header in headers),
        "restricted_key": _pair(key, "=", KEY_VARIABLE) if key else None,
        "tls": Tls(ca_file=ca_file, certificate_file=certificate_file, key_file=key_file),
    }


def _pair(text: str, separator: str, what: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not (found and name.strip()):
        raise InvalidRequestError(f"{what}: must be NAME{separator}VALUE")  # without the value, which may be secret
    return name.strip(), value.strip()
