"""Commands as an operator types them, with what they print kept for the test's report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
HALLIGAN = Path(sys.executable).parent / "halligan"


def run(*command, timeout=2400):
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=REPO,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    print(done.stdout)
    return done


def halligan(*words, expect=0):
    done = run(HALLIGAN, *words)
    assert done.returncode == expect, done.stdout[-4000:]
    return done.stdout
