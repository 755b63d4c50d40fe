"""The commands over a fake service: what is called, what is printed where, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.apply import RunResult
from orchestrator.cli.app import app
from orchestrator.cli.ending import run
from orchestrator.errors import HalliganError, Location, LockedError, Problem, ProblemsError
from orchestrator.model import Event, Outcome, Plan, Snapshot, Spec, Status, Step, StepId, Topology
from orchestrator.plan import Selection, dump, parse
from orchestrator.service import Settled
from orchestrator.service import Status as SiteStatus
from orchestrator.store import Run, RunStatus, StepLog


class FakeVault:
    def __init__(self) -> None:
        self.rotated: list[str] = []

    def view(self) -> dict[str, object]:
        return {"b_password": "s3cret", "a_keys": ["x", 1]}

    def rotate(self, names: tuple[str, ...]) -> list[str]:
        self.rotated += names
        return list(names)


class FakeSite:
    """Answers like a site of which the test sets the plan and what a run of it comes to."""

    name = "lab"

    def __init__(self, plan: Plan) -> None:
        self.made = plan
        self.calls: list[tuple[object, ...]] = []
        self.vault = FakeVault()
        self.status_ = RunStatus.SUCCEEDED
        self.drift: tuple[Outcome, ...] = ()
        self.settled: Settled | None = None
        self.warnings: tuple[Problem, ...] = ()
        self.known_events = [Event(kind="run.started", at=0.0, run="r1", data={"steps": 2}, seq=n) for n in (1, 2, 3)]

    def load(self) -> Topology:
        self.calls.append(("load",))
        spec = Spec(site="lab", networks={}, profiles={}, groups={}, nodes={})
        return Topology(spec=spec, catalog={}, placements={}, bindings={}, problems=self.warnings)

    def plan(self, selection: Selection, *, check: bool = False) -> Plan:
        self.calls.append(("plan", selection, check))
        return self.made

    def settle(self) -> Settled | None:
        self.calls.append(("settle",))
        return self.settled

    def apply(self, made: Plan, *, on_event: Callable[[Event], None], **options: object) -> RunResult:
        self.calls.append(("apply", made, options))
        return self._run(on_event)

    def resume(self, *, on_event: Callable[[Event], None], **options: object) -> RunResult:
        self.calls.append(("resume",))
        return self._run(on_event)

    def _run(self, on_event: Callable[[Event], None]) -> RunResult:
        on_event(Event(kind="run.started", at=100.0, run="r2", data={"steps": 1}))
        data = {"status": "changed", "seconds": 1.5}
        on_event(Event(kind="step.finished", at=102.0, run="r2", node="a", step="base@a", data=data))
        return RunResult(
            run="r2",
            status=self.status_,
            counts={Status.CHANGED: 1},
            failures=(),
            skipped={},
            drift=self.drift,
        )

    def status(self) -> SiteStatus:
        return SiteStatus(site="lab", snapshot=Snapshot(), runs=(Run(id="r1"),), holder=None)

    def events(self, *, after: int = 0, run: str = "", node: str = "") -> Iterator[Event]:
        self.calls.append(("events", after, run, node))
        return iter([event for event in self.known_events if event.seq > after])

    def log(self, **wanted: object) -> Iterator[StepLog]:
        self.calls.append(("log", wanted))
        if wanted["node"] == "nobody":
            return iter(())
        return iter([StepLog(run="r1", step=StepId("base@a"), node="a", attempt=1, at=0.0, text="hello")])

    def forget(self, node: str) -> None:
        self.calls.append(("forget", node))

    def secrets_init(self) -> tuple[str, ...]:
        return ("a_keys",)


@pytest.fixture
def site(plan_of: Callable[..., Plan], step: Callable[..., Step], monkeypatch: pytest.MonkeyPatch) -> FakeSite:
    """A site whose plan creates base@a."""
    fake = FakeSite(plan_of([step("base@a")]))

    def open_site(name: str, **options: object) -> FakeSite:
        fake.calls.append(("open", name, options))
        return fake

    monkeypatch.setattr("orchestrator.service.open_site", open_site)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return fake


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a person at the terminal who answers."""

    class Terminal:
        def __init__(self, text: str) -> None:
            self._text = text

        def isatty(self) -> bool:
            return True

    def answer(text: str) -> None:
        monkeypatch.setattr("sys.stdin", Terminal(text))
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _prompt: text)

    return answer


