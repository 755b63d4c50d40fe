"""The edge that collects the files of a site and of its roles; reading them is left to spec and catalog."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from orchestrator.catalog.source import RoleFile, RoleFiles, RoleSource
from orchestrator.errors import HalliganError, Location, Problem, closest
from orchestrator.spec.source import SiteFiles, SourceFile
from orchestrator.yaml import DEFAULT_LIMIT

__all__ = ["HOME", "find_site", "read_roles", "read_site", "role_paths"]

CLUSTER = "cluster.yml"
_EXTENSIONS = ("", ".yml", ".yaml", ".json")  # in Ansible's order: the first that exists counts
_FOLDERS = ("inventories",)

# Not part of what a role does: explanations and tests at its top, editor leftovers and caches anywhere.
_ASIDE_FOLDERS = {"molecule", "tests", "docs", "examples", "changelogs"}
_ASIDE_FILES = re.compile(
    r"(README|CHANGELOG|CHANGES|LICENSE|COPYING|AUTHORS|CONTRIBUTING)\b.*|.*\.md|\..*", re.IGNORECASE
)
_TEXTS = re.compile(r"(tasks|handlers|defaults|vars)/.*\.(yml|yaml|json)$|templates/")
_ENCRYPTED = b"$ANSIBLE_VAULT;"
_LEFTOVERS = re.compile(r".*~|#.*#|\.#.*|\..*\.sw[a-p]|.*\.(orig|rej|bak|pyc|pyo)|__pycache__|\.DS_Store|\.git|4913")


# --- sites --------------------------------------------------------------------------------------------------------


def find_site(site: str | Path) -> Path:
    """Return the folder of a site, given the folder, its cluster.yml, or a name under inventories/ here or above."""
    given = Path(site)
    if given.name == CLUSTER and given.is_file():
        return _named(given.parent)
    if (given / CLUSTER).is_file():
        return _named(given)
    if len(given.parts) == 1 and not given.is_absolute():
        for above in (Path(), *Path.cwd().parents):
            for folder in _FOLDERS:
                if (above / folder / given / CLUSTER).is_file():
                    return above / folder / given
    raise _no_site(given)


def _named(folder: Path) -> Path:
    """Return the folder by a path that ends in its name: a site is called like its folder."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def _no_site(given: Path) -> HalliganError:
    if given.is_dir():
        return HalliganError(f"{given} is not a site: it has no {CLUSTER}", hint=f"a site is a folder with a {CLUSTER}")
    around = given.parent if given.parent.is_dir() else Path()
    named = sorted(path.parent.name for path in around.glob(f"*/{CLUSTER}"))
    listed = sorted(path.parent.name for folder in _FOLDERS for path in Path(folder).glob(f"*/{CLUSTER}"))
    known = named or listed
    return HalliganError(
        f"there is no site {given}.{closest(given.name, known)}",
        detail=[f"sites here: {', '.join(known[:20])}"] if known else [],
        hint=f"a site is a folder with a {CLUSTER}, such as inventories/lab",
    )


def read_site(path: str | Path) -> SiteFiles:
    """Return the files of a site. Raises HalliganError when there is no such site or a file cannot be read."""
    folder = find_site(path)
    problems: list[Problem] = []
    group_vars = _vars_files(folder, "group_vars", problems)
    host_vars = _vars_files(folder, "host_vars", problems)
    absolute = folder.resolve()
    return SiteFiles(
        site=absolute.name,
        folder=str(absolute),
        cluster=_source(folder, folder / CLUSTER),
        home=str(Path.home()),
        group_vars=group_vars,
        host_vars=host_vars,
        problems=tuple(problems),
    )


def _vars_files(site: Path, kind: str, problems: list[Problem]) -> dict[str, tuple[SourceFile, ...]]:
    """Return vars files by the group or host they are for, as Ansible finds them."""
    folder = site / kind
    if not folder.is_dir():
        return {}
    found: dict[str, tuple[SourceFile, ...]] = {}
    for path in sorted(folder.iterdir()):
        name = _owner(path)
        if not name or name in found:
            continue
        candidates = [folder / f"{name}{extension}" for extension in _EXTENSIONS]
        first, *others = [candidate for candidate in candidates if candidate.exists()]
        problems.extend(_shadowed(other, first) for other in others)
        files = _inside(first) if first.is_dir() else [first]
        found[name] = tuple(_source(site, file) for file in files)
    return found


def _owner(path: Path) -> str:
    """Return the group or host that a vars file or folder is for; empty: it is for none."""
    if path.name.startswith(".") or path.name.endswith("~"):
        return ""
    if path.is_dir():
        return path.name
    extension = next((end for end in _EXTENSIONS[1:] if path.name.endswith(end)), "")
    return path.name.removesuffix(extension)


