"""Reading the machine's apt sources, and what the containers are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.lab import LabError, apt
from orchestrator.lab.apt import Source

MIRROR = "http://mirror.example/debian"
SECURITY = "https://security.example/debian-security"


def test_deb822_stanzas_give_one_source_per_uri_and_suite():
    """Comments inside a stanza and continued lines are part of the format."""
    text = f"""\
# the machine's own
Types: deb deb-src
URIs: {MIRROR}/
# http://snapshot.example/debian
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {SECURITY}
Suites: bookworm-security
Components: main
"""
    assert apt.parse(text, is_deb822=True) == (
        Source(uri=MIRROR, suite="bookworm"),
        Source(uri=MIRROR, suite="bookworm-updates"),
        Source(uri=SECURITY, suite="bookworm-security"),
    )


def test_one_line_entries_may_carry_options_and_comments():
    """The old format, as an installer writes it."""
    text = f"""\
# deb cdrom:[Debian]/ bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {MIRROR} bookworm main non-free # ours
deb-src {MIRROR} bookworm main
deb\t{SECURITY}/ bookworm-security/ main
"""
    assert apt.parse(text, is_deb822=False) == (
        Source(uri=MIRROR, suite="bookworm"),
        Source(uri=SECURITY, suite="bookworm-security"),
    )


@pytest.mark.parametrize(
    "stanza",
    [
        f"Types: deb-src\nURIs: {MIRROR}\nSuites: bookworm\nComponents: main",
        f"Types: deb\nEnabled: no\nURIs: {MIRROR}\nSuites: bookworm\nComponents: main",
        f"Types: deb\nURIs: {MIRROR}\nSuites: trixie bookworm-backports\nComponents: main",
        f"Types: deb\nURIs: {MIRROR}\nSuites: bookworm\nComponents: contrib",
        "Types: deb\nURIs: file:///srv/debian\nSuites: bookworm\nComponents: main",
    ],
)
def test_everything_but_debian_12_main_over_http_is_left_out(stanza: str):
    """Sources, disabled stanzas, other suites, other components and other transports."""
    assert apt.parse(stanza, is_deb822=True) == ()


def test_the_file_named_in_the_environment_replaces_the_machines_sources(tmp_path: Path):
    """On another distribution the user says where Debian 12 is to be had."""
    file = tmp_path / "lab.sources"
    file.write_text(f"Types: deb\nURIs: {MIRROR}\nSuites: bookworm\nComponents: main\n")
    found = apt.read_machine({"HALLIGAN_APT_SOURCES": str(file)})
    assert found == (Source(uri=MIRROR, suite="bookworm"),)


def test_a_machine_without_debian_12_is_told_what_to_do(tmp_path: Path):
    """The message says where it looked and which variable helps."""
    file = tmp_path / "other.list"
    file.write_text(f"deb {MIRROR} trixie main\n")
    with pytest.raises(LabError) as caught:
        apt.read_machine({"HALLIGAN_APT_SOURCES": str(file)})
    assert str(file) in caught.value.detail[0]
    assert "HALLIGAN_APT_SOURCES" in caught.value.hint


def test_containers_get_the_same_archives_over_plain_http():
    """The proxy can only cache what it can read; it fetches over the machine's own scheme."""
    sources = (Source(uri=SECURITY, suite="bookworm-security"), Source(uri=MIRROR, suite="bookworm"))
    inside = "http://security.example/debian-security"
    assert apt.upstreams(sources) == {MIRROR: MIRROR, inside: SECURITY}
    assert apt.deb822(sources) == (
        f"Types: deb\nURIs: {MIRROR}\nSuites: bookworm\nComponents: main\nSigned-By: {apt.KEYRING}\n"
        "\n"
        f"Types: deb\nURIs: {inside}\nSuites: bookworm-security\nComponents: main\nSigned-By: {apt.KEYRING}\n"
    )


def test_the_containers_sources_read_back_as_the_same_sources():
    """What we write is what we read."""
    sources = tuple(Source(uri=MIRROR, suite=suite) for suite in apt.SUITES[:2])
    assert apt.parse(apt.deb822(sources), is_deb822=True) == sources


def test_settings_that_a_frozen_mirror_needs_are_inherited():
    """Unset ones are left to apt's own defaults."""
    machine = {"Acquire::Check-Valid-Until": "false", "Acquire::Check-Date": ""}
    conf = apt.container_conf("10.77.0.1", machine)
    assert 'Acquire::http::Proxy "http://10.77.0.1:3142";\n' in conf
    assert 'Acquire::Check-Valid-Until "false";\n' in conf
    assert "Check-Date" not in conf
