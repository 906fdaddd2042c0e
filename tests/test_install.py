"""An installed wheel works away from the checkout: catalogue, notebooks and program are inside."""
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from the tree and unpacked where pip would put it."""
    room = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", room, ROOT], check=True, capture_output=True)
    wheel, = room.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", room / "site", wheel], check=True, capture_output=True)
    return room


def python(room, code):
    environment = {"PYTHONPATH": str(room / "site"), "LESSONS_CACHE": str(room / "cache"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=room, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_package_is_the_installed_one_and_finds_its_files(installed):
    out = python(installed, """
        import lessonlib
        from lessonlib.core import checkout
        from lessonlib.data import catalogue
        from lessonlib.lessons import LESSONS
        from lessonlib.runner import notebook_path
        print("site" in lessonlib.__file__, checkout(), "pets" in catalogue()["datasets"])
        print(all(notebook_path(lesson).is_file() for lesson in LESSONS.values()))
        """)
    assert out == ["True", "None", "True", "True"]


def test_every_module_of_the_package_imports(installed):
    out = python(installed, """
        import importlib, pkgutil, lessonlib
        names = [m.name for m in pkgutil.walk_packages(lessonlib.__path__, "lessonlib.") if "._" not in m.name]
        for name in names: importlib.import_module(name)
        print(len(names) > 10)
        """)
    assert out == ["True"]


def test_the_program_is_installed(installed):
    assert list((installed / "site/bin").glob("lessons*")) or list((installed / "site").rglob("entry_points.txt"))
    assert "pets" in python(installed, "import sys; sys.argv = ['lessons', 'list']; from lessonlib.cli import main; main()")
