"""The views of images, and the commands that show them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.cli.app import app
from orchestrator.cli.ending import run
from orchestrator.cli.views.images import image_text, images_text, size_text
from orchestrator.cli.views.words import Look
from orchestrator.images.library import Image, Library

IMAGE = Image(
    name="debian-12",
    sha256="ab" * 32,
    size=749_731_840,
    file="debian-12-abababababab.raw.zst",
    file_sha256="cd" * 32,
    file_size=126_620_939,
    firmware=("bios", "uefi"),
    os="linux",
    seed="nocloud",
    root="ext4",
    source="built from Debian",
    created="2026-11-25T12:02:34+00:00",
    packages={"bash": "5.2.15"},
)


@pytest.mark.parametrize(("size", "text"), [(126_620_939, "127 MB"), (0, "0 MB"), (1_400_000_000, "1.4 GB")])
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_table_marks_what_a_name_does_not_mean_any_more() -> None:
    text = images_text([IMAGE], [], Look())
    assert text.splitlines()[1].split() == [
        *("debian-12", "abababababab", "linux", "bios+uefi", "nocloud"),
        *("750", "MB", "127", "MB", "2026-11-25", "12:02", "older"),
    ]
    assert "older" not in images_text([IMAGE], [IMAGE.id], Look())


def test_an_empty_table_says_what_to_do() -> None:
    assert "halligan image build debian-12" in images_text([], [], Look())


def test_an_image_in_full_has_its_checksums_and_packages_when_asked() -> None:
    text = image_text(IMAGE, "/images/file", Look(), packages=False)
    assert text.startswith("debian-12-abababababab\n")
    assert "SHA-256 " + "ab" * 32 in text
    assert "/images/file, 126,620,939 bytes, SHA-256 " + "cd" * 32 in text
    assert "1 package\n" in text
    assert "bash 5.2.15" not in text
    assert "bash 5.2.15" in image_text(IMAGE, "", Look(), packages=True)


# --- the commands -------------------------------------------------------------------------------------------------


def call(*arguments: str) -> int:
    return run(app, list(arguments))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed (apt install zstd)")
    monkeypatch.setenv("HALLIGAN_IMAGES_DIR", str(tmp_path / "images"))
    library = Library()
    for content in (b"old", b"new"):
        (tmp_path / "disk").write_bytes(content * 512)
        library.add(
            tmp_path / "disk", name="mine", firmware=("uefi",), os="linux", seed="nocloud", root="xfs", source="a test"
        )
    return library


def test_list_show_verify_and_remove(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    current = library.current("mine")
    assert call("image", "list") == 0
    printed = capsys.readouterr().out
    assert printed.count("mine") == 2
    assert printed.count("older") == 1
    assert call("image", "show", "mine") == 0
    assert capsys.readouterr().out.startswith(current.id)
    assert call("image", "verify", "mine") == 0
    assert "is whole" in capsys.readouterr().out
    library.path(current).write_bytes(b"x" * current.file_size)
    assert call("image", "verify", "mine") == 1
    assert "is damaged" in capsys.readouterr().err
    assert call("image", "remove", "mine", "--yes") == 0
    assert capsys.readouterr().out.count("removed mine-") == 2
    assert library.images() == ()


def test_a_name_that_is_not_there_is_an_error_with_a_hint(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("image", "show", "mien") == 1
    assert 'Did you mean "mine"?' in capsys.readouterr().err
    assert library.images()


def test_options_that_the_discovery_image_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("image", "build", "discovery", "--again") == 1
    assert "named by its recipe" in capsys.readouterr().err


def test_what_is_no_image_is_refused(library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.qcow2").write_text("<!DOCTYPE html>")
    assert call("image", "import", str(tmp_path / "page.qcow2"), "--name", "other") == 1
    assert "a web page" in capsys.readouterr().err
    assert library.names() == ("mine",)
