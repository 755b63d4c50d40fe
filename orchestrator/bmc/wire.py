"""HTTP to a Redfish service, for sushy: with an end in time, and without a second try where a second try does harm.

sushy's own connector (5.14) tries every request three times when the connection fails, a reset included; goes on with
basic authentication after a session was denied, which is a second wrong password; and bounds single reads, not the
whole. This one keeps sushy's interface and replaces what happens inside `_op`:

- every request ends at the operation's deadline;
- what only reads is tried again when the connection breaks, what changes something is not;
- "not now" (503, 429, and the messages in `quirks.py`) is asked again until the deadline, as Retry-After says;
- a password is sent once: a session that expired is renewed, a login that was denied is not repeated;
- redirects stay on the same scheme, host and port, proxies and ~/.netrc are not looked at;
- an answer is at most 8 MiB.
"""

from __future__ import annotations

import json
import logging
import ssl
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import sushy.auth
import sushy.connector
from sushy import exceptions

from orchestrator.bmc.base import Deadline
from orchestrator.bmc.quirks import Conduct, conduct_for

__all__ = [
    "Auth",
    "DroppedError",
    "NoAuth",
    "OverdueError",
    "StrangerError",
    "UnreachableError",
    "Wire",
    "text_of",
    "trusted",
]

_CONNECT_S = 10.0
_READ_TRIES = 3
_LARGEST = 8 << 20
_BUSY = (429, 503)
_CERTIFICATE = ssl.SSLCertVerificationError

logging.getLogger("sushy").addHandler(logging.NullHandler())  # else its warnings go to stderr, amid our output


class WireError(Exception):
    """The conversation failed below Redfish. Not a SushyError: sushy goes on after some of those."""


class UnreachableError(WireError):
    """No connection."""


class StrangerError(WireError):
    """TLS failed, mostly because the certificate is not one that we trust for this address."""


class DroppedError(WireError):
    """The connection broke before the answer: what was asked may have happened or not."""


class OverdueError(WireError):
    """The deadline passed."""


def trusted(ca: str) -> str | bool:
    """Return what requests takes as `verify`: the file `ca`, else the system's own authorities."""
    if ca:
        return ca
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


class Wire(sushy.connector.Connector):  # type: ignore[misc]  # sushy ships no types
    """A connector that sushy can use. `deadline` is set anew by whoever starts an operation."""

    def __init__(self, url: str, *, verify: str | bool) -> None:
        super().__init__(url, verify=verify)
        self._session.trust_env = False
        self.deadline = Deadline(0)
        self.if_match = False
        self._origin = urlsplit(url)[:2]
        self._closed = False

    def close(self) -> None:
        """End all connections; whoever asks afterwards (sushy's finalizer does) is told so at once."""
        self._closed = True
        super().close()

    def patch(self, path: str = "", data: Any = None, headers: Any = None, etag: str | None = None, **more: Any) -> Any:
        """PATCH, with If-Match where the BMC wants it."""
        if self.if_match and not etag:
            etag = self.etag(path)
        try:
            return super().patch(path, data=data, headers=headers, etag=etag, **more)
        except exceptions.HTTPError as error:
            if error.status_code != 428 and conduct_for(text_of(error)) is not Conduct.IF_MATCH:
                raise
        return self._op("PATCH", path, data=data, headers={**(headers or {}), "If-Match": self.etag(path)}, **more)

    def etag(self, path: str) -> str:
        """Return the resource's ETag: the header's, else the body's, else the one that matches anything."""
        answer = self.get(path)
        return answer.headers.get("ETag") or _document(answer).get("@odata.etag") or "*"

    def _op(self, method: str, path: str = "", data: Any = None, headers: Any = None, **_sushys_own: Any) -> Any:
        url = urljoin(self._url, path)
        if urlsplit(url)[:2] != self._origin:  # a path that the BMC made up must not take the password elsewhere
            raise DroppedError(f"the BMC points to another server: {url}")
        pause, renewable = 0.5, True
        while True:
            answer = self._ask(method, url, data, headers)
            try:
                exceptions.raise_for_response(method, url, answer)
            except exceptions.AccessError:
                if not (renewable and answer.status_code == 401 and self._renewed()):
                    raise
                renewable = False
            except exceptions.HTTPError as error:
                if answer.status_code not in _BUSY and conduct_for(text_of(error)) is not Conduct.WAIT:
                    raise
                if not self.deadline.pause(_retry_after(answer) or pause):
                    raise OverdueError(f"the BMC says that it is busy: {text_of(error)}") from None
                pause = min(5.0, pause * 2)
            else:
                return answer

    def _renewed(self) -> bool:
        """Whether a session that had worked was opened anew."""
        if self._auth is None or not self._auth.can_refresh_session():
            return False
        self._auth.refresh_session()
        return True

    def _ask(self, method: str, url: str, data: Any, headers: Any) -> Any:
        for attempt in range(1, _READ_TRIES + 1):
            try:
                return self._exchange(method, url, data, headers)
            except DroppedError:
                if method != "GET" or attempt == _READ_TRIES or not self.deadline.pause(0.2 * attempt):
                    raise
        raise AssertionError("unreachable")

    def _exchange(self, method: str, url: str, data: Any, headers: Any) -> Any:
        """Send one request, follow redirects of the same server, read the whole answer."""
        for _ in range(4):
            answer = self._once(method, url, data, headers)
            target = answer.headers.get("Location") if answer.is_redirect else None
            if target is None:
                return answer
            url = urljoin(url, target)
            if urlsplit(url)[:2] != self._origin:
                raise DroppedError(f"the BMC points to another server: {url}")
        raise DroppedError(f"the BMC sends us in circles: {url}")

    def _once(self, method: str, url: str, data: Any, headers: Any) -> Any:
        if self._closed:
            raise UnreachableError("the connection is closed")
        left = self.deadline.left()
        if not left:
            raise OverdueError(f"no time left for {method} {urlsplit(url).path}")
        # Identity and no keep-alive for the reasons that sushy's connector gives: ETags, and BMCs that choke.
        sent = {"OData-Version": "4.0", "Accept-Encoding": "identity", **(headers or {})}
        try:
            answer = self._session.request(
                method,
                url,
                json=data,
                headers={key: value for key, value in sent.items() if value is not None},
                verify=self._verify,
                timeout=(min(_CONNECT_S, left), left),
                allow_redirects=False,
                stream=True,
            )
            _read(answer, self.deadline)
        except requests.exceptions.SSLError as error:
            cause = _innermost(error)
            what = "its certificate is not one to trust" if isinstance(cause, _CERTIFICATE) else "no TLS with it"
            raise StrangerError(f"{what}: {getattr(cause, 'verify_message', '') or cause}") from None
        except requests.exceptions.ConnectTimeout:
            raise UnreachableError(f"no connection within {min(_CONNECT_S, left):.0f} s") from None
        except requests.exceptions.Timeout:
            raise OverdueError(f"no answer to {method} {urlsplit(url).path}") from None
        except requests.exceptions.RequestException as error:
            why = _innermost(error)
            raise (UnreachableError if _never_connected(error) else DroppedError)(str(why) or repr(why)) from None
        return answer


