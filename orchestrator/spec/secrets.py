"""Variables that hold encrypted values: a reference takes their place, so that no secret travels with a spec."""

from __future__ import annotations

import re

from orchestrator import yaml
from orchestrator.errors import HalliganError, Location, Problem, ProblemsError
from orchestrator.model import Json, SecretRef, Value
from orchestrator.spec.source import Decrypt, SourceFile
from orchestrator.yaml import Document, Findings, Path

__all__ = ["HEADER", "Sealer", "is_encrypted"]

HEADER = "$ANSIBLE_VAULT;"
_SHOWN = 20  # places named in a problem that concerns many


def is_encrypted(text: bytes) -> bool:
    """Whether a whole file is encrypted with Ansible Vault."""
    return text.lstrip().startswith(HEADER.encode())


class Sealer:
    """Turns encrypted values into SecretRefs. Notes what cannot be opened; has inner state until `problems`."""

    def __init__(self, secrets: Decrypt) -> None:
        self._secrets = secrets
        self._opened: dict[str, Json] = {}
        self._findings: dict[str, Findings] = {}  # by file
        self._locked: dict[tuple[str, str], list[tuple[Document, Path]]] = {}  # by summary and hint

    def file(self, source: SourceFile) -> dict[str, Value]:
        """Return the variables of a vars file. Raises ProblemsError."""
        if is_encrypted(source.text):
            return self._encrypted_file(source)
        document = yaml.read(source.text, source.shown)
        return self.variables(document, _mapping(document), source.path)

    def variables(self, document: Document, values: dict[str, Json], file: str, prefix: str = "") -> dict[str, Value]:
        """Return `values` with a SecretRef for every variable that holds an encrypted value.

        `prefix` is where the variables stand in the file: "" or "nodes/ctl-1/vars/".
        """
        for name in values:
            if not (name.isidentifier() and name.isascii()):
                self._bad_name(document, _path(prefix + name))
        if not document.vaulted:
            return values
        return {
            name: self._ref(document, value, file, prefix + name) if _holds_vaulted(value) else value
            for name, value in values.items()
        }

    def problems(self) -> list[Problem]:
        """Return one problem per reason, however many files and values it concerns."""
        found = [problem for findings in self._findings.values() for problem in findings.problems()]
        for (summary, hint), uses in self._locked.items():
            places = _places(uses)
            detail = [f"also needed for {place}" for place in places[1:_SHOWN]]
            if len(places) > _SHOWN:
                detail.append(f"and for {len(places) - _SHOWN} more")
            found.append(
                Problem(code="vault.locked", summary=summary, where=places[0], detail=tuple(detail), hint=hint),
            )
        return found

    def reveal(self, value: Json) -> Json:
        """Return a value with everything in it decrypted."""
        match value:
            case yaml.Vaulted():
                if value.text not in self._opened:
                    self._opened[value.text] = self._secrets.decrypt(value.text)
                return self._opened[value.text]
            case dict():
                return {key: self.reveal(item) for key, item in value.items()}
            case list():
                return [self.reveal(item) for item in value]
        return value

    def _ref(self, document: Document, value: Json, file: str, key: str) -> SecretRef:
        try:
            return SecretRef(file=file, key=key, fingerprint=self._secrets.fingerprint(self.reveal(value)))
        except HalliganError as error:
            self._locked.setdefault((error.summary, error.hint), []).append((document, _path(key)))
            return SecretRef(file=file, key=key, fingerprint="")

    def _encrypted_file(self, source: SourceFile) -> dict[str, Value]:
        try:
            text = self._secrets.decrypt(source.text.decode("utf-8", "replace"))
        except HalliganError as error:
            whole = Document(file=source.shown, text="", data=None)
            self._locked.setdefault((error.summary, error.hint), []).append((whole, ()))
            return {}
        try:
            values = _mapping(yaml.read(text, source.shown))
        except ProblemsError as error:
            raise ProblemsError([_veiled(error.problems[0], source.shown)]) from None
        fingerprint = self._secrets.fingerprint
        return {
            key: SecretRef(file=source.path, key=key, fingerprint=fingerprint(self.reveal(value)))
            for key, value in values.items()
        }

    def _bad_name(self, document: Document, path: Path) -> None:
        name = str(path[-1])
        better = re.sub(r"\W", "_", name, flags=re.ASCII)
        self._findings.setdefault(document.file, Findings(document)).error(
            "spec.variable-name",
            path,
            f'"{name}" is not a variable name: letters, digits and "_", no digit first',
            hint=f'for example "{better if better.isidentifier() else "_" + better}"',
        )


def _path(key: str) -> Path:
    """Return a reference's key as a path; names of variables, groups and nodes hold no slash."""
    return tuple(key.split("/", 3))


def _places(uses: list[tuple[Document, Path]]) -> list[Location]:
    """Return where the uses are, by one scan per document."""
    paths: dict[str, tuple[Document, list[Path]]] = {}
    for document, path in uses:
        paths.setdefault(document.file, (document, []))[1].append(path)
    places: dict[Location, None] = {}
    for document, wanted in paths.values():
        found = yaml.locate_all(document.text, document.file, wanted)
        places |= dict.fromkeys(found[path] for path in wanted)
    return list(places)


def _veiled(problem: Problem, shown: str) -> Problem:
    """Return what is wrong with a decrypted text without its words, which may quote the content."""
    return Problem(
        code=problem.code,
        summary=f"the decrypted text has a mistake at {problem.where}",
        where=Location(file=shown),
        hint=f"ansible-vault edit {shown}",
    )


def _mapping(document: Document) -> dict[str, Json]:
    if document.data is None:
        return {}
    if isinstance(document.data, dict):
        return document.data
    where = Location(file=document.file, line=1, column=1)
    raise ProblemsError(
        [Problem(code="spec.vars-file", summary="a vars file must be a mapping (name: value)", where=where)],
    )


def _holds_vaulted(value: Json) -> bool:
    match value:
        case yaml.Vaulted():
            return True
        case dict():
            return any(_holds_vaulted(item) for item in value.values())
        case list():
            return any(_holds_vaulted(item) for item in value)
    return False
