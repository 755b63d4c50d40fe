"""halligan schema"""

from __future__ import annotations

import json

import click

from orchestrator.cli.door import show, write_file


@click.command()
@click.option("--out", metavar="FILE", default="", help="Write it there instead of printing it.")
def command(out: str) -> None:
    """Print the JSON Schema of cluster.yml, for editors.

    Editors with the YAML language server complete and check a spec that begins with
    `# yaml-language-server: $schema=PATH-TO-FILE`.
    """
    from orchestrator import spec

    text = json.dumps(spec.json_schema(), indent=2, ensure_ascii=False) + "\n"
    if out:
        write_file(out, text.encode())
        click.echo(f"Wrote {out}")
    else:
        show(text)
