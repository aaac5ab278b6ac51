"""The README and the pages of docs/, and what the tests read from them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text(page: Path | str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: Path | str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), flags=re.DOTALL | re.MULTILINE)


def table(page: Path | str, mark: str) -> str:
    """The table behind a comment."""
    return text(page).split(f"<!-- {mark} -->")[1].strip().split("\n\n")[0]


def commands(program: str) -> list[tuple[str, str]]:
    """Every `program ...` of the shell blocks, with its page."""
    found = []
    for page in PAGES:
        joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
        parts = (part for line in joined.splitlines() for part in line.split(" && "))
        found += [(name(page), part) for part in parts if part.startswith(f"{program} ")]
    return found
