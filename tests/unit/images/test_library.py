"""The image library: what is kept, what a name means, and what damage looks like."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import HalliganError
from orchestrator.images.library import Image, Library, default_folder

pytestmark = pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed (apt install zstd)")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "images")


def add(library: Library, content: bytes, name: str = "debian-12", recipe: str = "") -> Image:
    raw = library.folder.parent / "disk.raw"
    raw.write_bytes(content)
    return library.add(
        raw,
        name=name,
        firmware=("bios", "uefi"),
        os="linux",
        seed="nocloud",
        root="ext4",
        source="a test",
        packages={"bash": "5.2"},
        recipe=recipe,
    )


def test_the_folder_is_that_of_the_environment() -> None:
    assert default_folder({"HALLIGAN_IMAGES_DIR": "/srv/images"}) == Path("/srv/images")
    assert default_folder({}) == Path("/var/lib/halligan/images")


def test_what_was_added_is_read_back(library: Library) -> None:
    content = bytes(range(256)) * 4096
    image = add(library, content, recipe="abc")
    assert library.current("debian-12") == image
    assert library.images() == (image,)
    assert (image.sha256, image.size) == (hashlib.sha256(content).hexdigest(), len(content))
    packed = library.path(image).read_bytes()
    assert (image.file_sha256, image.file_size) == (hashlib.sha256(packed).hexdigest(), len(packed))
    assert image.file == f"debian-12-{image.sha256[:12]}.raw.zst"
    assert (image.firmware, image.packages, image.recipe) == (("bios", "uefi"), {"bash": "5.2"}, "abc")
    library.verify(image)


def test_a_name_means_what_was_added_last_and_older_ones_stay(library: Library) -> None:
    old, new = add(library, b"old" * 512), add(library, b"new" * 512)
    assert library.current("debian-12") == new
    assert {image.id for image in library.images()} == {old.id, new.id}
    library.verify(old)
    assert library.find(old.id) == old
    assert library.find("debian-12") == new


def test_adding_leaves_nothing_but_three_files(library: Library) -> None:
    image = add(library, b"x" * 4096)
    assert {path.name for path in library.folder.iterdir()} == {image.file, f"{image.id}.json", "debian-12.json"}


def test_the_same_disk_twice_is_one_image(library: Library) -> None:
    add(library, b"x" * 512)
    add(library, b"x" * 512)
    assert len(library.images()) == 1


def test_a_name_that_is_not_there_gets_a_suggestion_and_a_next_step(library: Library) -> None:
    add(library, b"x" * 512)
    with pytest.raises(HalliganError) as caught:
        library.current("debain-12")
    assert 'Did you mean "debian-12"?' in caught.value.summary
    assert caught.value.detail == ("images here: debian-12",)
    assert "halligan image import" in caught.value.hint


@pytest.mark.parametrize("name", ["../secret", "debian-12-0123456789ab", "", "/etc/passwd"])
def test_a_name_that_no_image_can_have_is_not_there(library: Library, name: str) -> None:
    add(library, b"x" * 512)
    with pytest.raises(HalliganError, match="there is no image"):
        library.current(name)


def test_an_empty_library_needs_no_folder(library: Library) -> None:
    assert (library.images(), library.names()) == ((), ())
    with pytest.raises(HalliganError, match="there is no image"):
        library.current("debian-12")


@pytest.mark.parametrize("name", ["Debian", "a/b", "-a", "", "x" * 64, "debian-0123456789ab"])
def test_bad_names_are_refused_before_anything_is_written(library: Library, name: str) -> None:
    with pytest.raises(HalliganError, match="cannot be called"):
        add(library, b"x" * 512, name=name)
    assert not library.folder.exists()


def test_a_changed_disk_is_found(library: Library) -> None:
    image = add(library, b"x" * 4096)
    other = add(library, b"y" * 4096, name="other")
    shutil.copyfile(library.path(other), library.path(image))
    size = library.path(image).stat().st_size
    assert size == image.file_size, "the test wants damage that the size does not show"
    library.current("debian-12")
    with pytest.raises(HalliganError, match="is damaged") as caught:
        library.verify(image)
    assert other.sha256 in "".join(caught.value.detail)


def test_garbage_and_cut_files_are_found(library: Library) -> None:
    image = add(library, bytes(range(256)) * 64)
    path = library.path(image)
    content = path.read_bytes()
    path.write_bytes(b"\0" * len(content))
    with pytest.raises(HalliganError, match="is damaged"):
        library.verify(image)
    path.write_bytes(content[:-5])
    with pytest.raises(HalliganError, match="is not whole"):
        library.current("debian-12")
    path.unlink()
    with pytest.raises(HalliganError, match="is missing"):
        library.verify(image)


def test_damaged_manifests_are_told_with_their_path(library: Library) -> None:
    image = add(library, b"x" * 512)
    manifest = library.folder / f"{image.id}.json"
    manifest.write_text("{")
    with pytest.raises(HalliganError, match=f"{image.id}.json cannot be read"):
        library.current("debian-12")
    (library.folder / "debian-12.json").write_text("[]")
    with pytest.raises(HalliganError, match="does not say which image"):
        library.current("debian-12")


def test_a_manifest_of_a_later_release_may_say_more(library: Library) -> None:
    image = add(library, b"x" * 512)
    manifest = library.folder / f"{image.id}.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "licence": "free"}))
    assert library.current("debian-12") == image


def test_removing_a_name_removes_its_versions_only(library: Library) -> None:
    add(library, b"old" * 512)
    add(library, b"new" * 512)
    kept = add(library, b"x" * 512, name="debian-12-hardened")
    assert len(library.remove("debian-12")) == 2
    assert library.images() == (kept,)
    library.verify(kept)
    with pytest.raises(HalliganError, match="there is no image"):
        library.remove("debian-12")


def test_only_a_version_that_is_not_current_is_removed_alone(library: Library) -> None:
    old, new = add(library, b"old" * 512), add(library, b"new" * 512)
    with pytest.raises(HalliganError, match="cannot be removed alone"):
        library.remove(new.id)
    assert library.remove(old.id) == (old,)
    assert library.images() == (new,)
    assert not library.path(old).exists()


def test_a_disk_that_cannot_be_compressed_leaves_the_old_image(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = add(library, b"old" * 512)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "zstd").write_text("#!/bin/sh\nhead -c 100 >/dev/null; echo 'No space left on device' >&2; exit 1\n")
    (tools / "zstd").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    with pytest.raises(HalliganError, match="could not compress") as caught:
        add(library, b"new" * 10**6)
    assert "No space left on device" in caught.value.detail[0]
    assert library.current("debian-12") == old
    assert {path.name for path in library.folder.iterdir()} == {old.file, f"{old.id}.json", "debian-12.json"}