class Auth(sushy.auth.SessionAuth):  # type: ignore[misc]
    """A session; basic authentication only where the service has no sessions, never after a denial."""

    def _do_authenticate(self) -> None:
        try:
            super()._do_authenticate()
        except exceptions.AccessError:
            raise
        except (exceptions.MissingAttributeError, exceptions.ResourceNotFoundError, exceptions.MissingXAuthToken):
            self._connector.set_http_basic_auth(self._username, self._password)
        except exceptions.HTTPError as error:
            if error.status_code not in (405, 501):
                raise
            self._connector.set_http_basic_auth(self._username, self._password)


class NoAuth(sushy.auth.AuthBase):  # type: ignore[misc]
    """For services that ask for nothing (a simulator, a laboratory)."""

    def _do_authenticate(self) -> None:
        pass

    def can_refresh_session(self) -> bool:
        """Return False: there is no session."""
        return False


def text_of(error: exceptions.HTTPError) -> str:
    """Return what a Redfish error says: the message, the message ids and their messages."""
    parts = [str(error.detail or "")]
    extended = error.extended_info if isinstance(error.extended_info, list) else [error.extended_info]
    for info in extended:
        if isinstance(info, dict):
            parts += [str(info.get(key) or "") for key in ("MessageId", "MessageID", "Message")]
    return " ".join(dict.fromkeys(part for part in (part.strip() for part in parts) if part))[:500]


def _read(answer: requests.Response, deadline: Deadline) -> None:
    with answer:
        body = bytearray()
        for chunk in answer.iter_content(1 << 16):
            body += chunk
            if len(body) > _LARGEST:
                raise DroppedError(f"the answer is longer than {_LARGEST >> 20} MiB")
            if not deadline.left():
                raise OverdueError("the answer does not end")
        answer._content = bytes(body)  # noqa: SLF001  # what Response.content would have read, had it a limit


def _document(answer: requests.Response) -> dict[str, Any]:
    try:
        document = json.loads(answer.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _retry_after(answer: requests.Response) -> float:
    """Return the seconds that the answer asks for; 0 if it gives none, or a date (RFC 9110, 10.2.3)."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def _never_connected(error: requests.exceptions.RequestException) -> bool:
    from urllib3.exceptions import MaxRetryError, NewConnectionError

    cause = error.args[0] if error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)


def _innermost(error: BaseException) -> BaseException:
    """Return what really happened, beneath what requests and urllib3 wrap around it."""
    while True:
        around = (getattr(error, "reason", None), *error.args, error.__cause__)
        below = next((one for one in around if isinstance(one, BaseException)), None)
        if below is None:
            return error
        error = below
