"""Prompt files that can be read once only, standard input and pipes, kept for as long as a run reads them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

STDIN = Path("stdin")  # how standard input is called in messages and results


@contextmanager
def kept(files: Sequence[Path]) -> Iterator[tuple[list[Path], dict[Path, Path]]]:
    """The files by the names that results have, and where the content of "-" and of pipes lies meanwhile.

    Raises:
        ValueError: For standard input that is named twice.
    """
    names = [STDIN if str(file) in ("-", "/dev/stdin") else file for file in files]
    if names.count(STDIN) > 1:
        raise ValueError("standard input is given twice, and can be read once only")
    with tempfile.TemporaryDirectory(prefix="attncontrol-") as folder:
        copies: dict[Path, Path] = {}
        for number, name in enumerate(names):
            if name == STDIN or (name.exists() and not name.is_file()):
                copies[name] = Path(folder, f"{number}{name.suffix}")
                with copies[name].open("wb") as copy:
                    if name == STDIN:
                        shutil.copyfileobj(sys.stdin.buffer, copy)
                    else:
                        with name.open("rb") as pipe:
                            shutil.copyfileobj(pipe, copy)
        yield names, copies
