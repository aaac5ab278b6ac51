"""From prompt files to jobs: everything checked first, then streamed in constant memory."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from attncontrol.batch.formats import Problem, read_records
from attncontrol.batch.jobs import Job
from attncontrol.batch.rows import Row, check_defaults, read_row, resolved_control
from attncontrol.images.sampling import Sampling

ID_WORDS = 40


@dataclass(frozen=True)
class Plan:
    """Prompt files and what to take of them.

    `defaults` are values for keys that rows do not have. `limit`: at most so many jobs; `shard` (i, n): of n parts of
    the rows the i-th, from 1 on, a row's part depending on its id alone. `skip_invalid`: leave out rows with
    problems. `allow_files`: whether layouts may name files. `tuned`: settings of methods tuned for the model.
    `prompt_column`: the column or key of the prompt where it is not called so. `copies`: where the content of a file
    lies that can be read once only, such as a pipe. `heeds_negative_prompt`: whether the model does.
    """

    files: Sequence[Path]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    skip_invalid: bool = False
    limit: int | None = None
    shard: tuple[int, int] | None = None
    allow_files: bool = True
    tuned: Mapping[str, Any] = field(default_factory=dict)
    prompt_column: str | None = None
    copies: Mapping[Path, Path] = field(default_factory=dict)
    heeds_negative_prompt: bool = True

    def content(self, file: Path) -> Path:
        """What is read for a file of `files`."""
        return self.copies.get(file, file)

    def check(self, report: Callable[[Problem], None], enough: int | None = None) -> int:
        """Reads everything, reports what is wrong with the files in order, and counts.

        Args:
            report: Told every problem.
            enough: Stop reading at more jobs, or more problems, than these.

        Returns:
            The number of jobs.

        Raises:
            ValueError: For defaults that no row may have.
        """
        check_defaults(self.defaults)
        jobs = problems = unheeded = 0
        for item in self._rows():
            if isinstance(item, Problem):
                report(item)
                problems += 1
            elif self._in_shard(item.id):
                jobs += len(item.row.all_seeds)
                unheeded += bool(item.row.negative_prompt) and not self.heeds_negative_prompt
            if enough is not None and max(jobs, problems) > enough:
                break
        if unheeded:
            warnings.warn("the model heeds no negative prompt: those of the rows have no effect", stacklevel=2)
        return jobs if self.limit is None else min(jobs, self.limit)

    def jobs(self) -> Iterator[Job]:
        """The jobs in the order of the files. Raises ValueError at a problem unless those are skipped."""
        return islice(self._all_jobs(), self.limit)

    def _all_jobs(self) -> Iterator[Job]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the validation has given them
            for item in self._rows():
                if isinstance(item, Problem):
                    if not self.skip_invalid:
                        raise ValueError(f"the prompt files changed since they were checked: {item}")
                elif self._in_shard(item.id):
                    yield from item.jobs(self.tuned)

    def _in_shard(self, id: str) -> bool:
        if self.shard is None:
            return True
        part, parts = self.shard
        return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8]) % parts == part - 1

    def _rows(self) -> Iterator[_NamedRow | Problem]:
        names = _Names()
        for file in self.files:
            empty = True
            try:
                for number, record in enumerate(read_records(self.content(file), self.prompt_column)):
                    empty = False
                    if isinstance(record, Problem):
                        yield replace(record, file=str(file))
                        continue
                    row = read_row(file, record, self.defaults, self.allow_files)
                    if not isinstance(row, Row):
                        yield from row
                        continue
                    yield names.name(row, file, record.line, number)
            except ValueError as error:
                yield Problem(str(file), None, None, str(error))
                continue
            if empty:
                yield Problem(str(file), None, None, "has no prompts")


@dataclass(frozen=True)
class _NamedRow:
    id: str
    row: Row
    file: Path
    number: int

    def jobs(self, tuned: Mapping[str, Any]) -> Iterator[Job]:
        row = self.row
        control = resolved_control(row.control, tuned) or None
        sampling = Sampling(row.steps, row.guidance_scale, row.negative_prompt, row.width, row.height)
        for seed in row.all_seeds:
            yield Job(
                id=self.id,
                seed=seed,
                prompt=row.prompt,
                sampling=sampling,
                control=control,
                subjects=row.subjects,
                layout=row.layout,
                file=self.file.name,
                row=self.number,
                metadata=row.metadata,
                grounding=row.grounding,
            )


class _Names:
    """The ids given so far, on disk rather than in memory; case does not count, as in some file systems."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")
        self._db.execute("CREATE TABLE repeats (id TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")

    def name(self, row: Row, file: Path, line: int, number: int) -> _NamedRow | Problem:
        """The row under its id, or under one made of its prompt."""
        place = f"{file}:{line}"
        if row.id is None:
            return _NamedRow(self._derived(row.prompt, place), row, file, number)
        if first := self._claim(row.id, place):
            message = f"{row.id!r} is already used at {first}: give every row an id of its own (case does not count)"
            return Problem(str(file), line, "id", message)
        return _NamedRow(row.id, row, file, number)

    def _derived(self, prompt: str, place: str) -> str:
        """Words of the prompt and a hash of it, "-2" for its second row without an id, so that resuming finds it."""
        words = re.sub(r"[^a-z0-9]+", "-", prompt[:200].lower()).strip("-")[:ID_WORDS].strip("-")
        stem = f"{words or 'prompt'}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
        while True:
            insert = "INSERT INTO repeats VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count"
            count = self._db.execute(insert, (stem,)).fetchone()[0]
            id = stem if count == 1 else f"{stem}-{count}"
            if self._claim(id, place) is None:
                return id

    def _claim(self, id: str, place: str) -> str | None:
        """None if the id was free, else the place that has it."""
        known = self._db.execute("SELECT place FROM ids WHERE id = ?", (id.lower(),)).fetchone()
        if known is None:
            self._db.execute("INSERT INTO ids VALUES (?, ?)", (id.lower(), place))
        return known and known[0]
