"""libyaml's complaints in plain words, with the place and what to do."""

from __future__ import annotations

import re

import yaml

from orchestrator.errors import Location, Problem

__all__ = ["explain", "mebibytes", "not_utf8", "odd_key", "tag_hint", "too_big"]

_NOT_ALLOWED = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INDENT = "check the indentation: what belongs together starts in the same column"

# What libyaml says (a part of it) -> what is wrong, what to do
_WORDS = (
    (
        "mapping values are not allowed",
        'a ":" is not expected here',
        'put quotes around a text that holds ": "; ' + _INDENT,
    ),
    ("block sequence entries are not allowed", 'a "-" is not expected here', "start a list on the line below its key"),
    ("did not find expected key", "a key was expected here", _INDENT),
    ("did not find expected '-'", 'a "- " was expected here: this is part of a list', _INDENT),
    ("did not find expected ',' or ']'", 'a "," or the closing "]" is missing', ""),
    ("did not find expected ',' or '}'", 'a "," or the closing "}" is missing', ""),
    ("did not find expected node content", "a value was expected here", ""),
    ("could not find expected ':'", 'a ":" is missing after the key', _INDENT),
    ("found unexpected end of stream", "the closing quote is missing", ""),
    (
        "found unknown escape character",
        'a "\\" in double quotes starts an escape',
        "use single quotes for a text with \\",
    ),
    ("found undefined tag handle", "the tag is not known", "put quotes around a text that begins with !"),
    ("alphabetic or numeric character", "a name was expected here", "put quotes around a text that begins with * or &"),
    ("incompatible YAML", "this YAML version is not supported", "remove the %YAML line"),
    ("expected <document start>", "something is left over after the end of the value", _INDENT),
)


def mebibytes(size: int) -> str:
    return f"{size / 1024 / 1024:.4g} MiB"


def too_big(file: str, limit: int) -> Problem:
    return Problem(
        code="yaml.too-big",
        summary=f"the file is larger than {mebibytes(limit)}",
        where=Location(file=file),
        hint='nodes that differ only by a number fit in one entry: "kvm-[001:900]"',
    )


def not_utf8(file: str, text: bytes, error: UnicodeDecodeError) -> Problem:
    before = text[: error.start]
    line_start = before.rfind(b"\n") + 1
    return Problem(
        code="yaml.encoding",
        summary=f"the file is not UTF-8 text: byte 0x{text[error.start]:02x} is not part of any character",
        where=Location(
            file=file,
            line=before.count(b"\n") + 1,
            column=len(before[line_start:].decode("utf-8", "replace")) + 1,
        ),
        hint="save it as UTF-8",
    )


def explain(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """Return what stopped libyaml, in words."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return _control_character(text, file)
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    summary, hint = _words(error, text, line, column)
    begin = error.context_mark
    where = Location(file=file, line=line + 1, column=column + 1)
    detail: tuple[str, ...] = ()
    if begin and begin.line != line and "scanning for the next token" not in str(error.context):
        detail = (f"in the part that begins at {Location(file=file, line=begin.line + 1, column=begin.column + 1)}",)
    code = "yaml.tab" if "tab" in summary else "yaml.syntax"
    return Problem(code=code, summary=summary, where=where, detail=detail, hint=hint)


def _words(error: yaml.MarkedYAMLError, text: str, line: int, column: int) -> tuple[str, str]:
    problem = str(error.problem)
    lines = text.split("\n")
    at = lines[line][column : column + 1] if line < len(lines) else ""
    if at == "\t" or "tab character" in problem:
        return "a tab is used for indentation", "YAML allows only spaces there"
    if "cannot start any token" in problem:
        return f'a value cannot begin with "{at}"', "put quotes around it"
    if "end of stream" in problem and "quoted" not in str(error.context):
        return "the file ends in the middle of a value", ""
    for part, summary, hint in _WORDS:
        if part in problem:
            return summary, hint
    context = f"{error.context}: " if error.context else ""
    return f"not valid YAML: {context}{problem}", ""


def _control_character(text: str, file: str) -> Problem:
    found = _NOT_ALLOWED.search(text)
    if found is None:
        return Problem(code="yaml.syntax", summary="not valid YAML", where=Location(file=file))
    before = text[: found.start()]
    return Problem(
        code="yaml.encoding",
        summary=f"the character U+{ord(found.group()):04X} is not allowed in YAML",
        where=Location(
            file=file,
            line=before.count("\n") + 1,
            column=found.start() - before.rfind("\n"),
        ),
        hint="remove it; the file may be binary or damaged",
    )


def odd_key(text: str, index: int) -> tuple[str, str]:
    """Return summary and hint for a mapping or list where a key belongs."""
    if text[max(0, index - 1) : index + 1] == "{{":
        return 'a value that begins with "{{" needs quotes', 'write "{{ … }}"'
    return "a key must be text, not a list or a mapping", "put quotes around a key that begins with [ or {"


def tag_hint(tag: str) -> str:
    if tag == "!unsafe":
        return "Halligan passes templates on to Ansible; keep texts with {{ }} out of variables or use {% raw %}"
    return "the only tag is !vault; put quotes around a text that begins with !"
