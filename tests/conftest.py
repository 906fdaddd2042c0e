"""Every test draws the same numbers each time, its fixtures included, and none fails because the machine is slow."""
import pytest
from hypothesis import HealthCheck, settings

from lessonlib.core import set_seed

settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    set_seed(0)
