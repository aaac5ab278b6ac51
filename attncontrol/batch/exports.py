"""What is made out of a finished folder: contact sheets, and the folder layouts that benchmarks read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from attncontrol.batch.folder import OutputFolder
from attncontrol.images.files import atomic_file, write_text
from attncontrol.images.recipe import Recipe, save_image
from attncontrol.images.visualize import labelled_grid

SHEET_ROWS = 8
SHEET_COLUMNS = 8
SHEET_SIDE = 160
LONGEST_NAME = 240  # bytes that file systems allow, less a suffix
WRITTEN = ".attncontrol.json"  # names of the files of an export, which the next one there replaces


def write_contact_sheets(folder: OutputFolder) -> int:
    """Writes contact_sheets/PROMPT-SET_0001.png and on: a row per prompt, its seeds beside each other."""
    pages = 0
    for prompt_set, rows in groupby(_rows(folder), key=lambda row: Path(row[0][1]["source"]["file"]).stem):
        for number, page in enumerate(_pages(rows), 1):
            _write_sheet(folder, folder.path / "contact_sheets" / f"{prompt_set}_{number:04}.png", page)
            pages += 1
    return pages


def write_geneval(folder: OutputFolder, target: Path) -> list[str]:
    """Writes GenEval's layout: NNNNN/metadata.jsonl and NNNNN/samples/0000.png, rows and images numbered through.

    Returns:
        The names of images that are not of a GenEval metadata file and were left out.
    """
    left_out: list[str] = []
    files: dict[str, str | Path] = {}
    for number, row in enumerate(_rows(folder)):
        metadata = row[0][1]["metadata"] or {}
        if "tag" not in metadata:
            left_out += [name for name, _ in row]
            continue
        files[f"{number:05}/metadata.jsonl"] = json.dumps(metadata) + "\n"
        for i, (name, _) in enumerate(row):
            files[f"{number:05}/samples/{i:04}.png"] = folder.images / f"{name}.png"
    _write(target, files)
    return left_out


def write_t2i_compbench(folder: OutputFolder, target: Path) -> list[str]:
    """Writes T2I-CompBench's layout: samples/PROMPT_NNNNNN.png, numbered through.

    Returns:
        The names of images left out because their prompt cannot be a file name or has an underscore, at which the
        benchmark's programs end the prompt.
    """
    left_out: list[str] = []
    files: dict[str, str | Path] = {}
    for row in _rows(folder):
        prompt = row[0][1]["recipe"]["prompt"]
        if any(c in prompt for c in '/\\_<>:"|?*\n\r\t') or len(prompt.encode()) > LONGEST_NAME:
            left_out += [name for name, _ in row]
            continue
        for name, _ in row:
            files[f"samples/{prompt}_{len(files):06}.png"] = folder.images / f"{name}.png"
    _write(target, files)
    return left_out


def _rows(folder: OutputFolder) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Names and side-cars of the images of one row of a prompt file, in the order of the files and rows."""

    def place(item: tuple[str, int, int, str]) -> tuple[str, int]:
        return item[:2]

    places = sorted((s["source"]["file"], s["source"]["row"], s["seed"], name) for name, s in folder.sidecars())
    for _, items in groupby(places, key=place):
        yield [(name, folder.sidecar(name) or {}) for _, _, _, name in items]


def _pages(rows: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    page: list[list[Any]] = []
    for row in rows:
        page += [row[i : i + SHEET_COLUMNS] for i in range(0, len(row), SHEET_COLUMNS)]
        while len(page) >= SHEET_ROWS:
            yield page[:SHEET_ROWS]
            page = page[SHEET_ROWS:]
    if page:
        yield page


def _write_sheet(folder: OutputFolder, path: Path, page: list[list[tuple[str, dict[str, Any]]]]) -> None:
    images = [[Image.open(folder.images / f"{name}.png") for name, _ in row] for row in page]
    titles = [row[0][1]["recipe"]["prompt"][:200] for row in page]
    recipes = [Recipe.from_json(json.dumps(sidecar["recipe"])) for row in page for _, sidecar in row]
    sheet = labelled_grid(images, row_titles=titles, caption=path.stem, side=SHEET_SIDE)
    save_image(sheet, path, recipes, overwrite=True)


def _write(target: Path, files: Mapping[str, str | Path]) -> None:
    """Writes texts, and copies of files, by name; those of an earlier export which are not among them are removed."""
    earlier = _written(target)
    write_text(target / WRITTEN, json.dumps(sorted({*earlier, *files})), overwrite=True)
    for name, content in files.items():
        with atomic_file(target / name, overwrite=True) as file:
            file.write(content.encode() if isinstance(content, str) else content.read_bytes())
    for name in {*earlier} - {*files}:
        (target / name).unlink(missing_ok=True)
        with suppress(OSError):  # up to the first folder that holds something else
            for folder in (target / name).relative_to(target).parents:
                (target / folder).rmdir()
    write_text(target / WRITTEN, json.dumps(sorted(files)), overwrite=True)


def _written(target: Path) -> list[str]:
    """The names of the files of an earlier export. Raises ValueError if their list is damaged, or leads elsewhere."""
    file = target / WRITTEN
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
        whole = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in names)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{str(file)!r} is not the list of files of an earlier export: choose another folder")
    return names
