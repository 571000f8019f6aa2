"""Workers say that they verify by our rules, each with a file: the process that starts them cannot see it otherwise.

A worker that never came by our hook makes a stock sampler and is silent about it. So whoever starts an engine waits
until it is up, and then asks for as many receipts as it has ranks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from spec_cascade.errors import EngineError

_PATTERN = "rank*.json"


def write_receipt(directory: str, *, rank: int, contract: str) -> None:
    """Leave a receipt for this rank.

    Raises:
        EngineError: It cannot be written: then nobody could tell this worker from a stock one.
    """
    path = Path(directory) / f"rank{rank}.json"
    text = json.dumps({"rank": rank, "process": os.getpid(), "contract": contract})
    unfinished = path.with_suffix(".part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise EngineError(f"rank {rank} cannot leave its receipt in {directory}: {error}") from None


def require_receipts(directory: str, world_size: int) -> str:
    """See that every rank of an engine has left one.

    Returns:
        The contract that they found to hold.

    Raises:
        EngineError: Some have not, or they found different contracts.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(directory).glob(_PATTERN))]
    contracts = {receipt["rank"]: receipt["contract"] for receipt in found}
    missing = [rank for rank in range(world_size) if rank not in contracts]
    if missing:
        ranks = ", ".join(map(str, missing))
        raise EngineError(
            f"rank {ranks} of {world_size} verifies without our rules: the workers' environment lacks the start-up "
            "hook or its variable; spec-cascade doctor tells which"
        )
    names = sorted(set(contracts.values()))
    if len(names) > 1:
        raise EngineError(f"the workers run different versions of TensorRT-LLM: {', '.join(names)}")
    return str(names[0])
