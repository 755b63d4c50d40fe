"""halligan generate --out DIR"""

from __future__ import annotations

import click

from orchestrator.cli.door import write_file
from orchestrator.errors import HalliganError

_SIZE = click.IntRange(min=0, max=100_000)


@click.command()
@click.option("--out", metavar="DIR", required=True, help="The folder to write; it must be new or empty.")
@click.option(
    "--controllers", type=click.Choice(("1", "3", "5")), default="3", show_default=True, help="An odd number."
)
@click.option("--network", type=_SIZE, default=2, show_default=True, help="Network nodes.")
@click.option("--kvm", type=_SIZE, default=900, show_default=True, help="KVM hosts.")
@click.option("--hyperv", type=_SIZE, default=95, show_default=True, help="Hyper-V hosts.")
def command(out: str, controllers: str, network: int, kvm: int, hyperv: int) -> None:
    """Write an example site of any size.

    Made for planning: its roles have real contracts and empty tasks, so that a plan of it is like that of a real cloud
    while an apply changes nothing. Ten placements per node.
    """
    from pathlib import Path

    from orchestrator.cli import example

    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HalliganError(f"{out} is there already", hint="give --out a new folder")
    files = example.site(controllers=int(controllers), network=network, kvm=kvm, hyperv=hyperv)
    for name, text in files.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HalliganError(f"cannot write {target}: {error.strerror}") from None
        write_file(str(target), text.encode())
    nodes = int(controllers) + network + kvm + hyperv
    click.echo(f"Wrote {out}: {nodes:,} nodes. Look at its plan: halligan plan {out}")
