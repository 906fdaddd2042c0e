"""The table of what is taught where: every item once, every heading where the table says it is."""
import csv
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
ELSEWHERE = "not in these ten"
LAST = {"C": 301, "D": 31}


def read_table():
    with (ROOT / "data/coverage.csv").open(encoding="utf-8", newline="") as file: return list(csv.DictReader(file))


def headings(notebook):
    """All headings of a notebook, as written; lines within code fences are none."""
    found = []
    for cell in nbformat.read(ROOT / "nbs" / f"{notebook}.ipynb", as_version=4).cells:
        if cell.cell_type != "markdown": continue
        text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
        found += re.findall(r"^#+ .*$", text, re.MULTILINE)
    return found


def test_the_table_is_whole():
    rows = read_table()
    assert list(rows[0]) == ["item", "topic", "notebook", "heading"]
    wanted = [f"{kind}{number}" for kind, last in LAST.items() for number in range(1, last + 1)]
    assert [row["item"] for row in rows] == wanted
    for row in rows:
        assert None not in row and None not in row.values(), row
        assert len(row["topic"].strip()) > 3, row
        assert bool(row["notebook"]) == (row["heading"] != ELSEWHERE), row
    topics = [row["topic"] for row in rows]
    assert len(set(topics)) == len(topics)


@pytest.mark.parametrize("notebook", sorted({row["notebook"] for row in read_table()} - {""}))
def test_every_heading_is_there_once(notebook):
    assert (ROOT / "nbs" / f"{notebook}.ipynb").is_file()
    there = headings(notebook)
    for row in read_table():
        if row["notebook"] == notebook: assert there.count(row["heading"].strip()) == 1, row
