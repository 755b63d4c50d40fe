"""cloud-config: our user and our rules, and what a profile may add to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from orchestrator.errors import Problem, ProblemsError
from orchestrator.model import Json
from orchestrator.seed.values import Host, problem

OURS_ALONE: Mapping[str, str] = {
    "ssh_deletekeys": "the controller knows the host key that the installer made",
    "ssh_genkeytypes": "the controller knows the host key that the installer made",
    "ssh_keys": "the controller knows the host key that the installer made, and a private key would be in the store",
    "growpart": "the installer has grown the partition",
    "user": "it would replace the user that we log in as; add yours to `users`",
    "system_info": "it would replace the user that we log in as; add yours to `users`",
    "ssh_authorized_keys": "they would go to root, which cannot log in; add a user with them to `users`",
    "password": "passwords are closed, and this one would be in plans and in the store",
    "chpasswd": "passwords are closed, and these would be in plans and in the store",
    "hostname": "the host is called as its node",
    "fqdn": "the host is called as its node",
    "preserve_hostname": "the host is called as its node",
    "network": "cloud-init does not read it here; use the profile's `interfaces`",
    "cloud_init_modules": "it could leave out the module that makes our user",
    "cloud_config_modules": "it could leave out a module that we rely on",
    "cloud_final_modules": "it could leave out a module that we rely on",
    "merge_how": "we merge ourselves: mappings deep, lists appended",
    "merge_type": "we merge ourselves: mappings deep, lists appended",
}
"""Keys that a profile cannot set, and why."""

FIXED: Mapping[str, Json] = {"disable_root": True, "ssh_pwauth": False}
"""Keys that a profile may repeat, but not change."""

SECRETS = ("passwd", "hashed_passwd", "plain_text_passwd", "hashed-passwd", "plain-text-passwd")


def cloud_config(host: Host) -> str:
    """Return the user-data of a host.

    Raises:
        ProblemsError: what the profile adds would remove our user, open passwords or contradict ours.
    """
    problems = list(_refused(host))
    if problems:
        raise ProblemsError(problems)
    clashes: list[Problem] = []
    merged = _merge(host, ours(host), host.user_data, (), clashes)
    if clashes:
        raise ProblemsError(clashes)
    return "#cloud-config\n" + dump(merged)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, for whoever reads a seed on the machine."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump(value: Json) -> str:
    """Return YAML in plain ASCII: as it is, some line ends of Unicode are not read back as they were written."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=False, width=1000)


def ours(host: Host) -> dict[str, Json]:
    """Return what every system of ours is told, before a profile adds to it."""
    config: dict[str, Json] = {
        "users": [
            {
                "name": host.user,
                "gecos": "Halligan",
                "lock_passwd": True,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": list(host.authorized_keys),
            }
        ],
        "disable_root": True,
        "ssh_pwauth": False,
        # The installer put a host key there and told us its public half. Others would be keys that nobody knows.
        "ssh_deletekeys": False,
        "ssh_genkeytypes": ["ed25519"],
        "growpart": {"mode": "off"},
    }
    if host.write_files:
        config["write_files"] = [
            {"path": file.path, "content": file.content, "permissions": file.permissions} for file in host.write_files
        ]
    return config


# --- what a profile cannot do -------------------------------------------------------------------------------------


def _refused(host: Host) -> Iterator[Problem]:
    yield from _odd(host, host.user_data, ())
    for key, value in host.user_data.items():
        if key in OURS_ALONE:
            yield problem(host, "user-data", f"user_data cannot set `{key}`: {OURS_ALONE[key]}", "leave it out")
        elif key in FIXED and value is not FIXED[key]:
            yield problem(
                host,
                "user-data",
                f"user_data cannot set `{key}` to {value!r}: nobody logs in as root or with a password",
                "leave it out",
            )
    yield from _users(host)


def _users(host: Host) -> Iterator[Problem]:
    users = host.user_data.get("users", [])
    if not isinstance(users, list):
        yield problem(host, "user-data", "`users` in user_data must be a list: it is appended to ours")
        return
    for entry in users:
        if isinstance(entry, str):
            entry = {"name": entry}  # noqa: PLW2901 - cloud-init's short form
        if not isinstance(entry, Mapping):
            yield problem(host, "user-data", f"`users` in user_data holds {entry!r}, which is no user")
            continue
        name = entry.get("name")
        if name == host.user:
            yield problem(
                host, "user-data", f"user_data cannot change {name}, the user that we log in as", "leave it out"
            )
        if name == "root":
            yield problem(host, "user-data", "user_data cannot open root: nobody logs in as root", "add another user")
        opened = sorted({key for key in SECRETS if key in entry})
        if opened or entry.get("lock_passwd", entry.get("lock-passwd", True)) is not True:
            how = ", ".join(opened) or "lock_passwd"
            yield problem(
                host,
                "user-data",
                f"user_data cannot give the user {name} a password ({how}): it would be in plans and in the store",
                "give the user ssh_authorized_keys",
            )


def _odd(host: Host, value: Json, path: tuple[str, ...]) -> Iterator[Problem]:
    """Yield values that are not plain data: a reference to a secret must not be written out."""
    match value:
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield problem(host, "user-data", f"user_data.{'.'.join(path)}: the key {key!r} is not text")
                    continue
                yield from _odd(host, item, (*path, key))
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _odd(host, item, (*path, str(index)))
        case None | str() | bool() | int() | float():
            return
        case _:
            yield problem(
                host,
                "user-data",
                f"user_data.{'.'.join(path)} is no plain value",
                "a seed holds no secrets; give them to a role, which gets them over SSH",
            )


# --- merging ------------------------------------------------------------------------------------------------------


def _merge(host: Host, old: Json, new: Json, path: tuple[str, ...], clashes: list[Problem]) -> Json:
    """Return both: mappings deep, lists appended, anything else the new one."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        both = {key: value for key, value in old.items() if key not in new}
        changed = {
            key: _merge(host, old[key], value, (*path, key), clashes) if key in old else _plain(value)
            for key, value in new.items()
        }
        return {key: both.get(key, changed.get(key)) for key in [*old, *(key for key in new if key not in old)]}
    if isinstance(old, list) and isinstance(new, list | tuple):
        return [*old, *(_plain(item) for item in new)]
    if isinstance(old, Mapping | list) or isinstance(new, Mapping | list | tuple):
        kind = "mapping" if isinstance(old, Mapping) else "list" if isinstance(old, list) else "single value"
        clashes.append(problem(host, "user-data", f"`{'.'.join(path)}` in user_data must be a {kind}, as ours is"))
        return old
    return new


def _plain(value: Json) -> Json:
    """Return the value in the types that the YAML writer knows."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
