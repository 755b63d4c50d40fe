"""A cloud as a test uses it: services by type, things that are made and surely unmade, waiting for a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.module_utils.openstack_api import ApiError, Session, url_join
from ansible.module_utils.probe_graph import ProbeError

__all__ = ["Cloud"]

Ask = Callable[[], Any]


class Cloud:
    """The services of one region, and what was made in them."""

    def __init__(
        self,
        session: Session,
        urls: Mapping[str, str],
        name: str,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        timeout_s: float,
    ) -> None:
        self.session = session
        self.name = name  # of everything that is made
        self._urls = urls
        self._clock = clock
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._made: list[tuple[str, Callable[[], object]]] = []

    def has(self, kind: str) -> bool:
        return kind in self._urls

    def url(self, kind: str, *parts: str) -> str:
        return url_join(self._urls[kind], *parts)

    def get(self, kind: str, path: str, *, version: str = "") -> Any:
        return self.session.get(self.url(kind, path), headers=_version(kind, version))

    def post(self, kind: str, path: str, body: object, *, version: str = "") -> Any:
        return self.session.request(
            "POST", self.url(kind, path), json_body=body, headers=_version(kind, version)
        ).json()

    def put(self, kind: str, path: str, body: object) -> Any:
        return self.session.request("PUT", self.url(kind, path), json_body=body).json()

    def delete(self, kind: str, path: str) -> None:
        self.session.request("DELETE", self.url(kind, path), expect=(200, 202, 204, 404))

    def make(self, kind: str, path: str, body: Mapping[str, Any], *, version: str = "") -> Any:
        """Create one thing and remember to delete it; return it without its wrapper."""
        (wrapper,) = body
        made = self.post(kind, path, body, version=version)[wrapper]
        where = f"{path}/{made.get('id') or made['name']}"
        self.later(f"{wrapper} {made.get('name', made.get('id'))}", lambda: self.delete(kind, where))
        return made

    def later(self, what: str, undo: Callable[[], object]) -> None:
        """Remember what has to be undone; the last first."""
        self._made.append((what, undo))

    def undo(self) -> list[str]:
        """Undo everything, whatever fails; return what could not be undone."""
        left = []
        while self._made:
            what, undo = self._made.pop()
            try:
                undo()
            except (ApiError, ProbeError, KeyError, TypeError) as error:
                left.append(f"{what} ({error})")
        return left

    def wait(self, what: str, ask: Ask, wanted: Iterable[object], bad: Iterable[object] = ("ERROR", "error")) -> Any:
        """Ask once a second until the state is a wanted one, and return it; a bad one or too much time is an error."""
        deadline = self._clock() + self._timeout_s
        good, wrong = tuple(wanted), tuple(bad)
        while True:
            state = ask()
            if state in good:
                return state
            if state in wrong:
                raise ProbeError(f"{what} is {state}")
            if self._clock() > deadline:
                raise ProbeError(f"{what} is {state} after {self._timeout_s:.0f} s, not {' or '.join(map(str, good))}")
            self._sleep(1)

    def wait_gone(self, what: str, kind: str, path: str) -> None:
        """Wait until a thing is no longer there."""

        def there() -> int:
            return self.session.request("GET", self.url(kind, path), expect=(200, 404)).status

        self.wait(what, there, (404,), bad=())


def _version(kind: str, version: str) -> Mapping[str, str]:
    return {"OpenStack-API-Version": f"{kind.removesuffix('v3')} {version}"} if version else {}
