"""Small programs from public reports: each exits with 0 once the fault that it shows is mended."""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted(path for path in (Path(__file__).parent / "cases").glob("*.py") if path.name != "__init__.py")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_reported_fault_is_mended(case):
    done = subprocess.run([sys.executable, case], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
