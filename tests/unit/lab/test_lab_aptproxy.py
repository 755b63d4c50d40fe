"""The caching proxy: what it lets out, and what it keeps."""

from __future__ import annotations

import io
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path

import pytest

from orchestrator.lab.aptproxy import Archive, Locks, RefusedError, UpstreamError, target

UPSTREAMS = {
    "http://mirror.example/debian": "http://mirror.example/debian",
    "http://security.example:8080/debian-security": "https://security.example:8080/debian-security",
}
DEB = "http://mirror.example/debian/pool/main/c/cpp/cpp_1%2b2~deb12u1_amd64.deb"
INDEX = "http://mirror.example/debian/dists/bookworm/InRelease"


class Response(io.BytesIO):
    """A response of the archive: a body and its headers."""

    def __init__(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        super().__init__(body)
        self.headers = headers or {}


class FakeArchive:
    """Answers with one function and remembers what it was asked."""

    def __init__(self, answer: Callable[[urllib.request.Request], Response]) -> None:
        self.answer = answer
        self.asked: list[urllib.request.Request] = []

    def __call__(self, request: urllib.request.Request) -> Response:
        self.asked.append(request)
        return self.answer(request)


def not_modified(request: urllib.request.Request) -> Response:
    raise urllib.error.HTTPError(request.full_url, 304, "Not Modified", Message(), io.BytesIO())


def unreachable(request: urllib.request.Request) -> Response:
    raise urllib.error.URLError("no route to host")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_package_is_fetched_by_its_own_url_and_kept_under_its_own_name(tmp_path: Path):
    """Escapes are undone for the file name and made again for the archive."""
    found = target(DEB, UPSTREAMS, tmp_path)
    assert found.url == "http://mirror.example/debian/pool/main/c/cpp/cpp_1+2~deb12u1_amd64.deb"
    assert found.path == tmp_path / "mirror.example/debian/pool/main/c/cpp/cpp_1+2~deb12u1_amd64.deb"
    assert found.is_immutable


def test_an_https_archive_is_asked_over_https(tmp_path: Path):
    """Inside it goes by http; its port is part of its name."""
    found = target("http://security.example:8080/debian-security/dists/x/InRelease", UPSTREAMS, tmp_path)
    assert found.url == "https://security.example:8080/debian-security/dists/x/InRelease"
    assert found.path.is_relative_to(tmp_path / "security.example_8080")
    assert not found.is_immutable


def test_a_file_named_by_its_hash_never_changes(tmp_path: Path):
    """So it needs no second question."""
    url = "http://mirror.example/debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/00ff"
    assert target(url, UPSTREAMS, tmp_path).is_immutable


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/debian/pool/a.deb",
        "http://mirror.example/other/a.deb",
        "http://mirror.example/debian-evil/a.deb",
        "http://mirror.example:81/debian/a.deb",
        "http://user@mirror.example/debian/a.deb",
        "https://mirror.example/debian/a.deb",
        "http://mirror.example/debian/../other/a.deb",
        "http://mirror.example/debian/%2e%2e/%2e%2e/etc/passwd",
        "http://mirror.example/debian//etc/passwd",
        "http://mirror.example/debian/a.deb?x=1",
        "http://mirror.example/debian/a%00.deb",
        "http://mirror.example/debian",
        "/debian/a.deb",
        "ftp://mirror.example/debian/a.deb",
    ],
)
def test_what_is_not_on_the_list_is_refused(url: str, tmp_path: Path):
    """Another host, another path, and every way to walk out of the right one."""
    with pytest.raises(RefusedError):
        target(url, UPSTREAMS, tmp_path)


def test_a_package_is_fetched_once(tmp_path: Path):
    """The second container is served from disk."""
    upstream = FakeArchive(lambda _: Response(b"deb", {"Content-Length": "3"}))
    archive = Archive(UPSTREAMS, tmp_path, upstream)
    assert archive.fetch(DEB).read_bytes() == b"deb"
    assert archive.fetch(DEB).read_bytes() == b"deb"
    assert len(upstream.asked) == 1


def test_containers_that_ask_at_once_share_one_fetch(tmp_path: Path):
    """Nobody reads a file that is still being written."""

    def slow(_: urllib.request.Request) -> Response:
        time.sleep(0.05)
        return Response(b"x" * 100_000)

    upstream = FakeArchive(slow)
    archive = Archive(UPSTREAMS, tmp_path, upstream)
    with ThreadPoolExecutor(8) as pool:
        sizes = [path.stat().st_size for path in pool.map(archive.fetch, [DEB] * 8)]
    assert sizes == [100_000] * 8
    assert len(upstream.asked) == 1


def test_an_index_is_asked_for_again_with_its_age(tmp_path: Path):
    """The archive's own time stamp is kept, and "not modified" means the file on disk."""
    stamp = "Sat, 06 Sep 2025 08:00:00 GMT"
    upstream = FakeArchive(lambda _: Response(b"old", {"Last-Modified": stamp}))
    archive = Archive(UPSTREAMS, tmp_path, upstream)
    archive.fetch(INDEX)
    upstream.answer = not_modified
    assert archive.fetch(INDEX).read_bytes() == b"old"
    assert upstream.asked[1].get_header("If-modified-since") == stamp


def test_a_newer_index_replaces_the_old_one(tmp_path: Path):
    """Otherwise security updates would never arrive."""
    upstream = FakeArchive(lambda _: Response(b"old"))
    archive = Archive(UPSTREAMS, tmp_path, upstream)
    archive.fetch(INDEX)
    upstream.answer = lambda _: Response(b"new")
    assert archive.fetch(INDEX).read_bytes() == b"new"


def test_an_archive_out_of_reach_does_not_matter_when_the_file_is_there(tmp_path: Path):
    """A lab whose cache is warm works on a train."""
    upstream = FakeArchive(lambda _: Response(b"old"))
    archive = Archive(UPSTREAMS, tmp_path, upstream)
    archive.fetch(INDEX)
    upstream.answer = unreachable
    assert archive.fetch(INDEX).read_bytes() == b"old"
    with pytest.raises(UpstreamError, match="no route to host"):
        archive.fetch(DEB)


def test_a_body_that_ends_early_leaves_nothing(tmp_path: Path):
    """Half a package must never be served as a whole one."""
    archive = Archive(UPSTREAMS, tmp_path, FakeArchive(lambda _: Response(b"half", {"Content-Length": "8"})))
    with pytest.raises(UpstreamError, match="4 bytes came, 8 were announced"):
        archive.fetch(DEB)
    assert files(tmp_path) == []


def test_a_missing_file_is_the_archives_answer(tmp_path: Path):
    """apt asks for optional indexes and copes with a 404."""

    def missing(request: urllib.request.Request) -> Response:
        raise urllib.error.HTTPError(request.full_url, 404, "Not Found", Message(), io.BytesIO())

    with pytest.raises(urllib.error.HTTPError) as caught:
        Archive(UPSTREAMS, tmp_path, FakeArchive(missing)).fetch(INDEX)
    assert caught.value.code == 404


def test_locks_are_forgotten_when_nobody_waits():
    """A proxy that runs for weeks does not collect one lock for every package."""
    locks = Locks()
    inside = threading.Event()
    path = Path("a")

    def second() -> None:
        with locks.hold(path):
            inside.set()

    with locks.hold(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not inside.wait(0.02)
    thread.join(5)
    assert inside.is_set()
    assert locks._waiting == {}
