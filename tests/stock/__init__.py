"""The table of stock pipelines, schedulers and helpers of diffusers that `attach` is tested with, on tiny weights.

The support matrix in docs/works_with.md is made of this table: `python -m tests.stock` prints it.
"""

from __future__ import annotations

from tests.stock.modular import GUIDERS, MODULAR_PIPELINES
from tests.stock.refused import REFUSED
from tests.stock.supported import ADDITIONS, HELPERS, PIPELINES, SCHEDULERS, XL_PIPELINES
from tests.stock.transformers import TRANSFORMER_ADDITIONS, TRANSFORMER_PIPELINES, TRANSFORMER_SCHEDULERS

GROUPS = {
    "Stable Diffusion": PIPELINES + XL_PIPELINES,
    "Diffusion transformers": TRANSFORMER_PIPELINES,
    "Modular pipelines": MODULAR_PIPELINES,
    "Guiders of modular pipelines": GUIDERS,
    "Adapters": ADDITIONS + TRANSFORMER_ADDITIONS,
    "Schedulers": SCHEDULERS + TRANSFORMER_SCHEDULERS,
    "Helpers": HELPERS,
    "Refused, with an error that says what to use": REFUSED,
}


def support_matrix() -> str:
    """The table of docs/works_with.md."""
    rows = ["| works with | |", "| --- | --- |"]
    for group, cases in GROUPS.items():
        rows.append(f"| **{group}** | |")
        rows += [f"| {_code(case.name)} | {case.note} |" for case in cases]
    return "\n".join(rows)


def _code(name: str) -> str:
    return name if name.startswith(("IP-", "LoRA", "Textual", "a ")) else f"`{name}`"
