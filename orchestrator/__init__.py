"""Halligan: one spec file to a running, verified cloud on mixed hosts."""

__version__ = "0.1.0"
