"""Variables that hold encrypted values: a reference takes their place, so that no secret travels with a spec."""

from __future__ import annotations

from orchestrator import yaml
from orchestrator.errors import HalliganError, Location, Problem, ProblemsError
from orchestrator.model import Json, SecretRef, Value
from orchestrator.spec.source import Decrypt, SourceFile

__all__ = ["HEADER", "Sealer", "is_encrypted"]

HEADER = "$ANSIBLE_VAULT;"


def is_encrypted(text: bytes) -> bool:
    """Whether a whole file is encrypted with Ansible Vault."""
    return text.lstrip().startswith(HEADER.encode())


class Sealer:
    """Turns encrypted values into SecretRefs. Notes what cannot be opened; has inner state until `problems`."""

    def __init__(self, secrets: Decrypt) -> None:
        self._secrets = secrets
        self._opened: dict[str, Json] = {}
        self._failures: dict[tuple[str, str], list[Location]] = {}

    def file(self, source: SourceFile) -> dict[str, Value]:
        """Return the variables of a vars file. Raises ProblemsError."""
        if is_encrypted(source.text):
            return self._encrypted_file(source)
        document = yaml.read(source.text, source.shown)
        return self.variables(document, _mapping(document), source.path)

    def variables(
        self, document: yaml.Document, values: dict[str, Json], file: str, prefix: str = ""
    ) -> dict[str, Value]:
        """Return `values` with a SecretRef for every variable that holds an encrypted value.

        `prefix` is where the variables stand in the file: "" or "nodes/ctl-1/vars/".
        """
        if not document.vaulted:
            return values
        return {
            name: self._ref(document, value, file, prefix + name) if _holds_vaulted(value) else value
            for name, value in values.items()
        }

    def problems(self) -> list[Problem]:
        """Return one problem per reason, however many files and values it concerns."""
        return [
            Problem(
                code="vault.locked",
                summary=summary,
                where=places[0],
                detail=tuple(f"also needed for {place}" for place in dict.fromkeys(places[1:])),
                hint=hint,
            )
            for (summary, hint), places in self._failures.items()
        ]

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

    def _ref(self, document: yaml.Document, value: Json, file: str, key: str) -> SecretRef:
        try:
            return SecretRef(file=file, key=key, fingerprint=self._secrets.fingerprint(self.reveal(value)))
        except HalliganError as error:
            self._failed(error, document.where(tuple(key.split("/"))))
            return SecretRef(file=file, key=key, fingerprint="")

    def _encrypted_file(self, source: SourceFile) -> dict[str, Value]:
        where = Location(file=source.shown)
        try:
            text = self._secrets.decrypt(source.text.decode("utf-8", "replace"))
        except HalliganError as error:
            self._failed(error, where)
            return {}
        try:
            document = yaml.read(text, source.shown)
        except ProblemsError as error:
            problem = error.problems[0]  # its words may quote the content: only the place is told
            raise ProblemsError(
                [
                    Problem(
                        code=problem.code,
                        summary=f"the decrypted text is not valid YAML at {problem.where}",
                        where=where,
                        hint=f"ansible-vault edit {source.shown}",
                    ),
                ],
            ) from None
        values = _mapping(document)
        fingerprint = self._secrets.fingerprint
        return {
            key: SecretRef(file=source.path, key=key, fingerprint=fingerprint(self.reveal(value)))
            for key, value in values.items()
        }

    def _failed(self, error: HalliganError, where: Location) -> None:
        self._failures.setdefault((error.summary, error.hint), []).append(where)


def _mapping(document: yaml.Document) -> dict[str, Json]:
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
