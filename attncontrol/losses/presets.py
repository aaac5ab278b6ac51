"""Named combinations of methods. Which ones, and how they compare, was measured: see the README's table of methods."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, list[dict[str, Any]]] = {
    "auto": [{"method": "conform"}, {"method": "ebama"}],
}
"""Parts by preset, with weights and settings as JSON has them; a checkpoint's control.json may replace them."""
