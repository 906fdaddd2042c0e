"""Executable deep-learning lessons as a library."""

__version__ = "0.1.0"
