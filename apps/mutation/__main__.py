"""How many small faults in losses/, guidance/ and attention/ the tests notice.

    python -m apps.mutation                          # 300 mutants; the same command goes on where it was stopped
    python -m apps.mutation --only losses/words.py --sample 40
    python -m apps.mutation --sample 0               # the report of what was tried

A mutant is a module with one change: "<" for "<=", a sum for a mean, a number that is another one (apps/mutation/
mutants.py). The tests of its file run with it (TESTS below). If all of them pass, it survives: there is a gap in the
tests, or the change makes no difference.

mutmut leaves classes with decorators alone, which every method is, and cosmic-ray starts Python anew for each mutant,
which takes torch and diffusers longer than most of the tests take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps.mutation.mutants import Mutant, mutants, mutated
from apps.mutation.trial import import_beforehand, try_tests

PACKAGE = Path("attncontrol")
FOLDERS = ("losses", "guidance", "attention")
LOSSES, ENGINE = "tests/losses/test_all_methods.py", "tests/guidance/test_engine.py"
BASE, CONTROL, PEER = "tests/losses/test_base.py", "tests/test_control.py", "tests/test_peer.py"
# the tests that belong to a file of the package, fast ones first; a loss has those of its own name, and LOSSES
TESTS: dict[str, tuple[str, ...]] = {
    "losses/base.py": (BASE, LOSSES, "tests/losses/test_layout_method.py"),
    "losses/combining.py": (BASE, CONTROL, "tests/test_arguments.py"),
    "losses/common.py": (LOSSES, "tests/losses/test_attend_and_excite.py", "tests/losses/test_boxdiff.py"),
    "losses/conform.py": ("tests/losses/test_conform.py", "tests/losses/test_conform_loop.py", LOSSES),
    "losses/focus.py": ("tests/test_focus.py", LOSSES),
    "losses/layout_method.py": ("tests/losses/test_layout_method.py", "tests/losses/test_boxdiff.py", LOSSES),
    "losses/presets.py": ("tests/test_methods.py",),
    "losses/refocusing_terms.py": (
        "tests/losses/test_refocusing_terms.py",
        "tests/losses/test_attention_refocusing.py",
    ),
    "losses/registry.py": (BASE, "tests/test_public_names.py", CONTROL),
    "losses/words.py": ("tests/losses/test_words.py", "tests/losses/test_syngen.py", "tests/losses/test_ebama.py"),
    "guidance/cost.py": ("tests/guidance/test_cost.py",),
    "guidance/looking.py": ("tests/guidance/test_looking.py",),
    "guidance/schedulers.py": ("tests/guidance/test_schedulers.py",),
    "guidance/record.py": (CONTROL, "tests/test_pipeline.py"),
    "attention/capture.py": ("tests/attention/test_capture.py", CONTROL, PEER),
    "attention/layers.py": (BASE, CONTROL),
    "attention/maps.py": (LOSSES, "tests/losses"),
}
FEWEST_SECONDS = 10.0  # of the processor, whatever the tests take else


def tests_of(file: str) -> tuple[str, ...]:
    """The tests that belong to a file of the package."""
    if file in TESTS:
        return TESTS[file]
    if file.startswith("losses/"):
        return f"tests/losses/test_{Path(file).stem}.py", LOSSES
    return ENGINE, CONTROL


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


def measure(cases: list[tuple[str, Mutant]], results: Results, again: bool) -> None:
    """Tries every mutant that has no result yet, with `again` also those that survived.

    Raises:
        ValueError: If the tests of a file fail without any change.
    """
    seconds: dict[tuple[str, ...], float] = {}
    for number, (file, mutant) in enumerate(cases, 1):
        known = results.lines.get(key(file, mutant))
        if known and not (again and known["survived"]):
            continue
        tests = tests_of(file)
        if tests not in seconds:
            plain = try_tests(tests, PACKAGE / file, None, 3600)
            if not plain.passed:
                raise ValueError(f"{' '.join(tests)}: the tests do not pass without a change (status {plain.status})")
            seconds[tests] = plain.seconds
        limit = 3 * seconds[tests] + FEWEST_SECONDS
        trial = try_tests(tests, PACKAGE / file, mutated(source(file), mutant.number), limit)
        line = {"key": key(file, mutant), "file": file, "line": mutant.line, "before": mutant.before}
        line |= {"after": mutant.after, "status": trial.status, "survived": trial.passed}
        results.add(line)
        print(f"{number}/{len(cases)} {'SURVIVED' if trial.passed else 'killed'} {_described(line)}", flush=True)


def _described(line: dict[str, Any]) -> str:
    return f"{line['file']}:{line['line']}: {_short(line['before'])} -> {_short(line['after'])}"


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
    parser.add_argument("--output", type=Path, default=Path("outputs/mutation.jsonl"))
    return parser.parse_args(given)


def main() -> None:
    """Tries mutants and says which survive."""
    args = arguments()
    cases = chosen(args.only, args.sample, args.seed)
    results = Results(args.output)
    try:
        import_beforehand(sorted({test for file, _ in cases for test in tests_of(file)}))
        measure(cases, results, args.again)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("\n".join(report(results.current())))


if __name__ == "__main__":
    main()
