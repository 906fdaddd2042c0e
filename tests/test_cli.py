"""The program `lessons`, called as a reader calls it."""
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import nbformat
import psutil
import pytest

from lessonlib.lessons import LESSONS

LESSONS_PROGRAM = [sys.executable, "-c", "from lessonlib.cli import main; main()"]
SETTINGS = ("LESSONS_SCALE", "LESSONS_SET", "LESSONS_SEED", "LESSONS_DATA")


def call(*arguments, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    return subprocess.run([*LESSONS_PROGRAM, *arguments], env={**environment, **variables}, capture_output=True,
                          text=True, encoding="utf-8", errors="replace", timeout=600)


def test_list_names_every_lesson():
    done = call("list")
    assert done.returncode == 0
    assert all(name in done.stdout for name in LESSONS)


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "cats"], "no lesson is called 'cats'; there are pets"),
    (["run", "--scale", "huge"], "LESSONS_SCALE='huge' is no scale"),
    (["run", "pets", "--set", "sise=64"], "pets: LESSONS_SET names 'sise'; this lesson has"),
    (["run", "pets", "--set", "bs=many"], "bs=many: expected int"),
    (["data", "unicorns"], "no data set is called 'unicorns'"),
])
def test_a_wrong_word_is_one_line_without_traceback(arguments, message):
    done = call(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_data_folder_that_is_not_there_is_named(tmp_path):
    done = call("data", "pets", "--scale", "small", LESSONS_DATA=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "[FAIL] pets: LESSONS_DATA=" in done.stdout


def test_doctor_finds_a_sound_installation():
    done = call("doctor")
    assert done.returncode == 0, done.stdout
    assert "[OK]   torch and torchvision work together" in done.stdout
    assert "[OK]   data pets (made) at" in done.stdout


def test_doctor_says_what_is_missing(tmp_path):
    done = call("doctor", LESSONS_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "[FAIL] data pets (made) is not there: run lessons data pets" in done.stdout


def test_results_of_an_empty_folder(tmp_path):
    done = call("results", "--out", str(tmp_path))
    assert done.returncode == 0 and "no results at" in done.stdout


NO_NETWORK = """
    import socket
    real = socket.socket.connect
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"no network in this test: {address}")
        return real(self, address)
    socket.socket.connect = connect
    def getaddrinfo(host, *arguments, **named):
        if host not in (None, "127.0.0.1", "::1", "localhost"): raise socket.gaierror(f"no network: {host}")
        return known(host, *arguments, **named)
    known, socket.getaddrinfo = socket.getaddrinfo, getaddrinfo
"""


@pytest.mark.slow
def test_a_lesson_runs_without_network_and_home(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(NO_NETWORK), encoding="utf-8")
    (tmp_path / "home").mkdir(mode=0o500)
    alone = {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "home"), "PIP_NO_INDEX": "1"}
    blocked = subprocess.run([sys.executable, "-c", "import urllib.request as r; r.urlopen('https://pypi.org')"],
                             env={**os.environ, **alone}, capture_output=True, text=True)
    assert "no network" in blocked.stderr
    done = call("run", "movielens", "--seed", "7", "--out", str(tmp_path / "out"), **alone)
    assert done.returncode == 0, done.stdout + done.stderr
    result, = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert (result["lesson"], result["seed"], result["made"]) == ("movielens", 7, False)
    assert (tmp_path / "out/07_movielens.ipynb").is_file()


@pytest.mark.slow
def test_a_failed_lesson_is_recorded_and_fails_the_command(tmp_path):
    done = call("run", "movielens", "--scale", "small", "--out", str(tmp_path / "out"), LESSONS_DATA=str(tmp_path / "no"))
    assert done.returncode == 1
    assert "FAILED" in done.stdout and "LESSONS_DATA" in done.stdout
    result = json.loads((tmp_path / "out/results.jsonl").read_text())
    assert result["value"] is None and "DataError" in result["error"]


WAITING = "import os, time\nfrom pathlib import Path\nPath({file!r}).write_text(str(os.getpid()))\ntime.sleep(300)"
RUNNING = """import signal
from pathlib import Path
from lessonlib.runner import Run, run_notebook
signal.signal(signal.SIGINT, signal.default_int_handler) # A job in the background begins without it
run_notebook(Path({path!r}), Run(out=Path({out!r})))"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a console, not to a process")
def test_control_c_ends_the_run_and_its_kernel(tmp_path):
    cell = nbformat.v4.new_code_cell(WAITING.format(file=str(tmp_path / "pid")))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "waits.ipynb")
    program = RUNNING.format(path=str(tmp_path / "waits.ipynb"), out=str(tmp_path / "out"))
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as running:
        try:
            until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
            running.send_signal(signal.SIGINT)
            assert "KeyboardInterrupt" in running.communicate(timeout=60)[1]
        finally:
            running.kill()
    kernel = int((tmp_path / "pid").read_text())
    until(lambda: not psutil.pid_exists(kernel))
    assert (tmp_path / "out/waits.ipynb").is_file(), "the notebook as far as it came is kept"


def until(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(.1)
