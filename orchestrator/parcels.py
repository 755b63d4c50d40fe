"""What a host may lack, as content-addressed trees of files: a role, Halligan's playbook and plugins, ansible-core.

A parcel is named by a digest of its files alone (mode, size, content, path), so that a host can prove that what it
kept is what it was sent: `on_host/serve.py` computes the same digest over the unpacked tree before each use.

The parcel "ansible" is ansible-core with jinja2, markupsafe, packaging, resolvelib and PyYAML from this very
installation, without compiled extensions: it runs on any Linux Python that ansible-core supports. YAML parsed by pure
Python is slow, so the texts that Ansible parses at each start (its settings, its plugins' documentation) travel
parsed: `known.json`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import json
import lzma
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ON_HOST",
    "Parcel",
    "ansible_parcel",
    "ansible_version",
    "known_key",
    "read_tree",
    "role_files",
    "tree_digest",
    "tree_parcel",
    "unpack",
]

ON_HOST = Path("/var/cache/halligan/parcels")
"""Where a host keeps parcels, and where images that we build have the one of ansible-core already."""

_LIBRARIES = ("ansible-core", "jinja2", "markupsafe", "packaging", "resolvelib", "pyyaml")
# Of ansible-core, what a play needs: neither its other commands, nor collections' tools, nor modules for Windows.
_ASIDE = ("ansible/galaxy/", "ansible/cli/galaxy.py", "ansible/cli/doc.py", "ansible_test/")
_LARGE = 1024 * 1024
_DOCUMENTED = ("connection", "shell", "become", "callback", "strategy", "inventory", "cache", "vars", "doc_fragments")

Tree = Mapping[str, tuple[int, bytes]]  # path inside -> permission bits, content


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A tree of files packed as tar.xz; `digest` is that of the tree, not of the packing."""

    kind: str
    digest: str
    content: bytes

    @property
    def name(self) -> str:
        """What its folder on a host is called."""
        return f"{self.kind}-{self.digest}"


def tree_digest(tree: Tree) -> str:
    """Return the digest that names a tree: SHA-256 over a line per file."""
    digest = hashlib.sha256()
    for path in sorted(tree):
        mode, content = tree[path]
        digest.update(f"{mode:o} {len(content)} {hashlib.sha256(content).hexdigest()} {path}\n".encode())
    return digest.hexdigest()


def tree_parcel(kind: str, tree: Tree) -> Parcel:
    """Pack a tree. The same tree gives the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree):
            mode, content = tree[path]
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(content), mode, 1
            archive.addfile(member, io.BytesIO(content))
    content = plain.getvalue()
    preset = 6 if len(content) > _LARGE else 1  # 94 MB of memory while it packs, or 10
    return Parcel(kind=kind, digest=tree_digest(tree), content=lzma.compress(content, preset=preset))


def role_files(role: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a role that a play may need, by their paths in it."""
    for path in sorted(role.rglob("*")):
        inside = path.relative_to(role)
        if (
            path.is_file()
            and inside.parts[0] not in ("molecule", "tests", "docs")
            and "__pycache__" not in inside.parts
        ):
            yield inside.as_posix(), path


def read_tree(files: Mapping[str, Path]) -> dict[str, tuple[int, bytes]]:
    """Return a tree of files; links are followed, of the permissions only the owner's x counts."""
    return {name: (0o755 if os.access(path, os.X_OK) else 0o644, path.read_bytes()) for name, path in files.items()}


def unpack(parcel: Parcel, folder: Path) -> Path:
    """Put a parcel below a folder as a host would keep it; used when images are built. Returns its own folder."""
    target = folder / parcel.name
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(parcel.content))) as archive:
        for member in archive:
            path = target / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            file = archive.extractfile(member)
            path.write_bytes(file.read() if file else b"")
            path.chmod(member.mode)
            os.utime(path, (member.mtime, member.mtime))
    return target


def ansible_parcel(cache: Path) -> Parcel:
    """Return the parcel of ansible-core, packed once per set of versions and kept in `cache`."""
    kept = cache / f"ansible-{ansible_version()}"
    if kept.exists():
        said, _, content = kept.read_bytes().partition(b"\n")
        digest, _, proof = said.decode(errors="replace").partition(" ")
        if proof == hashlib.sha256(content).hexdigest():  # else this machine went down while it was written
            return Parcel(kind="ansible", digest=digest, content=content)
    parcel = tree_parcel("ansible", _ansible_tree())
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as fresh:
        fresh.write(f"{parcel.digest} {hashlib.sha256(parcel.content).hexdigest()}\n".encode() + parcel.content)
    Path(fresh.name).rename(kept)
    return parcel


def ansible_version() -> str:
    """Name what `ansible_parcel` packs, without packing it: the versions of the libraries, and how this file packs."""
    versions = [importlib.metadata.version(name) for name in _LIBRARIES]
    return hashlib.sha256("\n".join([*versions, Path(__file__).read_text()]).encode()).hexdigest()[:16]


def known_key(base: bool, text: str) -> str:
    """Return the key of a YAML text in known.json; `base`: read with scalars left as strings."""
    return hashlib.sha256(f"{'base' if base else 'safe'} {text}".encode()).hexdigest()[:32]


def _ansible_tree() -> dict[str, tuple[int, bytes]]:
    tree: dict[str, tuple[int, bytes]] = {}
    for name in _LIBRARIES:
        for file in importlib.metadata.files(name) or ():
            path = file.as_posix()
            if _is_wanted(path):
                tree[path] = (0o644, file.locate().read_bytes())  # type: ignore[attr-defined]  # a Path by contract
    tree["known.json"] = (0o644, json.dumps(dict(_known(tree)), separators=(",", ":"), sort_keys=True).encode())
    return tree


def _is_wanted(path: str) -> bool:
    folder, _, rest = path.partition("/")
    if folder.endswith(".dist-info"):
        return rest == "METADATA"  # Ansible asks for versions
    return (
        folder in ("ansible", "jinja2", "markupsafe", "packaging", "resolvelib", "yaml")
        and not path.startswith(_ASIDE)
        and path.endswith((".py", ".yml", ".yaml", ".j2", ".txt"))
    )


def _known(tree: Tree) -> Iterator[tuple[str, object]]:
    """Yield the YAML that every run of Ansible parses, by the key of its text."""
    import yaml

    texts = [(False, tree["ansible/config/base.yml"][1].decode())]
    texts.append((True, tree["ansible/config/ansible_builtin_runtime.yml"][1].decode()))
    for path, (_, content) in tree.items():
        if path.endswith(".py") and path.startswith(tuple(f"ansible/plugins/{kind}/" for kind in _DOCUMENTED)):
            texts += [(False, text) for text in _documentation(content.decode())]
    for base, text in texts:
        try:
            value = yaml.load(text, Loader=yaml.CBaseLoader if base else yaml.CSafeLoader)  # noqa: S506 - both are safe
            json.dumps(value)
        except (yaml.YAMLError, TypeError):
            continue  # what JSON cannot hold stays text
        yield known_key(base, text), value


def _documentation(source: str) -> Iterator[str]:
    """Yield the texts that a plugin's module or its doc fragment assigns to names in capitals."""
    for top in ast.parse(source).body:
        for statement in top.body if isinstance(top, ast.ClassDef) else [top]:
            if (
                isinstance(statement, ast.Assign)
                and isinstance(statement.targets[0], ast.Name)
                and statement.targets[0].id.isupper()
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.value.value