def _inside(folder: Path) -> Iterator[Path]:
    """Yield the vars files of a folder, sorted by name, folders in it included."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        if path.is_dir():
            if not path.suffix:
                yield from _inside(path)
        elif path.suffix in _EXTENSIONS:
            yield path


def _shadowed(path: Path, by: Path) -> Problem:
    return Problem(
        code="spec.shadowed-vars",
        summary=f"this file is not read, by Ansible neither, because {by} exists",
        where=Location(file=str(path)),
        hint=f"move it to {by / 'vars.yml'}" if by.is_dir() else "merge the two files",
        severity="warning",
    )


def _source(site: Path, path: Path) -> SourceFile:
    return SourceFile(path=path.relative_to(site).as_posix(), shown=str(path), text=_read(path))


def _read(path: Path) -> bytes:
    """Return the content of a file, and not much more than the limit of one that is too big."""
    try:
        with path.open("rb") as file:
            return file.read(DEFAULT_LIMIT + 1)
    except OSError as error:
        raise HalliganError(f"cannot read {path}: {error.strerror}") from None


# --- roles --------------------------------------------------------------------------------------------------------


HOME = Path(__file__).resolve().parents[1]
"""Halligan's own tree: its playbooks, plugins, ansible.cfg and the roles that come with it."""


def role_paths(site: str | Path, explicit: Iterable[str | Path] = ()) -> list[Path]:
    """Return the folders that hold a site's roles, nearest first.

    Its own, then the explicit ones or else those of the project that it is in (the nearest folder above it with a
    roles/), then the ones that come with Halligan.
    """
    folder = find_site(site)
    listed = [Path(path) for path in explicit]
    for path in listed:
        if not path.is_dir():
            raise HalliganError(f"there is no roles folder {path}")
    above = (parent / "roles" for parent in folder.absolute().parents)
    project = [_short(path) for path in above if path.is_dir()][:1]
    found = [folder / "roles", *(listed or project), _short(HOME / "roles")]
    return [path for path in dict.fromkeys(found) if path.is_dir()]


def _short(path: Path) -> Path:
    """Return a path as seen from here, when it is below here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def read_roles(paths: Iterable[str | Path]) -> RoleFiles:
    """Return the roles in these folders; of two with one name, the one in the earlier folder."""
    found: dict[str, RoleSource] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise HalliganError(f"there is no roles folder {path}")
        for role in sorted(path.iterdir()):
            if role.is_dir() and not role.name.startswith(".") and role.name not in found:
                found[role.name] = _role(role)
    return RoleFiles(roles=tuple(found[name] for name in sorted(found)))


def _role(role: Path) -> RoleSource:
    files = {
        name: RoleFile(shown=str(path), text=_read(path))
        for name, stem in (
            ("contract", "meta/contract"),
            ("specs", "meta/argument_specs"),
            ("meta", "meta/main"),
            ("defaults", "defaults/main"),
            ("vars", "vars/main"),
        )
        if (path := _first(role, stem))
    }
    contents = _contents(role)
    return RoleSource(
        name=role.name,
        path=str(role.resolve()),
        shown=str(role),
        has_remove=_first(role, "tasks/remove") is not None,
        digest=_digest(contents),
        texts={name: content for name, (_, content) in contents.items() if _TEXTS.match(name)},
        encrypted=next((name for name, (_, content) in contents.items() if content.startswith(_ENCRYPTED)), ""),
        **files,
    )


def _first(role: Path, stem: str) -> Path | None:
    return next((path for end in _EXTENSIONS[1:3] if (path := role / f"{stem}{end}").is_file()), None)


def _contents(role: Path) -> dict[str, tuple[bytes, bytes]]:
    """Return kind and content of all files that decide what a role does, by their path in it."""
    found = {}
    for path in sorted(_deciding(role), key=lambda path: path.relative_to(role).as_posix()):
        if path.is_symlink() and not path.is_file():
            kind, content = b"link", str(path.readlink()).encode()
        else:
            kind, content = (b"x" if path.stat().st_mode & 0o100 else b"-"), _read(path)
        found[path.relative_to(role).as_posix()] = kind, content
    return found


def _digest(contents: Mapping[str, tuple[bytes, bytes]]) -> str:
    digest = hashlib.sha256()
    for path, (kind, content) in contents.items():
        name = path.encode()
        digest.update(b"%d %s %s %d\n" % (len(name), name, kind, len(content)))
        digest.update(content)
    return digest.hexdigest()


def _deciding(role: Path) -> Iterator[Path]:
    for path in role.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name not in _ASIDE_FOLDERS and not path.name.startswith("."):
                yield from _all_files(path)
        elif not _ASIDE_FILES.fullmatch(path.name) and not _LEFTOVERS.fullmatch(path.name):
            yield path


def _all_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if _LEFTOVERS.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _all_files(path)
        else:
            yield path