def called(site: FakeSite) -> list[object]:
    return [call[0] for call in site.calls]


# --- validate -----------------------------------------------------------------------------------------------------


def test_validate_says_ok(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["validate", "lab"]) == 0
    assert capsys.readouterr().out == "ok: lab, 0 nodes, 0 roles, 0 placements\n"


def test_validate_tells_warnings(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.warnings = (Problem(code="x", summary="hm", severity="warning", where=Location(file="cluster.yml", line=3)),)
    assert run(app, ["validate", "lab"]) == 0
    out, err = capsys.readouterr()
    assert err == "cluster.yml:3: warning: hm\n"
    assert out.endswith(", 1 warning\n")


def test_validate_tells_all_problems(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> Topology:
        raise ProblemsError([Problem(code="a", summary="one"), Problem(code="b", summary="two", hint="mend it")])

    monkeypatch.setattr(site, "load", load)
    assert run(app, ["validate", "lab"]) == 1
    assert capsys.readouterr().err == "error: one\nerror: two\n    hint: mend it\n2 problems found\n"


# --- plan ---------------------------------------------------------------------------------------------------------


def test_plan_with_changes_exits_with_2(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["plan", "lab"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("Plan for lab: 1 to create\n")
    assert out.endswith("\nApply it: halligan apply lab\n")
    assert "\x1b" not in out


def test_plan_without_changes_exits_with_0(
    site: FakeSite, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    site.made = plan_of([])
    assert run(app, ["plan", "lab"]) == 0
    assert capsys.readouterr().out.startswith("Nothing to do")


def test_plan_hands_the_patterns_on(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--node", "kvm-*", "--node", "ctl-1", "--group", "kvm", "--role", "nova"]
    run(app, ["plan", "lab", *arguments])
    assert site.calls[1] == ("plan", Selection(nodes=("kvm-*", "ctl-1"), groups=("kvm",), roles=("nova",)), False)
    told = "Apply it: halligan apply lab --node 'kvm-*' --node ctl-1 --group kvm --role nova"
    assert told in capsys.readouterr().out


def test_global_options_reach_the_service(site: FakeSite) -> None:
    run(app, ["--state", "s.db", "--roles-path", "r", "--roles-path", "q", "--vault-password-file", "v", "plan", "lab"])
    assert site.calls[0] == ("open", "lab", {"state": "s.db", "roles": ("r", "q"), "vault_password_file": "v"})


@pytest.mark.parametrize(
    ("kind", "start"),
    [("json", "{"), ("dot", 'digraph "'), ("mermaid", "flowchart LR"), ("svg", "<svg "), ("html", "<!doctype html>")],
)
def test_plan_formats(
    site: FakeSite, kind: str, start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["plan", "lab", "--format", kind]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    target = tmp_path / "out"
    assert run(app, ["plan", "lab", "--format", kind, "--out", str(target)]) == 2
    assert target.read_text() == printed
    assert capsys.readouterr().out == f"Wrote {target}\n"


def test_plan_out_saves_the_document_beside_the_text(
    site: FakeSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "plan.json"
    assert run(app, ["plan", "lab", "--out", str(target)]) == 2
    assert target.read_bytes() == dump(site.made)
    assert capsys.readouterr().out.endswith(f"\nSaved. Apply exactly this plan: halligan apply {target}\n")


def test_an_unwritable_file_is_an_error_that_leaves_nothing(
    site: FakeSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["plan", "lab", "--out", str(tmp_path / "no" / "plan.json")]) == 1
    assert "error: cannot write" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- apply --------------------------------------------------------------------------------------------------------


def test_apply_settles_plans_shows_and_applies(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["apply", "lab", "--yes"]) == 0
    assert called(site) == ["open", "settle", "plan", "apply"]
    out = capsys.readouterr().out
    assert out.startswith("Plan for lab: 1 to create\n")
    assert "\nrun r2: 1 step\na base changed 1.5s\n\nDone: 1 step in 2.0 s (run r2)\n" in out


def test_apply_tells_of_an_interrupted_run(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.settled = Settled(run="r1", finished=(), unknown=())
    run(app, ["apply", "lab", "--yes"])
    assert "Run r1 had been interrupted" in capsys.readouterr().err


def test_apply_without_a_terminal_wants_yes(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["apply", "lab"]) == 1
    assert "hint: agree with --yes" in capsys.readouterr().err
    assert "apply" not in called(site)


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 130)])
def test_apply_asks_at_a_terminal(
    site: FakeSite, answers: Callable[[str], None], answer: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(answer)
    assert run(app, ["apply", "lab"]) == code
    assert ("apply" in called(site)) is (answer == "y")
    assert ("Aborted; nothing was done." in capsys.readouterr().err) is (answer == "n")


def test_apply_refuses_destruction_before_it_asks(
    site: FakeSite, plan_of: Callable[..., Plan], step: Callable[..., Step], capsys: pytest.CaptureFixture[str]
) -> None:
    site.made = plan_of([step("mariadb@a", destroys="Everything.")])
    assert run(app, ["apply", "lab"]) == 1
    assert "--allow-destroy mariadb@a" in capsys.readouterr().err
    assert run(app, ["apply", "lab", "--yes", "--allow-destroy", "mariadb"]) == 0
    assert site.calls[-1][2] == {"consent": ("mariadb",), "quorum_loss": ()}


def test_apply_refuses_to_lose_a_quorum_before_it_asks(
    site: FakeSite, plan_of: Callable[..., Plan], step: Callable[..., Step], capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan_of([step("db@a")])
    members = tuple(StepId(f"db@{node}") for node in "abc")
    cluster = replace(made.roles["db"], members=members, down={StepId("db@b"): "unreachable"})
    site.made = replace(made, roles={"db": cluster})
    assert run(app, ["apply", "lab", "--yes", "--allow-destroy", "*"]) == 1
    assert "--allow-quorum-loss db" in capsys.readouterr().err
    assert run(app, ["apply", "lab", "--yes", "--allow-quorum-loss", "d*"]) == 0
    assert site.calls[-1][2] == {"consent": (), "quorum_loss": ("d*",)}


def test_apply_of_nothing_does_nothing(
    site: FakeSite, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    site.made = plan_of([])
    assert run(app, ["apply", "lab"]) == 0
    assert "apply" not in called(site)


def test_a_failed_run_exits_with_1(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.status_ = RunStatus.FAILED
    assert run(app, ["apply", "lab", "--yes"]) == 1
    assert "Next: mend the cause, then plan what is left: halligan apply lab" in capsys.readouterr().out


def test_apply_json_keeps_stdout_for_events(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["apply", "lab", "--yes", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["run.started", "step.finished"]
    assert "Plan for lab" in err
    assert "Done: 1 step" in err


def test_a_plan_file_is_applied_without_a_question(
    site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("a plan")
    monkeypatch.setattr("orchestrator.service.load_plan", lambda name: site.made if name == str(path) else None)
    assert run(app, ["apply", str(path)]) == 0
    assert [call[:2] for call in site.calls] == [("open", "lab"), ("apply", site.made)]
    assert run(app, ["apply", str(path), "--site", "elsewhere"]) == 0
    assert ("open", "elsewhere") in [call[:2] for call in site.calls]


def test_a_plan_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["apply", "missing-plan.json"]) == 1
    assert "missing-plan.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["lab", "--resume", "--node", "a"], ["plan.json", "--role", "b"]])
def test_a_plan_that_exists_cannot_be_narrowed(
    site: FakeSite, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["apply", *arguments]) == 1
    assert "narrow a plan that is made now" in capsys.readouterr().err


def test_resume_goes_on_without_a_question(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["apply", "lab", "--resume"]) == 0
    assert called(site) == ["open", "events", "resume"]


# --- check --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "drift", "code"),
    [
        (RunStatus.SUCCEEDED, (), 0),
        (RunStatus.SUCCEEDED, (Outcome(step=StepId("base@a"), status=Status.CHANGED),), 2),
        (RunStatus.FAILED, (Outcome(step=StepId("base@a"), status=Status.CHANGED),), 1),
    ],
)
def test_check(
    site: FakeSite, status: RunStatus, drift: tuple[Outcome, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    site.status_, site.drift = status, drift
    assert run(app, ["check", "lab"]) == code
    assert site.calls[1] == ("plan", Selection(), True)
    assert site.calls[2][2] == {"command": "check", "check": True}
    assert ("Drift on 1 node\n  a: base\n" in capsys.readouterr().out) is bool(drift)


def test_check_of_a_new_site(site: FakeSite, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str]) -> None:
    site.made = plan_of([])
    assert run(app, ["check", "lab"]) == 0
    assert "Nothing to check" in capsys.readouterr().err


# --- the rest -----------------------------------------------------------------------------------------------------


def test_status(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["status", "lab"]) == 0
    assert capsys.readouterr().out.startswith("lab: 0 placements")


def test_log(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["log", "lab", "a", "--step", "base@a", "--run", "r1"]) == 0
    assert site.calls[-1] == ("log", {"node": "a", "step": "base@a", "run": "r1", "limit": 20})
    assert capsys.readouterr().out == "=== base@a, attempt 1, 1970-01-01 00:00:00Z, run r1\nhello\n"


def test_log_of_nothing_is_an_error(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["log", "lab", "nobody", "--limit", "0"]) == 1
    assert site.calls[-1][1] == {"node": "nobody", "step": "", "run": "", "limit": None}
    assert "no output is recorded" in capsys.readouterr().err


def test_events(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["events", "lab", "--after", "1", "--run", "r1", "--node", "a", "--json"]) == 0
    assert site.calls[-1] == ("events", 1, "r1", "a")
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [2, 3]


def test_events_follow_until_ctrl_c(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sleep(_seconds: float) -> None:
        if len(site.known_events) == 4:
            raise KeyboardInterrupt
        site.known_events.append(Event(kind="run.finished", at=9.0, run="r1", data={}, seq=4))

    monkeypatch.setattr("orchestrator.cli.commands.events.time.sleep", sleep)
    assert run(app, ["events", "lab", "-f"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3", "4"]


def test_forget_asks(site: FakeSite, answers: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["forget", "lab", "kvm-9"]) == 1
    answers("n")
    assert run(app, ["forget", "lab", "kvm-9"]) == 130
    assert "forget" not in called(site)
    assert run(app, ["forget", "lab", "kvm-9", "--yes"]) == 0
    assert site.calls[-1] == ("forget", "kvm-9")
    assert capsys.readouterr().out == "Forgot kvm-9.\n"


def test_secrets(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["secrets", "init", "lab"]) == 0
    assert run(app, ["secrets", "show", "lab"]) == 0
    assert run(app, ["secrets", "show", "lab", "b_password"]) == 0
    assert run(app, ["secrets", "show", "lab", "a_keys"]) == 0
    assert run(app, ["secrets", "rotate", "lab", "b_password", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "generated a_keys",
        "1 generated",
        "a_keys",
        "b_password",
        "s3cret",
        '["x", 1]',
        "rotated b_password",
        "What it changes: halligan plan lab",
    ]
    assert site.vault.rotated == ["b_password"]
    assert run(app, ["secrets", "show", "lab", "b_pasword"]) == 1
    assert 'Did you mean "b_password"?' in capsys.readouterr().err


def test_secrets_rotate_asks(site: FakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["secrets", "rotate", "lab", "b_password"]) == 1
    assert site.vault.rotated == []


def test_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"].startswith("Halligan")
    assert run(app, ["schema", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["properties"]["spec"]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(app, ["doctor"])
    assert code in (0, 1)
    assert ("Ready." in capsys.readouterr().out) is (code == 0)


def test_what_the_service_refuses_is_told(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> SiteStatus:
        raise LockedError("somebody works here", hint="wait")

    monkeypatch.setattr(site, "status", refuse)
    assert run(app, ["status", "lab"]) == 1
    assert capsys.readouterr().err == "error: somebody works here\n    hint: wait\n"


# --- a whole life over the real service and a fake executor --------------------------------------------------------


ROLES = str(Path(__file__).parents[3] / "roles")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and an executor that succeeds at once, except for base on node kvm-2."""
    from orchestrator import service
    from orchestrator.executors.fake import FakeExecutor, Script
    from orchestrator.model import Batch, StepRun

    def script(batch: Batch, item: StepRun) -> Script:
        if item.step == "base@kvm-2":
            return Script(status=Status.FAILED, problem="no space")
        return Script(outputs=dict.fromkeys(batch.role.outputs, "10.0.0.1"))

    real = service.open_site
    monkeypatch.setattr(
        service,
        "open_site",
        lambda name, **options: real(name, **options, executor=lambda _site, _run: FakeExecutor(script)),
    )
    monkeypatch.setenv("HALLIGAN_ROLES_PATH", ROLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_site_from_its_first_plan_to_its_log(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def halligan(*arguments: str) -> tuple[int, str]:
        code = run(app, list(arguments))
        return code, "".join(capsys.readouterr())

    size = ("--controllers", "1", "--network", "0", "--kvm", "3", "--hyperv", "2")
    assert halligan("generate", "--out", "site", *size)[0] == 0
    code, text = halligan("validate", "site")
    assert (code, text.split(", ")[:2]) == (0, ["ok: site", "6 nodes"])
    assert halligan("plan", "site", "--out", "plan.json")[0] == 2
    assert parse((world / "plan.json").read_bytes(), "plan.json").steps

    code, text = halligan("apply", "plan.json", "--site", "site")
    assert code == 1
    assert "3 steps would destroy data without your consent" in text
    assert "policy.blast_radius.destroy allows 1" in text
    spec = world / "site" / "cluster.yml"
    spec.write_text(spec.read_text().replace("destroy: 1", "destroy: 3"))
    halligan("plan", "site", "--out", "plan.json")
    code, text = halligan("apply", "plan.json", "--site", "site", "--allow-destroy", "kvm-*")
    assert code == 1
    assert "base on kvm-2 failed: no space\n    skipped because of it: 2 steps\n" in text
    code, text = halligan("apply", "plan.json", "--site", "site", "--allow-destroy", "kvm-*")
    assert code == 1
    assert "plan was made at revision 0" in text

    assert "1 to create" in halligan("plan", "site", "--role", "base")[1]
    assert "base on kvm-2" in halligan("status", "site")[1]
    assert "because   its system is installed" in halligan("explain", "site", "base@kvm-2")[1]
    assert halligan("events", "site", "--node", "kvm-2")[1].count("step.skipped") == 2
    assert halligan("check", "site", "--node", "ctl-1")[0] == 2
    assert halligan("forget", "site", "kvm-2", "--yes")[0] == 0
    assert "base on kvm-2" not in halligan("status", "site")[1]
    assert halligan("explain", "site", "bse@kvm-2")[0] == 1


def test_generate_does_not_overwrite(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "site").mkdir()
    (world / "site" / "mine").touch()
    assert run(app, ["generate", "--out", "site"]) == 1
    assert "is there already" in capsys.readouterr().err


def test_roles_lists_and_shows(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(app, ["generate", "--out", "site", "--kvm", "1", "--hyperv", "0", "--network", "0"])
    capsys.readouterr()
    assert run(app, ["roles", "site"]) == 0
    listed = capsys.readouterr().out
    assert run(app, ["roles"]) == 0
    assert capsys.readouterr().out == listed
    assert "keystone" in listed
    assert run(app, ["roles", "show", "keystone", "site"]) == 0
    assert "identity.keystone" in capsys.readouterr().out
    assert run(app, ["roles", "show", "keyston", "site"]) == 1
    assert 'Did you mean "keystone"?' in capsys.readouterr().err
    monkeypatch.delenv("HALLIGAN_ROLES_PATH")
    assert run(app, ["roles"]) == 0
    assert "keystone" in capsys.readouterr().out  # those that come with Halligan


def test_lab_commands_reach_the_lab(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator import lab

    done: list[str] = []
    nodes = [lab.NodeStatus(name="ctl-1", address="10.77.0.11", state="running", detail="")]
    monkeypatch.setattr(site, "lab", lambda: "the lab", raising=False)
    monkeypatch.setattr(lab, "up", lambda it, report: (done.append(f"up {it}"), report("starting"), nodes)[2])
    monkeypatch.setattr(site, "lab_down", lambda _report: done.append("down"), raising=False)
    monkeypatch.setattr(lab, "status", lambda _it: nodes)
    assert [run(app, ["lab", word, "lab"]) for word in ("up", "status", "down")] == [0, 0, 0]
    out, err = capsys.readouterr()
    assert done == ["up the lab", "down"]
    assert out.count("ctl-1  10.77.0.11  running") == 2
    assert err == "starting\n"


def test_errors_of_the_lab_are_told(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise HalliganError("no lab nodes")

    monkeypatch.setattr(site, "lab", none, raising=False)
    assert run(app, ["lab", "up", "lab"]) == 1
