"""Named combinations of methods. How `auto` was chosen, and how it did afterwards: docs/quality.md."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, list[dict[str, Any]]] = {
    "auto": [{"method": "conform"}, {"method": "syngen"}],
}
"""Parts by preset, with weights and settings as JSON has them; a checkpoint's control.json may replace them."""
