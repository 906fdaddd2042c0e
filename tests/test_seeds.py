"""nbval fails on an output that hangs on a draw without a seed, even where the cell that draws is not compared."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output, writes

ROOT = Path(__file__).parent.parent
DRAWS = {
    "random": "import random\n\nrandom.random()",
    "numpy.random": "import numpy as np\n\nnp.random.rand()",
    "torch": "import torch\n\ntorch.rand(1)",
}
SEED = "from lessonlib.core import set_seed\n\n_ = set_seed(0)"
NOTEBOOKS = {
    **{name: [source] for name, source in DRAWS.items()},
    "seeded": [SEED, *DRAWS.values()],
    "late": [DRAWS["torch"], SEED],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What nbval says of the notebooks; each ends with `1 + 1`, its only cell that is compared."""
    folder = tmp_path_factory.mktemp("draws")
    two = new_code_cell("1 + 1", execution_count=9, outputs=[
        new_output("execute_result", {"text/plain": "2"}, execution_count=9)])
    for name, sources in NOTEBOOKS.items():
        cells = [new_code_cell(f"# NBVAL_IGNORE_OUTPUT\n{source}") for source in sources]
        notebook = writes(new_notebook(cells=[*cells, two]))
        Path(folder, f"{name}.ipynb").write_text(notebook, encoding="utf-8")
    command = ["-m", "pytest", "-p", "conftest", "-c", ROOT / "pyproject.toml", f"--rootdir={folder}", "-rA",
               "--nbval", "--nbval-current-env", folder]
    answer = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True).stdout
    return re.sub(r"(PASSED|FAILED) \S*/", r"\1 ", answer)


@pytest.mark.parametrize("name", DRAWS)
def test_an_output_behind_a_draw_without_a_seed_fails(report, name):
    assert f"FAILED {name}.ipynb::Cell 1" in report, report
    assert f"a draw from {name} before" in report


def test_a_seed_that_comes_too_late_does_not_help(report):
    assert "FAILED late.ipynb::Cell 2" in report, report


def test_draws_behind_a_seed_pass(report):
    assert report.count("PASSED seeded.ipynb") == 5, report
