"""Which package hosts this machine's own apt uses, and what the containers' apt is told.

The lab knows no address of an archive: it reads the machine's sources, keeps Debian 12's stanzas, and hands the same
URIs to the containers. HTTPS sources appear as HTTP inside, because the proxy can only cache what it can read; apt's
signature check is what makes the packages trustworthy, on either road.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.lab.errors import LabError

__all__ = ["PROXY_PORT", "Source", "container_conf", "deb822", "parse", "read_machine", "upstream_proxy", "upstreams"]

CODENAME = "bookworm"
SUITES = (CODENAME, f"{CODENAME}-updates", f"{CODENAME}-security")
COMPONENT = "main"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PROXY_PORT = 3142

_ONE_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Source:
    """One archive and one suite of Debian 12, component main."""

    uri: str
    suite: str


def parse(text: str, *, is_deb822: bool) -> tuple[Source, ...]:
    """Read one sources file in either of apt's formats; everything but Debian 12's main component is left out."""
    entries = _stanzas(text) if is_deb822 else _lines(text)
    found = (
        Source(uri=uri.rstrip("/"), suite=suite.rstrip("/"))
        for uri, suite, components in entries
        if suite.rstrip("/") in SUITES and COMPONENT in components and uri.startswith(("http://", "https://"))
    )
    return tuple(sorted(set(found)))


def _lines(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match:
            yield match["uri"], match["suite"], match["components"].split()


def _stanzas(text: str) -> Iterator[tuple[str, str, list[str]]]:
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", kept):
        fields = _fields(block)
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield uri, suite, fields.get("components", [])


def _fields(block: str) -> Mapping[str, list[str]]:
    joined = re.sub(r"\n[ \t]+", " ", block)
    pairs = (line.partition(":") for line in joined.splitlines() if ":" in line)
    return {key.strip().lower(): value.split() for key, _, value in pairs}


def read_machine(environ: Mapping[str, str] = os.environ) -> tuple[Source, ...]:
    """The Debian 12 sources of this machine, or of the file HALLIGAN_APT_SOURCES names (for other distributions)."""
    override = environ.get("HALLIGAN_APT_SOURCES")
    folder = Path("/etc/apt/sources.list.d")
    paths = [Path(override)] if override else [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.*"))]
    texts = [(path, path.read_text()) for path in paths if path.is_file() and path.suffix in (".list", ".sources")]
    sources = sorted({s for path, text in texts for s in parse(text, is_deb822=path.suffix == ".sources")})
    if CODENAME not in {source.suite for source in sources}:
        raise LabError(
            f"No apt source of this machine names Debian's suite {CODENAME}",
            detail=[f"looked in {path}" for path in paths],
            hint="The lab's containers are Debian 12. Write a file of Debian 12 sources (deb822, NAME.sources) and "
            "point HALLIGAN_APT_SOURCES at it.",
        )
    return tuple(sources)


def upstreams(sources: Iterable[Source]) -> Mapping[str, str]:
    """The proxy's allow-list: what a container asks for (always http) → where it is fetched."""
    return {_inside(source.uri): source.uri for source in sorted(sources)}


def deb822(sources: Iterable[Source]) -> str:
    """The containers' sources file, one stanza per archive."""
    suites: dict[str, list[str]] = {}
    for source in sorted(sources):
        suites.setdefault(_inside(source.uri), []).append(source.suite)
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {' '.join(names)}\nComponents: {COMPONENT}\nSigned-By: {KEYRING}\n"
        for uri, names in sorted(suites.items())
    )


def _inside(uri: str) -> str:
    return "http://" + uri.partition("://")[2]


# Settings of the machine's apt that its archives may need (a mirror frozen at a date has an expired Release file).
_INHERITED = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")


def container_conf(gateway: str, machine: Mapping[str, str]) -> str:
    """The containers' apt.conf: everything through the proxy, nothing that a test lab does not need."""
    inherited = [f'{key} "{machine[key]}";' for key in _INHERITED if machine.get(key)]
    lines = [
        f'Acquire::http::Proxy "http://{gateway}:{PROXY_PORT}";',
        'Acquire::http::Timeout "300";',  # the proxy answers when it has the whole file
        'Acquire::Languages "none";',
        'APT::Install-Recommends "false";',
        'Dpkg::Use-Pty "false";',
        *inherited,
    ]
    return "".join(f"{line}\n" for line in lines)


def machine_settings() -> Mapping[str, str]:
    """The inherited settings, as apt itself reports them."""
    return {key: _apt_config(key) for key in _INHERITED}


def upstream_proxy(environ: Mapping[str, str] = os.environ) -> str:
    """The proxy through which this machine's apt reaches its archives, or an empty string."""
    configured = _apt_config("Acquire::http::Proxy")
    if configured.upper() == "DIRECT":
        return ""
    return configured or environ.get("http_proxy", "")


def _apt_config(key: str) -> str:
    done = subprocess.run(["apt-config", "shell", "VALUE", key], capture_output=True, text=True, check=True)
    assignment = shlex.split(done.stdout)
    return assignment[0].partition("=")[2] if assignment else ""
