#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Log in at Horizon with a real browser, look at a page, log out."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote, urljoin

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: horizon_login
short_description: Log in at Horizon with a real browser, look at a page, log out
description:
  - Starts a headless Chromium as an unprivileged user, fills in the login form, waits for the page, checks whose name
    it shows, takes a picture and logs out. Afterwards the page must be closed to the browser again.
  - Chromium is driven through a pipe (its DevTools protocol), so nothing listens, and the password is in no command
    line, no environment and no log.
  - Changes nothing. In check mode nobody logs in.
author: The Halligan authors
options:
  url:
    description: URL of the dashboard.
    type: str
    required: true
  username:
    description: Who logs in.
    type: str
    required: true
  password:
    description: Password of the user.
    type: str
    required: true
  domain:
    description: Domain of the user. Used when the form asks for one.
    type: str
    default: Default
  path:
    description: The page to look at, below O(url).
    type: str
    default: project/
  screenshot:
    description: File that the picture of the page is written to (PNG). It is written after a failure, too.
    type: path
    required: true
  browser:
    description: The program.
    type: path
    default: /usr/bin/chromium
  run_as:
    description: Account that the browser runs as.
    type: str
    required: true
  sandbox:
    description: Whether the browser isolates its own processes. It needs user namespaces.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for each step.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Log in with a browser
  horizon_login:
    url: http://10.0.0.11/
    username: admin
    password: "{{ secret }}"
    run_as: halligan-browser
    screenshot: /var/lib/halligan-browser/horizon.png
