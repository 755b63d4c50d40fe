"""Runs one play on this host with the ansible-core that lies beside it: `play.py ANSIBLE PLAYBOOK [option...]`.

The inventory is standard input. It is ansible-playbook as it is, made cheap in two places, each of them measured:
  - YAML that Ansible parses at each start is taken parsed from known.json; pure Python needs 0.7 s for it
  - Python modules run in a fork of the worker, where their libraries are loaded already, instead of being packed,
    written to a new interpreter and imported again (0.3 s per task). Those that another interpreter or another user
    has to run, asynchronous ones and those in other languages take Ansible's own way.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

_TOKEN = b"halligan runs this module in a fork"


def use_known_yaml(folder: str) -> None:
    """Answer yaml.load from known.json for texts that are in it."""
    import yaml

    with open(os.path.join(folder, "known.json"), "rb") as file:
        known = {key: json.dumps(value) for key, value in json.load(file).items()}
    plain_load = yaml.load

    def load(stream: Any, Loader: Any) -> Any:  # noqa: N803 - PyYAML's own name
        if "Instrumented" in Loader.__name__:  # wants to know where each value stands
            return plain_load(stream, Loader)
        text = stream.read() if hasattr(stream, "read") else stream
        kind = "base" if "BaseLoader" in Loader.__name__ else "safe"
        plain = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        found = known.get(hashlib.sha256(f"{kind} {plain}".encode()).hexdigest()[:32])
        return plain_load(text, Loader) if found is None else json.loads(found)

    yaml.load = load


def run_modules_in_forks(module_utils: list[str]) -> None:
    """Make ActionBase run eligible modules in a fork; everything around the execution stays Ansible's."""
    import ansible.module_utils
    from ansible.executor.module_common import _BuiltModule
    from ansible.module_utils.common.json import Direction, get_module_encoder
    from ansible.plugins.action import ActionBase
    from ansible.plugins.loader import module_loader

    ansible.module_utils.__path__.extend(module_utils)
    configure, execute = ActionBase._configure_module, ActionBase._low_level_execute_command
    encoder = get_module_encoder("legacy", Direction.CONTROLLER_TO_MODULE)

    def is_eligible(action: Any, task_vars: dict[str, Any], path: str) -> bool:
        play = action._play_context
        interpreter = task_vars.get("ansible_python_interpreter", "")
        return (
            not action._task.async_val
            and not action._task.delegate_to
            and (not play.become or play.become_user in (None, "", _user()))
            and interpreter in ("", "auto", "auto_silent", "/usr/bin/python3", sys.executable)
            and path.endswith(".py")
            and _is_new_style(path)
        )

    def _configure(action: Any, module_name: str, module_args: Any, task_vars: dict[str, Any]) -> Any:
        found = module_loader.find_plugin_with_context(module_name, ".py", collection_list=action._task.collections)
        path = found.plugin_resolved_path if found.resolved else ""
        if not path or not is_eligible(action, task_vars, path):
            return configure(action, module_name, module_args, task_vars)
        parameters = json.dumps({"ANSIBLE_MODULE_ARGS": module_args}, cls=encoder).encode()
        environment: dict[str, Any] = {}
        action._compute_environment_string(environment)
        action._halligan = (path, found.plugin_resolved_name, parameters, environment)
        built = _BuiltModule(
            b_module_data=_TOKEN, module_style="new", shebang=f"#!{sys.executable}", serialization_profile="legacy"
        )
        return built, path

    def _execute(action: Any, cmd: str, sudoable: bool = True, in_data: Any = None, **rest: Any) -> Any:
        if in_data != _TOKEN:
            return execute(action, cmd, sudoable=sudoable, in_data=in_data, **rest)
        rc, out, err = in_fork(lambda: _run(*action._halligan))
        return {"rc": rc, "stdout": out, "stdout_lines": out.splitlines(), "stderr": err, "stderr_lines": [err]}

    ActionBase._configure_module, ActionBase._low_level_execute_command = _configure, _execute


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


_styles: dict[str, bool] = {}


def _is_new_style(path: str) -> bool:
    """Return whether a module is one of today's Python modules, by Ansible's own sign: it uses its library.

    Not if it may start itself anew and is none of Ansible's own: only those are importable for that.
    """
    if path not in _styles:
        with open(path, "rb") as file:
            source = file.read()
        own = path.startswith(os.path.join(_library, "ansible", "modules", ""))
        _styles[path] = (
            b"AnsibleModule(" in source and b"from ansible.module_utils" in source and (own or b"respawn" not in source)
        )
    return _styles[path]


def _run(path: str, name: str, parameters: bytes, environment: dict[str, Any]) -> None:
    """Be the module: never returns normally."""
    import ansible.module_utils
    from ansible.module_utils import basic
    from ansible.plugins.loader import module_utils_loader

    for ours in [key for key in os.environ if key.startswith(("ANSIBLE_", "HALLIGAN_"))]:
        del os.environ[ours]
    os.environ.update({key: str(value) for key, value in environment.items()})
    with contextlib.suppress(OSError):
        os.chdir(os.path.expanduser("~"))  # where a login would have put it
    basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = parameters, "legacy"
    sys.argv = [path]
    module = name.rpartition(".")[2]
    known = {"_module_fqn": f"ansible.modules.{module}", "_modlib_path": _library}
    libraries = [folder for folder in module_utils_loader._get_paths(subdirs=False) if os.path.isdir(folder)]
    ansible.module_utils.__path__[:0] = libraries  # of Halligan and of the roles loaded so far; they come first
    if os.path.dirname(path) == os.path.join(_library, "ansible", "modules"):
        runpy.run_module(f"ansible.modules.{module}", init_globals=known, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(path, init_globals=known, run_name="__main__")


_library = ""


def in_fork(work: Callable[[], None]) -> tuple[int, str, str]:
    """Run `work` in a fork; return its exit code and what it wrote. Nothing that it changes in memory stays."""
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    child = os.fork()
    if not child:
        code = 1
        try:
            atexit._clear()  # what is to be done at the end is the worker's, not the module's
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    said = []
    for descriptor in (out, err):
        with open(descriptor, "rb") as file:
            file.seek(0)
            said.append(file.read().decode(errors="surrogateescape"))
    return os.waitstatus_to_exitcode(status), said[0], said[1]


def main() -> None:
    global _library  # noqa: PLW0603 - said once, by the only caller
    library, playbook, *options = sys.argv[1:]
    _library = library
    sys.path.insert(0, library)
    inventory = os.dup(0)  # Ansible closes its standard input
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.dup2(sys.stdin.fileno(), 0)
    use_known_yaml(library)
    tools = os.path.dirname(os.path.dirname(playbook))
    from ansible.cli.playbook import PlaybookCLI

    run_modules_in_forks([os.path.join(tools, "plugins", "module_utils")])
    PlaybookCLI.cli_executor(["ansible-playbook", "--inventory", f"/dev/fd/{inventory}", *options, playbook])


if __name__ == "__main__":
    main()
