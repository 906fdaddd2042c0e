"""Settings of pytest and nbval for the notebooks and for tests/."""
import os
import tempfile

# Notebooks write models and results; a test run must not touch those of the reader.
os.environ.setdefault("LESSONS_OUT", tempfile.mkdtemp(prefix="lessonlib-test-"))

# Threads that wait shall sleep, not spin: tests share their machine with other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collectstart(collector):
    """Compare what a reader sees: not the HTML twin of a table, and not warnings on stderr."""
    if collector.path is not None and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("text/html", "application/javascript", "stderr")
