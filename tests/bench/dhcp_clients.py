"""Machines that ask for an address as firmware, as iPXE and as a kernel: `python -m tests.bench.dhcp_clients NIC N S`.

N machines begin within S seconds and go through three rounds of DISCOVER, OFFER, REQUEST, ACK each. It prints how many
rounds were answered with an address, how many with the loader or script that belongs to them, and what was asked again.
"""

from __future__ import annotations

import heapq
import json
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from orchestrator.netboot import probe

_AGAIN_S = 4.0
_GIVE_UP_S = 120.0
_PXE = b"PXEClient:Arch:00007:UNDI:003016"
_EFI64 = bytes([93, 2, 0, 7, 94, 3, 1, 3, 16, 97, 17, 0])
# What each round says of itself, and what its answer must name.
_ROUNDS = (
    (bytes([60, len(_PXE)]) + _PXE + _EFI64 + bytes(16), b"snponly.efi"),
    (bytes([60, len(_PXE)]) + _PXE + _EFI64 + bytes(16) + bytes([77, 4]) + b"iPXE" + bytes([175, 0]), b"/boot/script"),
    (b"", b""),
)


@dataclass
class _Client:
    number: int
    stage: int = 0  # round * 2, + 1 when the offer has come
    offer: bytes = b""
    server: bytes = b""
    told: int = 0
    again: int = 0
    sent_at: float = 0.0

    @property
    def mac(self) -> bytes:
        return bytes([0xD0, 0x8E, *self.number.to_bytes(3), 0])

    @property
    def key(self) -> int:
        return self.number << 4 | self.stage

    @property
    def done(self) -> bool:
        return self.stage >= 2 * len(_ROUNDS)

    def message(self) -> bytes:
        fixed = probe.discover(self.key, self.mac)[:240]
        kind = 3 if self.stage % 2 else 1
        options = bytes([53, 1, kind, 55, 6, 1, 3, 54, 66, 67, 60]) + _ROUNDS[self.stage // 2][0]
        if kind == 3:
            options += bytes([50, 4]) + self.offer + bytes([54, 4]) + self.server
        return fixed + options + b"\xff"

    def take(self, message: bytes) -> bool:
        """Take an answer; whether it is the one that was waited for."""
        options = dict(probe._options(message[240:]))
        if options.get(53) != (b"\x05" if self.stage % 2 else b"\x02"):
            return False
        self.offer, self.server = message[16:20], options.get(54, b"")
        if self.stage % 2:
            named = message[108:236] + options.get(67, b"")
            self.told += _ROUNDS[self.stage // 2][1] in named
        self.stage += 1
        return True


@dataclass
class _Crowd:
    raw: socket.socket
    clients: dict[int, _Client]
    due: list[tuple[float, int]] = field(default_factory=list)

    def run(self, within_s: float) -> dict[str, Any]:
        dice = random.Random(1)
        begin = time.monotonic()
        self.due = [(begin + dice.uniform(0, within_s), number) for number in self.clients]
        heapq.heapify(self.due)
        left = len(self.clients)
        while left and time.monotonic() < begin + within_s + _GIVE_UP_S:
            self._send()
            self.raw.settimeout(0.05)
            try:
                left -= self._receive(self.raw.recv(2048))
            except TimeoutError:
                continue
        everybody = self.clients.values()
        return {
            "leased": sum(client.stage // 2 for client in everybody),
            "told": sum(client.told for client in everybody),
            "again": sum(client.again for client in everybody),
            "addresses": len({client.offer for client in everybody}),
        }

    def _send(self) -> None:
        while self.due and self.due[0][0] <= time.monotonic():
            _, number = heapq.heappop(self.due)
            client = self.clients[number]
            if client.done or (client.sent_at and client.sent_at > time.monotonic() - _AGAIN_S / 2):
                continue
            client.again += client.sent_at > 0
            self._ask(client)

    def _ask(self, client: _Client) -> None:
        client.sent_at = time.monotonic()
        self.raw.send(probe.frame(client.message(), client.mac))
        heapq.heappush(self.due, (client.sent_at + _AGAIN_S, client.number))

    def _receive(self, received: bytes) -> int:
        """Take a frame; return 1 if a machine has all that it wants."""
        if len(received) < 282 or received[23] != 17 or received[34:38] != struct.pack("!HH", 67, 68):
            return 0
        message = received[42:]
        number = int.from_bytes(message[4:8])
        client = self.clients.get(number >> 4)
        if client is None or client.done or client.key != number or not client.take(message):
            return 0
        if not client.done:
            self._ask(client)
        return int(client.done)


def main(interface: str, count: str, within_s: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        raw.bind((interface, 0x800))
        clients = {number: _Client(number=number) for number in range(1, int(count) + 1)}
        print(json.dumps(_Crowd(raw=raw, clients=clients).run(float(within_s))))


if __name__ == "__main__":
    main(*sys.argv[1:])