"""

RETURN = r"""
report:
  description: The verdict and the evidence (titles of the pages, the name that the page shows, the picture's file).
  type: dict
  returned: always
"""

MARK = "window.halliganOld"
STATE = """(() => {
  const text = (selector) => (document.querySelector(selector)?.textContent ?? "").trim();
  return {
    settled: document.readyState === "complete" && !window.halliganOld,
    path: location.pathname,
    status: performance.getEntriesByType("navigation")[0]?.responseStatus ?? 0,
    title: document.title,
    form: !!document.getElementById("id_username") && !!document.getElementById("id_password"),
    domain: !!document.querySelector("input#id_domain"),
    user: text(".user-menu .user-name"),
    heading: text(".page-header h1") || text("h1"),
    problem: text(".alert-danger") || text(".help-block.alert"),
  };
})()"""

State = Mapping[str, Any]


class ProbeError(Exception):
    """The dashboard, or the browser, did not do what it should."""


class Page(Protocol):
    """One tab of a browser."""

    def open(self, url: str) -> None: ...
    def evaluate(self, script: str) -> Any: ...
    def type(self, text: str) -> None: ...
    def picture(self) -> bytes: ...


class Visit:
    """A login, a look and a logout on a page; the report grows with every step that worked."""

    def __init__(self, page: Page, options: Mapping[str, Any], clock: Callable[[], float], wait: Callable[[], None]):
        self.report: dict[str, str] = {"verdict": "failed", "url": options["url"]}
        self._page = page
        self._options = options
        self._clock = clock
        self._wait = wait

    def make(self, keep: Callable[[bytes], None]) -> None:
        """Make the whole visit; `keep` gets the picture of the page."""
        self._log_in()
        try:
            self._look()
        finally:
            keep(self._page.picture())
        self._log_out()
        self.report["verdict"] = "ok"

    def _log_in(self) -> None:
        target = self._target()
        self._page.open(urljoin(self._options["url"], f"auth/login/?next={quote(target)}"))
        form = self._until("a login form", lambda state: state["form"])
        self.report["login_title"] = form["title"]
        if form["domain"]:
            self._fill("id_domain", self._options["domain"])
        self._fill("id_username", self._options["username"])
        self._fill("id_password", self._options["password"])
        self._page.evaluate(f"{MARK} = true; document.getElementById('loginBtn').click()")

    def _look(self) -> None:
        state = self._until("the page after the login", lambda state: state["user"] or state["form"])
        if state["form"] and not state["user"]:
            raise ProbeError(f"the login was refused: {state['problem'] or 'the form came back'}")
        self.report |= {"title": state["title"], "heading": state["heading"], "user": state["user"]}
        # A page that says no shows the frame with the user's name as well.
        if state["status"] != 200 or not state["heading"]:
            said = f"HTTP {state['status']}, {state['title']!r}"
            raise ProbeError(f"the login worked, but {self._target()} is no page that {state['user']} may see: {said}")
        if state["user"] != self._options["username"]:
            raise ProbeError(f"the page shows the name {state['user']!r}, and {self._options['username']!r} logged in")
        if not state["path"].startswith(self._target()):
            raise ProbeError(f"the page is {state['path']}, and {self._target()} was asked for")

    def _log_out(self) -> None:
        click = (
            "const one = document.querySelector('a[href$=\"/auth/logout/\"]'); if (one) { one.click(); } return !!one;"
        )
        if not self._page.evaluate(f"(() => {{ {MARK} = true; {click} }})()"):
            raise ProbeError("the page has no link to log out")
        self._until("the login form after the logout", lambda state: state["form"] and not state["user"])
        self._page.open(urljoin(self._options["url"], self._target()))
        state = self._until("an answer without a session", lambda state: state["form"] or state["user"])
        if state["user"]:
            raise ProbeError("the page is still open after the logout")
        self.report["logout"] = state["title"]

    def _fill(self, field: str, text: str) -> None:
        # A person's way, by the keyboard: the text is in no script that an error of the page could repeat.
        script = f"(() => {{ const one = document.getElementById('{field}'); one.value = ''; one.focus(); }})()"
        self._page.evaluate(script)
        self._page.type(text)

    def _target(self) -> str:
        return "/" + str(self._options["path"]).lstrip("/")

    def _until(self, what: str, seen: Callable[[State], bool]) -> State:
        """Wait until the page has settled and shows what is wanted."""
        deadline = self._clock() + self._options["timeout"]
        while True:
            state: State = self._page.evaluate(STATE) or {}
            if state.get("settled") and seen(state):
                return state
            if self._clock() > deadline:
                shown = f"{state.get('title', '')!r} at {state.get('path', '')!r}"
                raise ProbeError(f"waited {self._options['timeout']} s for {what}; the browser shows {shown}")
            self._wait()


class Chromium:
    """A headless Chromium of its own profile, driven through a pipe: JSON documents, each with a zero byte after it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._account = pwd.getpwnam(options["run_as"])
        self._profile = Path(tempfile.mkdtemp(prefix="halligan-browser-"))
        self._buffer = b""
        self._last = 0
        self._session = ""

    def __enter__(self) -> Chromium:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def open(self, url: str) -> None:
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise ProbeError(f"the browser cannot open {url}: {answer['errorText']}")

    def evaluate(self, script: str) -> Any:
        try:
            answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        except DevToolsError:
            return None  # the document went away while it was asked: the next one will tell
        if "exceptionDetails" in answer:
            raise ProbeError(f"a script failed in the page: {answer['exceptionDetails'].get('text', '')}")
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def version(self) -> str:
        return str(self.call("Browser.getVersion")["product"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give one command of the DevTools protocol and return its result; events are passed over."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._commands, json.dumps(message).encode() + b"\0")
        except BrokenPipeError as error:
            raise ProbeError(f"the browser ended. It said: {self._said()}") from error
        deadline = time.monotonic() + self._options["timeout"]
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") != self._last:
                continue
            if "error" in answer:
                raise DevToolsError(f"{method}: {answer['error'].get('message', '')}")
            return dict(answer["result"])

    def _receive(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise ProbeError(f"the browser did not answer {method} within {self._options['timeout']} s")
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise ProbeError(f"the browser ended. It said: {self._said()}")
            self._buffer += data
        document, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(document))

    def _start(self) -> None:
        os.chown(self._profile, self._account.pw_uid, self._account.pw_gid)
        commands, self._commands = _pipe()
        self._answers, answers = _pipe()
        with (self._profile / "said").open("wb") as said:
            self._process = subprocess.Popen(
                [*ends_as_3_and_4(commands, answers), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=self._profile,
                env={"HOME": str(self._profile), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                user=self._account.pw_uid,
                group=self._account.pw_gid,
                extra_groups=[],
                start_new_session=True,
                pass_fds=(commands, answers),
            )
        for end in (commands, answers):
            os.close(end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def _command(self) -> list[str]:
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
        return [
            self._options["browser"],
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile / 'profile'}",
            "--no-proxy-server",  # the dashboard is the site's own: a proxy to the Internet is no way to it
            *quiet,
            "--disable-gpu",
            "--lang=en-US",
            "--window-size=1280,1024",
            *([] if self._options["sandbox"] else ["--no-sandbox"]),
        ]

    def _said(self) -> str:
        lines = (self._profile / "said").read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-4:])

    def _end(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            for end in (self._commands, self._answers):
                os.close(end)
            # It ends by itself when its pipe is closed; a child that hangs does not.
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


class DevToolsError(Exception):
    """The browser refused a command."""


def ends_as_3_and_4(commands: int, answers: int) -> list[str]:
    """Return what goes before Chromium's command line: it reads its commands from 3 and writes answers to 4."""
    places = f"3<&{commands} 4>&{answers} {commands}<&- {answers}>&-"
    return ["/bin/bash", "-c", f'exec "$0" "$@" {places}']


def _pipe() -> tuple[int, int]:
    """Return both ends of a pipe, numbered so high that 3 and 4 are free for others."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


def keep_picture(path: Path, picture: bytes) -> None:
    """Write a picture at once, for root only: it may show what the user may see."""
    draft = path.with_name(f".{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_bytes(picture)
    draft.replace(path)


def main() -> None:
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "url": text,
            "username": text,
            "password": {**text, "no_log": True},
            "domain": {"type": "str", "default": "Default"},
            "path": {"type": "str", "default": "project/"},
            "screenshot": {"type": "path", "required": True},
            "browser": {"type": "path", "default": "/usr/bin/chromium"},
            "run_as": text,
            "sandbox": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    options = module.params
    if module.check_mode:
        module.exit_json(changed=False, report={"verdict": "not asked in check mode", "url": options["url"]})
    picture = Path(options["screenshot"])
    report: dict[str, str] = {"verdict": "failed", "url": options["url"]}
    try:
        with Chromium(options) as browser:
            visit = Visit(browser, options, time.monotonic, lambda: time.sleep(0.2))
            report = visit.report
            report |= {"browser": browser.version(), "screenshot": str(picture)}
            visit.make(lambda data: keep_picture(picture, data))
    except KeyError as error:
        module.fail_json(msg=f"There is no account to run the browser as: {error}", report=report)
    except (ProbeError, DevToolsError, OSError) as error:
        module.fail_json(msg=f"Login with a browser at {options['url']}: {error}", report=report)
    module.exit_json(changed=False, report=report)


if __name__ == "__main__":
    main()
