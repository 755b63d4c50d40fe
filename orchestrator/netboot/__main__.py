"""`python -m orchestrator.netboot SETTINGS.json`: serve a site's machines until SIGTERM."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from orchestrator.errors import HalliganError
from orchestrator.netboot.limits import LogLimit
from orchestrator.netboot.record import RECORD, Record, held
from orchestrator.netboot.settings import Settings
from orchestrator.processes import start_time

_LOG = logging.getLogger("halligan.boot")
_LINES_PER_SECOND = 200


class _OneLine(logging.Formatter):
    """One line per record whatever is in it, so that nobody's text can look like another record; traces excepted."""

    converter = time.gmtime  # type: ignore[assignment]  # typeshed declares it narrower than logging uses it

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return super().formatMessage(record).replace("\n", " | ")


def main(arguments: Sequence[str]) -> int:
    """Return 0 after SIGTERM, 1 for what the user can fix, 2 for a wrong call."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m orchestrator.netboot SETTINGS.json\n")
        return 2
    _log_to_stderr()
    try:
        settings = Settings.read(Path(arguments[0]))
        _prepare(settings)
        with held(settings.state_dir, settings.site):
            asyncio.run(_serve(settings))
    except HalliganError as error:
        _LOG.error("%s", error)
        return 1
    return 0


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    handler.addFilter(LogLimit(_LINES_PER_SECOND, time.monotonic))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _LOG.setLevel(logging.INFO)


def _prepare(settings: Settings) -> None:
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # a machine that waits is an open connection
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # asyncio gives every TLS connection 256 KiB to read into: a quarter of a gigabyte for a thousand agents that wait.
    # A TLS record has 16 KiB at most (RFC 8446, 5.1).
    asyncio.sslproto.SSLProtocol.max_size = 32 * 1024
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HalliganError(f"cannot use the folder {settings.state_dir}: {error.strerror}") from None


@contextlib.asynccontextmanager
async def _recorded(settings: Settings, http_port: int, https_port: int) -> AsyncIterator[None]:
    """Tell others that we serve, while we do."""
    record = Record(
        pid=os.getpid(),
        started=start_time(os.getpid()),
        since=time.time(),
        address=settings.boot.address,
        http_port=http_port,
        https_port=https_port,
        dhcp=settings.boot.dhcp,
    )
    path = settings.state_dir / RECORD
    record.write(path)
    _LOG.info(
        "serving site %s: http port %d, https port %d at %s", settings.site, http_port, https_port, record.address
    )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _serve(settings: Settings) -> None:
    from orchestrator.netboot.dnsmasq import dhcp
    from orchestrator.netboot.service import serving

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        serving(settings) as service,
        dhcp(settings, service.templates, service.http, service.machines.seen),
        _recorded(settings, service.http_port, service.https_port),
    ):
        await stop.wait()
    _LOG.info("ended")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
