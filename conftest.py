"""Settings of pytest and nbval for the notebooks and for tests/."""
import os
import shutil
import tempfile
from pathlib import Path

# Notebooks write models and results; a test run must not touch those of the reader.
os.environ.setdefault("LESSONS_OUT", tempfile.mkdtemp(prefix="lessonlib-test-"))

# Processes that run side by side share the cores; two threads on one core wait for each other.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))

# Threads that wait shall sleep, not spin: tests share their machine with other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_configure(config):
    """Start kernels without the reader's IPython settings, and with a watch on unseeded draws."""
    if not config.getoption("nbval", default=False): return
    room = tempfile.TemporaryDirectory(prefix="lessonlib-ipython-", ignore_cleanup_errors=True)
    config.add_cleanup(room.cleanup)
    startup = Path(room.name, "profile_default", "startup")
    startup.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "tests" / "kernel_startup.py", startup)
    os.environ["IPYTHONDIR"] = room.name


def pytest_collectstart(collector):
    """Compare what a reader sees: not the HTML twin of a table, and not warnings on stderr."""
    if collector.path is not None and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("text/html", "application/javascript", "stderr")
