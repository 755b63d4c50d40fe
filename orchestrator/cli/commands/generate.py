"""halligan generate --out DIR"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.door import write_file
from orchestrator.errors import HalliganError

_SIZE = click.IntRange(min=0, max=60_000)


@click.command()
@click.option("--out", metavar="DIR", required=True, help="The folder to write; it must be new or empty.")
@click.option("--controllers", type=click.IntRange(min=0, max=200), default=3, show_default=True, help="Controllers.")
@click.option("--network", type=_SIZE, default=2, show_default=True, help="Network nodes.")
@click.option("--kvm", type=_SIZE, default=900, show_default=True, help="KVM hosts.")
@click.option("--hyperv", type=_SIZE, default=95, show_default=True, help="Hyper-V hosts.")
def command(out: str, controllers: int, network: int, kvm: int, hyperv: int) -> None:
    """Write an example site of any size.

    Made for planning: none of its machines exists. It uses the roles of the project that DIR is in, or those of
    --roles-path.
    """
    from orchestrator import generate

    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HalliganError(f"{out} is there already", hint="give --out a new folder")
    for name, text in generate.site(controllers=controllers, network=network, kvm=kvm, hyperv=hyperv).items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HalliganError(f"cannot write {target}: {error.strerror}") from None
        write_file(str(target), text.encode())
    click.echo(f"Wrote {out}: {controllers + network + kvm + hyperv:,} nodes. Look at its plan: halligan plan {out}")
