"""Trying a mutant: a fork of this process runs tests with the change.

A change inside a function takes the place of the function's code, in a fork of a process that has collected all tests.
Any other needs a fork that imports the package with it; torch, diffusers and pytest are there already. Processes that
tests start would not see the change.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.abc
import importlib.util
import os
import pickle
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

OPTIONS = ("-n", "0", "-q", "-p", "no:cacheprovider", "-W", "ignore")
OWN = ("attncontrol", "tests", "apps")
CANNOT = 77  # the exit status of a trial that could not put its change in place
SLOWEST = 20  # seconds on the clock for one of the processor: tests may wait, but not for ever


@dataclass(frozen=True)
class Trial:
    """How tests ended: pytest's exit status, or minus the signal that ended it; and the processor's seconds."""

    status: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return self.status in (0, 5)  # 5: none was there any more


class _Mutating(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from a syntax tree."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self.module, self.path, self.tree = module, path, tree

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self)
            if fullname == self.module
            else None
        )

    def get_source(self, fullname: str) -> str:
        return self.path.read_text(encoding="utf-8")

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, str(self.path), "exec", dont_inherit=True)


class _InThisOrder:
    """A plugin of pytest that runs these tests alone, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.tests = tests

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        places = {test: place for place, test in enumerate(self.tests)}
        items[:] = sorted((item for item in items if item.nodeid in places), key=lambda item: places[item.nodeid])


def try_tests(tests: Sequence[str], path: Path, tree: ast.Module, limit: float) -> Trial:
    """Runs tests with a module imported in another form until one fails, or for `limit` seconds of the processor.

    Args:
        tests: Their names in pytest, in the order to run them in.
        path: The module's file, relative to the folder this runs in.
        tree: Its syntax tree.
        limit: Past it the tests count as failed: a loop that does not end.
    """

    def run() -> int:
        import pytest

        _stop_after(limit)
        sys.meta_path.insert(0, _Mutating(".".join(path.with_suffix("").parts), path, tree))
        modules = dict.fromkeys(test.partition("::")[0] for test in tests)
        return pytest.main([*OPTIONS, "-x", *modules], plugins=[_InThisOrder(tests)])

    return in_a_fork(run) if tests else Trial(0, 0.0)


class _Loop:
    """A plugin of pytest that hands all tests to a function instead of running them."""

    def __init__(self, body: Callable[[dict[str, Any]], None]) -> None:
        self.body = body

    def pytest_runtestloop(self, session: Any) -> bool:
        self.body({item.nodeid: item for item in session.items})
        return True


def with_collected(modules: Sequence[str], body: Callable[[dict[str, Any]], None]) -> None:
    """Calls a function, in a fork, with all tests of modules: pytest's items by name."""

    def run() -> int:
        import pytest

        return pytest.main([*OPTIONS, *modules], plugins=[_Loop(body)])

    trial = in_a_fork(run)
    if not trial.passed:
        raise ValueError(f"pytest ended with {trial.status}")


def try_items(items: Sequence[Any], path: Path, tree: ast.Module, limit: float) -> Trial:
    """The same as `try_tests` of collected tests: the functions of the module get the code of the tree's.

    The trial's status is `CANNOT` where they do not fit.
    """

    def run() -> int:
        _stop_after(limit)
        if not _put_in_place(path, tree):
            return CANNOT
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.session.testsfailed:
                return 1
        return 0

    return in_a_fork(run)


def _put_in_place(path: Path, tree: ast.Module) -> bool:
    codes = {(code.co_qualname, code.co_firstlineno): code for code in _codes(compile(tree, str(path), "exec"))}
    file = str(path.resolve())
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == file:
            code = codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
            try:
                function.__code__ = code  # type: ignore[assignment]  # None is refused, too
            except (TypeError, ValueError):  # as where there is no super() any more
                return False
    return True


def _codes(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _codes(inner)


def _stop_after(limit: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
    signal.alarm(int(limit * SLOWEST) + 60)


def import_beforehand(tests: Sequence[str]) -> None:
    """Imports all that tests import, except for what is ours and may be changed."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "names")

        def collect() -> int:
            import pytest

            status = pytest.main([*OPTIONS, "--collect-only", *tests])
            names.write_bytes(pickle.dumps([name for name in sys.modules if name.partition(".")[0] not in OWN]))
            return status

        trial = in_a_fork(collect)
        if not trial.passed:
            raise ValueError(f"pytest cannot collect {' '.join(tests)}: it ends with {trial.status}")
        for name in pickle.loads(names.read_bytes()):
            try:
                importlib.import_module(name)
            except Exception:  # some exist only once another has made them
                continue


def in_a_fork(run: Callable[[], int]) -> Trial:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            status = int(run())
        finally:
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    return Trial(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)
