"""The table of the wire, made from the wire: what stands in ``docs/serving.md``.

`python -m spec_cascade.serving.wire_table docs/serving.md` writes it there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.serving import wire

if TYPE_CHECKING:
    from spec_cascade.serving.wire import Field

HEADINGS = ("tensor", "", "type", "shape", "default", "meaning", "allowed")
BEGIN, END = "<!-- wire: begin -->\n", "<!-- wire: end -->\n"


def markdown() -> str:
    """The inputs and outputs of the ensemble as one Markdown table."""
    rows = [
        HEADINGS,
        tuple("---" for _ in HEADINGS),
        *(_row(field, "in") for field in wire.ENSEMBLE_INPUTS),
        *(_row(field, "out") for field in wire.ENSEMBLE_OUTPUTS),
    ]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def written_into(text: str) -> str:
    """The document with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + markdown() + END + after


def _row(field: Field, direction: str) -> tuple[str, ...]:
    shape = ", ".join("n" if size == -1 else str(size) for size in field.dims)
    datatype = field.datatype.removeprefix("TYPE_")
    return (f"`{field.name}`", direction, datatype, f"[{shape}]", field.default, field.meaning, field.allowed)


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(written_into(document.read_text(encoding="utf-8")), encoding="utf-8")
