"""One ansible-playbook process per batch, started and read through ansible-runner.

What a run may know is written to a private folder in memory (inventory with secrets, mode 0700) and removed at its end.
Connections are shared by the batches of a run, never with another run: each run checks every host key itself.
What it leaves (events, without secrets) goes to the site's state folder, so that a later controller can read it after
a crash. The child dies with its controller (`setpriv --pdeathsig`), so no playbook ever runs unattended.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.executors.base import Report
from orchestrator.executors.events import Reader, last_words
from orchestrator.inventory import batch_inventory
from orchestrator.model import PUSH, Batch, Json, Outcome, Process, SecretRef, Status, StepRun
from orchestrator.processes import end, end_users, start_time

__all__ = ["AnsibleExecutor"]


@dataclass(slots=True)
class _Run:
    """A batch in flight. Several threads touch it: the runner's, the caller's and the timer's."""

    batch: Batch
    report: Callable[[Report], None]
    folder: Path
    private: Path
    reader: Reader
    started: float
    thread: threading.Thread | None = None
    pid: int = 0
    pid_started: float = 0.0
    stop: str = ""  # why it is being ended, if it is


class AnsibleExecutor:
    """Applies roles by Ansible's push mode."""

    name = PUSH
    gather_s = 0.5  # starting ansible-playbook takes a second of CPU

    def __init__(
        self, *, home: Path, site: str, runs: Path, secret: Callable[[SecretRef], Json], roles: Sequence[Path] = ()
    ) -> None:
        """`home` holds playbooks/ and ansible.cfg; `runs` gets a folder per batch; `secret` reveals a reference."""
        self._home = home
        self._site = site
        self._folder = runs
        self._secret = secret
        self._roles = tuple(roles) or (home / "roles",)
        self._facts = runs.parent.parent / "facts"  # of every host, for as long as they are young
        self._sockets = _private_path(runs)  # of ssh's shared connections
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def submit(self, batch: Batch, report: Callable[[Report], None]) -> None:
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        folder = self._folder / batch.id
        run = _Run(
            batch=batch,
            report=report,
            folder=folder,
            private=_private_path(folder),
            reader=Reader(batch.runs, check=batch.check),
            started=time.monotonic(),
        )
        with self._lock:
            self._runs[batch.id] = run
        run.thread = threading.Thread(target=self._work, args=(run,), name=f"ansible-{batch.id}")
        run.thread.start()

    def cancel(self, batch: str) -> None:
        with self._lock:
            run = self._runs.get(batch)
        if run:
            self._stop(run, "cancelled")

    def recover(self, process: Process, runs: Sequence[StepRun]) -> tuple[Outcome, ...]:
        folder = Path(process.folder) if process.folder else self._folder / process.batch
        private = _private_path(folder)
        end(process.pid, process.start_time)
        end_users(private)  # its forks, each in a session of its own, or a process too young to be recorded
        end_users(self._sockets)
        shutil.rmtree(private, ignore_errors=True)
        reader = Reader(runs, check=False)
        outcomes = (reader.read(event, 0.0) for event in _saved_events(folder))
        return tuple(outcome for outcome in outcomes if outcome)

    def close(self) -> None:
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            self._stop(run, "cancelled")
        for run in runs:
            if run.thread:
                run.thread.join()
        if self._sockets.exists():
            end_users(self._sockets)
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _stop(self, run: _Run, why: str) -> None:
        run.stop = run.stop or why
        if run.pid:
            # A thread of its own: ending politely may take seconds, and callers must not wait for it.
            threading.Thread(target=end, args=(run.pid, run.pid_started), daemon=True).start()

    def _work(self, run: _Run) -> None:
        """Run a batch from start to end in a thread; whatever happens, every step gets an outcome."""
        timer = threading.Timer(run.batch.timeout_s, self._stop, (run, f"timed out after {run.batch.timeout_s:g} s"))
        timer.daemon = True
        problem = "the Ansible run ended without a result for this host"
        try:
            timer.start()
            problem = self._play(run) or problem
        except Exception as error:
            problem = f"Ansible could not be run: {error}"
        finally:
            timer.cancel()
            shutil.rmtree(run.private, ignore_errors=True)
            with self._lock:
                self._runs.pop(run.batch.id, None)
            for outcome in run.reader.rest(run.stop or problem, time.monotonic() - run.started):
                run.report(outcome)

    def _play(self, run: _Run) -> str:
        """Run the playbook; return what it printed last if it could not start its work."""
        from ansible_runner.interface import init_command_config

        _make_private(run.private)
        inventory = run.private / "inventory.json"
        inventory.write_text(json.dumps(batch_inventory(run.batch, self._site, self._secret)))
        command = [
            "--pdeathsig",
            "TERM",
            str(Path(sys.executable).parent / "ansible-playbook"),
            "--inventory",
            str(inventory),
            "--forks",
            str(len(run.batch.runs)),
            *(["--check", "--diff"] if run.batch.check else []),
            str(self._home / "playbooks" / "run_role.yml"),
        ]
        runner = init_command_config(
            "setpriv",
            cmdline_args=command,
            private_data_dir=str(run.private),
            project_dir=str(self._home),
            host_cwd=str(self._home),
            artifact_dir=str(run.folder.parent),
            ident=run.folder.name,
            event_handler=lambda event: self._on_event(run, event),
            envvars=self._environment(run.batch),
            fact_cache_type="ours",  # else it points Ansible to a cache of its own
            quiet=True,
            suppress_env_files=True,
        )
        # By default it removes Ansible's half of an event before it writes its own: a kill in between would lose it.
        runner.remove_partials = False
        runner.run()
        for half in (run.folder / "job_events").glob("*-partial.json"):
            half.unlink()
        if not runner.rc:
            return ""
        with runner.stdout as printed, runner.stderr as errors:
            return last_words(f"{printed.read()}\n{errors.read()}")

    def _environment(self, batch: Batch) -> dict[str, str]:
        facts = {
            "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self._facts),
        }
        return {
            **(facts if batch.role.facts else {}),
            "ANSIBLE_CONFIG": str(self._home / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": os.pathsep.join(str(path.absolute()) for path in self._roles),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
            "ANSIBLE_STDOUT_CALLBACK": "halligan_text",
            "ANSIBLE_CALLBACK_PLUGINS": str(self._home / "plugins" / "callback"),
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_FORCE_COLOR": "false",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
        }

    def _on_event(self, run: _Run, event: Mapping[str, Any]) -> bool:
        if not run.pid and event.get("pid"):
            run.pid = int(event["pid"])
            run.pid_started = start_time(run.pid)
            run.report(Process(batch=run.batch.id, pid=run.pid, start_time=run.pid_started, folder=str(run.folder)))
            if run.stop:
                self._stop(run, run.stop)
        if outcome := run.reader.read(event, time.monotonic() - run.started):
            if outcome.status is not Status.OK:
                for kept in self._facts.glob(f"s*_{event['event_data']['host']}"):  # Ansible puts its format before it
                    kept.unlink(missing_ok=True)
            run.report(outcome)
        return True  # ansible-runner keeps the event in the artifacts


def _private_path(folder: Path) -> Path:
    """Return where a run's secrets live: in memory where the system has such a place, found again after a crash."""
    name = f"halligan-{os.getuid()}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    memory = Path("/dev/shm")  # noqa: S108 - tmpfs, and the folder is private
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / name


def _make_private(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)


def _saved_events(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Return the events that a run left, in order; the newest may be there only as Ansible's own half."""
    events = []
    for file in (folder / "job_events").glob("*.json"):
        try:
            events.append(json.loads(file.read_text()))
        except (OSError, ValueError):
            continue  # cut short by the crash
    yield from sorted(events, key=lambda event: str(event.get("created", "")))
