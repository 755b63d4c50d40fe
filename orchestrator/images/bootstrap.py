"""mmdebstrap, shut into namespaces of its own, fed from this machine's own apt sources."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.errors import HalliganError
from orchestrator.lab import apt
from orchestrator.lab.host import ENVIRONMENT, tail

__all__ = ["bootstrap", "deb822", "require"]


def require(tools: Mapping[str, str]) -> None:
    """Raise HalliganError unless these programs are here (program -> Debian's package) and we are root."""
    missing = sorted(
        {package for tool, package in tools.items() if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None}
    )
    if missing:
        raise HalliganError(
            f"what builds images is not installed here: {', '.join(missing)}", hint=f"apt install {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise HalliganError("only root can build images", hint="Run the same command with sudo.")


def bootstrap(
    tree: Path,
    options: Sequence[str],
    sources: Sequence[apt.Source],
    *,
    environment: Mapping[str, str],
    log: Path,
    what: str,
) -> None:
    """Make a tree of Debian 12 below a folder that is ours alone; the tree keeps the sources.

    Whatever mmdebstrap mounts or starts ends with it, and it with us. Raises HalliganError with the end of the log.
    """
    listed = tree.with_suffix(".sources")
    listed.write_text(deb822(sources))
    settings = {"Acquire::Languages": "none", "APT::Install-Recommends": "false", **apt.machine_settings()}
    if proxy := apt.upstream_proxy():
        settings["Acquire::http::Proxy"] = proxy
    words: Sequence[str | Path] = (
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
        "--dpkgopt=force-unsafe-io",  # no fsync for each file: a build that is cut short is thrown away
        *(f'--aptopt={key} "{value}"' for key, value in settings.items() if value),
        *options,
        *(apt.CODENAME, tree, listed),
    )
    with log.open("wb") as said:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **environment},
            check=False,
        )
    if done.returncode != 0:
        raise HalliganError(
            f"mmdebstrap could not build {what} (exit code {done.returncode})",
            detail=[line[:300] for line in tail(log, 25)],
            hint=f"If an archive cannot be reached, check `apt-get update` on this machine; the whole log is {log}.",
        )
    log.unlink()


def deb822(sources: Sequence[apt.Source]) -> str:
    """Return a sources file with these sources as this machine names them."""
    return "\n".join(
        f"Types: deb\nURIs: {each.uri}\nSuites: {each.suite}\nComponents: {apt.COMPONENT}\nSigned-By: {apt.KEYRING}\n"
        for each in sources
    )
