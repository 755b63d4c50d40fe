"""A network that a test can cut: passes connections on from one port to another."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

__all__ = ["Relay"]

_RESET = struct.pack("ii", 1, 0)  # close() sends RST: what a cut looks like once somebody notices


class Relay:
    """Listens where it is told and passes everything on to another port of the same address."""

    def __init__(self, address: str, port: int, to: int) -> None:
        self._address, self._port, self._to = address, port, to
        self._open: list[socket.socket] = []
        self._listener = self._listen()

    def cut(self) -> None:
        """Break what is connected; refuse what comes."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        """Let new connections through again."""
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((self._address, self._port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((self._address, self._to))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            sink.sendall(chunk)
    for one in (sink, source):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    source.close()
