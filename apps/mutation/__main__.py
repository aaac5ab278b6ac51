"""How many small faults in losses/, guidance/ and attention/ the tests notice.

    python -m apps.mutation                          # 300 mutants; the same command goes on where it was stopped
    python -m apps.mutation --only losses/words.py --sample 40
    python -m apps.mutation --sample 0               # the report of what was tried

A mutant is a module with one change: "<" for "<=", a sum for a mean, a number that is another one (apps/mutation/
mutants.py). The tests that run its line run with it, fast ones first; finding out which these are takes as long as the
tests of TESTS below, once (apps/mutation/lines.py). If all pass, it survives: there is a gap, or the change makes no
difference.

mutmut leaves classes with decorators alone, which every method is, and cosmic-ray starts Python anew for each mutant,
which takes torch and diffusers longer than most of the tests take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps.mutation.lines import Lines, lines_around
from apps.mutation.mutants import Mutant, mutants, mutated
from apps.mutation.trial import CANNOT, Trial, import_beforehand, try_items, try_tests, with_collected

PACKAGE = Path("attncontrol")
FOLDERS = ("losses", "guidance", "attention")
# whose tests take part; those that need another process do not see a change
TESTS = """
tests/losses tests/guidance tests/attention tests/images/test_recipe.py tests/test_arguments.py
tests/test_attention_backends.py tests/test_control.py tests/test_focus.py tests/test_methods.py tests/test_peer.py
tests/test_pipeline.py tests/test_public_names.py tests/test_transformer_probe.py tests/test_transformers.py
tests/test_xl.py
""".split()
FEWEST_SECONDS = 20.0  # of the processor, whatever the tests take else: pytest must find them, too


def test_modules() -> list[str]:
    """The modules of the tests that take part."""
    paths = [
        path
        for name in TESTS
        for path in ([Path(name)] if name.endswith(".py") else sorted(Path(name).glob("test_*.py")))
    ]
    return [path.as_posix() for path in paths]


def files() -> list[str]:
    """The files that have mutants."""
    paths = [path for folder in FOLDERS for path in sorted(PACKAGE.joinpath(folder).glob("*.py"))]
    return [path.relative_to(PACKAGE).as_posix() for path in paths if path.name != "__init__.py"]


def source(file: str) -> str:
    """The text of a file of the package."""
    return PACKAGE.joinpath(file).read_text(encoding="utf-8")


def key(file: str, mutant: Mutant) -> str:
    """What tells a mutant from others, those of other versions of its file included."""
    return f"{file} {hashlib.sha256(source(file).encode()).hexdigest()[:12]} {mutant.number}"


def chosen(only: str | None, sample: int, seed: int) -> list[tuple[str, Mutant]]:
    """A sample of all mutants, in an order of chance, so that the first ones are a sample, too."""
    every = [(file, mutant) for file in files() if only in (None, file) for mutant in mutants(source(file))]
    print(f"{len(every)} mutants")
    return random.Random(seed).sample(every, min(sample, len(every)))


class Results:
    """What became of mutants, a JSON line each, written as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.lines = {line["key"]: line for line in map(json.loads, lines)}

    def add(self, line: dict[str, Any]) -> None:
        """Keeps a result."""
        self.lines[line["key"]] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def current(self) -> list[dict[str, Any]]:
        """The results of the files as they are now."""
        keys = {key(file, mutant) for file in files() for mutant in mutants(source(file))}
        return [line for line in self.lines.values() if line["key"] in keys]


