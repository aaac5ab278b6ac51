"""Which tests run which lines of the package, and how long each takes: a mutant needs those of its own lines alone."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apps.mutation.trial import OPTIONS, in_a_fork


class Tracer:
    """A plugin of pytest that notes of every test its processor seconds, and the lines of some files that it runs."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = {str(Path(file).resolve()): file for file in files}
        self.tests: dict[str, dict[str, Any]] = {}
        self._lines: dict[str, set[int]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._lines = defaultdict(set)
        started = time.process_time()
        threading.settrace(self._call)
        sys.settrace(self._call)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]  # as its documentation has it
            lines = {file: sorted(own) for file, own in self._lines.items()}
            seconds = round(time.process_time() - started, 2)
            self.tests[item.nodeid] = {"seconds": seconds, "lines": lines}

    def _call(self, frame: Any, event: str, argument: Any) -> Any:
        file = self.files.get(frame.f_code.co_filename)
        if file is None:
            return None
        own = self._lines[file]

        def line(frame: Any, event: str, argument: Any) -> Any:
            own.add(frame.f_lineno)
            return line

        return line(frame, event, argument)


@dataclass
class Lines:
    """What all tests run, kept in a file: modules of tests are traced anew when they or the traced files change."""

    path: Path
    modules: dict[str, Any] = field(default_factory=dict)

    def trace(self, modules: Sequence[str], files: Sequence[str]) -> None:
        """Traces the modules of tests that were not traced yet as they are.

        Raises:
            ValueError: If a test fails without any change.
        """
        self.modules = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        package = b"".join(Path(file).read_bytes() for file in files)
        for module in modules:
            key = hashlib.sha256(package + Path(module).read_bytes()).hexdigest()
            if self.modules.get(module, {}).get("key") == key:
                continue
            print(f"which lines {module} runs", flush=True)
            self.modules[module] = {"key": key, "tests": _traced(module, files)}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.modules), encoding="utf-8")
        self.modules = {module: self.modules[module] for module in modules}

    def tests(self, file: str, lines: range | None) -> list[tuple[float, str]]:
        """The tests that run any of these lines of a file, or anything of it: their seconds and names.

        Fast ones first, but of each test function one before the next one of any: its cases are alike.
        """
        found: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for module in self.modules.values():
            for name, test in module["tests"].items():
                own = test["lines"].get(file, ())
                if own and (lines is None or any(line in lines for line in own)):
                    found[name.partition("[")[0]].append((test["seconds"], name))
        ranked = [(rank, *test) for tests in found.values() for rank, test in enumerate(sorted(tests))]
        return [test for _, *test in sorted(ranked)]


def _traced(module: str, files: Sequence[str]) -> dict[str, Any]:
    """What every test of a module runs."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found")

        def run() -> int:
            tracer = Tracer(files)
            status = pytest.main([*OPTIONS, module], plugins=[tracer])
            found.write_text(json.dumps(tracer.tests), encoding="utf-8")
            return int(status)

        status = in_a_fork(run).status
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise ValueError(f"{module}: the tests do not pass without a change (status {status})")
        return json.loads(found.read_text(encoding="utf-8"))


def lines_around(source: str, line: int) -> range | None:
    """The lines of the statement at a line, of one with a body its head; None for what runs when it is imported."""
    head: range | None = None
    inside = False
    nodes: list[Any] = ast.parse(source).body
    while node := next((n for n in nodes if n.lineno <= line <= (n.end_lineno or n.lineno)), None):
        body = [child for name in ("body", "handlers", "orelse", "finalbody") for child in getattr(node, name, [])]
        end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
        head = range(node.lineno, max(end, node.lineno + 1)) if inside else None
        inside = inside or isinstance(node, ast.FunctionDef)
        nodes = body if body and line >= body[0].lineno else []
    return head
