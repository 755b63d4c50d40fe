"""A file of bytes is told apart by its content."""

from __future__ import annotations

import base64

import pytest

from plugins.modules.binary_file import decoded, differs

BYTES = b"\x1f\x8b\x00\xff"


def test_reads_base64():
    """What was encoded comes back, byte by byte."""
    assert decoded(base64.b64encode(BYTES).decode()) == BYTES


@pytest.mark.parametrize("text", ["H4sA!", "abc", "{{ ring }}"])
def test_refuses_other_text(text):
    """Text that is not base64 is an error, not a part of a file."""
    with pytest.raises(ValueError, match="not base64"):
        decoded(text)


def test_tells_what_differs(tmp_path):
    """A missing file, a folder and other content differ."""
    path = tmp_path / "ring"
    assert differs(path, BYTES)
    assert differs(tmp_path, BYTES)
    path.write_bytes(BYTES)
    assert not differs(path, BYTES)
    assert differs(path, BYTES + b"\x00")
