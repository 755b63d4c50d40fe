"""Settings for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No test may fail because the machine is busy. CI repeats the same examples, so that a red run is about the change; the
# search for new ones goes on wherever people run the tests.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