class Measurement:
    """Tries mutants: which tests each needs, and what became of it."""

    def __init__(self, lines: Lines, results: Results, seconds: float, again: bool) -> None:
        self.lines, self.results, self.seconds, self.again = lines, results, seconds, again
        self.out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)  # a fork's own goes nowhere

    def run(self, cases: list[tuple[str, Mutant]]) -> None:
        """Tries every mutant without a result, with `again` also those that survived."""
        known = self.results.lines
        waiting = [
            case for case in cases if (line := known.get(key(*case))) is None or (self.again and line["survived"])
        ]
        inside = [(f, m) for f, m in waiting if self._lines_of(f, m) is not None]
        with_collected(test_modules(), lambda items: self._try_inside(inside, items))
        done = Results(self.results.path).lines
        for file, mutant in waiting:
            line = done.get(key(file, mutant))
            if line is None or line == known.get(key(file, mutant)):
                tests, path = self._tests(file, mutant), PACKAGE / file
                self._note(file, mutant, try_tests(tests, path, mutated(source(file), mutant.number), self._limit))

    @property
    def _limit(self) -> float:
        return 3 * self.seconds + FEWEST_SECONDS

    def _try_inside(self, cases: list[tuple[str, Mutant]], items: dict[str, Any]) -> None:
        for file, mutant in cases:
            tests = [items[test] for test in self._tests(file, mutant)]
            trial = try_items(tests, PACKAGE / file, mutated(source(file), mutant.number), self._limit)
            if trial.status != CANNOT:
                self._note(file, mutant, trial)

    def _lines_of(self, file: str, mutant: Mutant) -> range | None:
        """The lines whose tests are needed; None for what runs when it is imported, as far as is known."""
        lines = lines_around(source(file), mutant.line)
        return lines if lines and self.lines.tests(PACKAGE.joinpath(file).as_posix(), lines) else None

    def _every(self, file: str, mutant: Mutant) -> list[tuple[float, str]]:
        return self.lines.tests(PACKAGE.joinpath(file).as_posix(), self._lines_of(file, mutant))

    def _tests(self, file: str, mutant: Mutant) -> list[str]:
        """The first tests that take no longer than `seconds` together, and one at least if there is one."""
        chosen: list[str] = []
        left = self.seconds
        for cost, name in self._every(file, mutant):
            if not chosen or cost <= left:
                chosen.append(name)
                left -= cost
        return chosen

    def _note(self, file: str, mutant: Mutant, trial: Trial) -> None:
        line = {"key": key(file, mutant), "file": file, "line": mutant.line, "before": mutant.before}
        line |= {"after": mutant.after, "status": trial.status, "survived": trial.passed}
        line |= {"tests": len(self._tests(file, mutant)), "of": len(self._every(file, mutant))}
        self.results.add(line | {"seconds": round(trial.seconds, 1)})
        print("SURVIVED" if trial.passed else "killed", _described(line), file=self.out)


def _described(line: dict[str, Any]) -> str:
    change = f"{line['file']}:{line['line']}: {_short(line['before'])} -> {_short(line['after'])}"
    return f"{change} ({line['tests']} of {line['of']} tests)" if line["survived"] else change


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def report(lines: list[dict[str, Any]]) -> Iterator[str]:
    """How many mutants of each file were killed, and which survive."""
    tried, survived = Counter(line["file"] for line in lines), Counter(x["file"] for x in lines if x["survived"])
    for file in sorted(tried):
        yield f"{file}: {tried[file] - survived[file]} of {tried[file]} killed"
    if lines:
        killed = tried.total() - survived.total()
        yield f"all: {killed} of {tried.total()} killed, {100 * killed / tried.total():.1f}%"
    for line in sorted(lines, key=lambda line: (line["file"], line["line"])):
        if line["survived"]:
            yield f"survives: {_described(line)}"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--only", choices=files(), metavar="FILE", help="mutants of this file, as in losses/words.py")
    parser.add_argument("--again", action="store_true", help="try those again that survived: tests may have changed")
    parser.add_argument(
        "--seconds", type=float, default=20, help="most seconds of tests for a mutant, fast ones first"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/mutation.jsonl"))
    return parser.parse_args(given)


def main() -> None:
    """Tries mutants and says which survive."""
    args = arguments()
    cases = chosen(args.only, args.sample, args.seed)
    lines = Lines(args.output.with_suffix(".lines.json"))
    try:
        if cases:
            import_beforehand(test_modules())
            lines.trace(test_modules(), [PACKAGE.joinpath(file).as_posix() for file in files()])
            Measurement(lines, Results(args.output), args.seconds, args.again).run(cases)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("\n".join(report(Results(args.output).current())))


if __name__ == "__main__":
    main()
