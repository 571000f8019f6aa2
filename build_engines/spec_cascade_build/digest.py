"""A hash of what determines something that is built or made."""

from __future__ import annotations

import hashlib
import json


def digest(inputs: object) -> str:
    """SHA-256 over values as JSON has them, in hexadecimal digits; the order of names does not matter."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
