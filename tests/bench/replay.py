"""Hosts that run nothing: they answer carry at once with what a real play said, so only the controller has work.

`python -m tests.bench.replay FOLDER PORT EVENTS fresh|kept` answers on every address in FOLDER/known_hosts, with
the keys there. A fresh host lacks every parcel, one that kept them none. It prints what sshd's log says of logins.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import asyncssh


async def main() -> None:
    folder, port, events = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_text()
    fresh = sys.argv[4] == "fresh"

    async def process(process: asyncssh.SSHServerProcess[bytes]) -> None:
        print("Starting session", flush=True)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncssh.Error, BrokenPipeError):  # the session is over
            await answer(process, events, fresh=fresh)
        process.exit(0)

    for line in (folder / "known_hosts").read_text().splitlines():
        address = line[1:].partition("]")[0]
        await asyncssh.listen(
            address,
            port,
            server_host_keys=[str(folder / "host")],
            authorized_client_keys=str(folder / "authorized_keys"),
            process_factory=process,
            encoding=None,
            server_factory=_Login,
        )
        print(f"Server listening on {address}", flush=True)
    await asyncio.Event().wait()


class _Login(asyncssh.SSHServer):
    def auth_completed(self) -> None:
        print("Accepted publickey", flush=True)


async def answer(process: asyncssh.SSHServerProcess[bytes], events: str, *, fresh: bool) -> None:
    """Speak the host's side of orchestrator/executors/carry/on_host/serve.py until the session ends."""
    node = Path(shlex.split(process.command or "")[-1]).name
    source = process.stdin
    await source.readexactly(int(await source.readexactly(8)))

    def say(message: dict[str, Any]) -> None:
        process.stdout.write(json.dumps(message).encode() + b"\n")

    say({"python": list(sys.version_info[:3]), "boot": "-", "clock": time.time(), "name": node})
    while line := await source.readline():
        message = json.loads(line)
        if message["do"] != "play":
            continue
        say({"lacks": message["needs"] if fresh else []})
        while True:
            message = json.loads(await source.readline())
            await source.readexactly(message["size"])
            if "start" in message:
                break
        say({"started": True})
        process.stdout.write(events.replace("h0000", node).encode())
        await process.stdout.drain()


if __name__ == "__main__":
    asyncio.run(main())
