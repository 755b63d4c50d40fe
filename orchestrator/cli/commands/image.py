"""halligan image build|import|list|show|verify|remove"""

from __future__ import annotations

import click

from orchestrator.cli.door import Door, pass_door, show


@click.group()
def command() -> None:
    """Build, import and list operating system images.

    They are kept in /var/lib/halligan/images, or in the folder that HALLIGAN_IMAGES_DIR names.
    """


def _report(line: str) -> None:
    click.echo(line, err=True)


@command.command()
@click.argument("what", metavar="debian-12|discovery", type=click.Choice(["debian-12", "discovery"]))
@click.option(
    "--kernel",
    type=click.Choice(["cloud", "generic"]),
    default="cloud",
    help="cloud (default) drives virtual machines only, generic drives real hardware, too.",
)
@click.option("--name", metavar="NAME", default="", help="What the image is called.  [default: debian-12]")
@click.option("--again", is_flag=True, help="Build Debian 12 even if it is there, for newer packages.")
@pass_door
def build(door: Door, what: str, kernel: str, name: str, *, again: bool) -> None:
    """Build an image from Debian's packages: Debian 12 itself, or what machines are discovered with.

    An image of the same recipe is kept. Needs root, and a minute or two.
    """
    from orchestrator import files
    from orchestrator.cli.views.images import image_text
    from orchestrator.service.metal import AGENT, RECIPE, cache_dir

    if what == "discovery":
        from orchestrator.images import discovery

        if name or again:
            raise click.UsageError("--name and --again are for debian-12: the discovery image is named by its recipe")
        made = discovery.build(cache_dir(), _report, kernel=kernel, agent=AGENT, recipe=RECIPE)
        click.echo(made.folder)
        return
    from orchestrator.images import debian
    from orchestrator.images.library import Library

    library = Library()
    recipe = files.HOME / "pxe" / what
    image = debian.build(
        library, cache_dir(), _report, recipe=recipe, name=name or debian.NAME, kernel=kernel, again=again
    )
    look = door.look()
    show(image_text(image, str(library.path(image)), look, packages=False), look)


@command.command("import")
@click.argument("file", type=click.Path())
@click.option("--name", required=True, metavar="NAME", help="What the image is called, such as ubuntu-24.04.")
@click.option("--checksum", metavar="HEX", default="", help="The file's SHA-256 or SHA-512, as its publisher says.")
@click.option("--os", "system", type=click.Choice(["linux", "windows"]), help="Refuse an image of anything else.")
@click.option(
    "--seed",
    type=click.Choice(["nocloud", "configdrive"]),
    help="How its first start is told who it is.  [default: nocloud for Linux, configdrive for Windows]",
)
@pass_door
def import_(door: Door, file: str, name: str, checksum: str, system: str | None, seed: str | None) -> None:
    """Take in a disk image: qcow2, VMDK, VHDX, VHD or raw.

    It must be a whole disk that starts by itself, with cloud-init or cloudbase-init in it.
    """
    from pathlib import Path

    from orchestrator.cli.views.images import image_text
    from orchestrator.images.importing import import_image
    from orchestrator.images.library import Library

    library = Library()
    image = import_image(Path(file), name, library, _report, checksum=checksum, os=system or "", seed=seed or "")
    look = door.look()
    show(image_text(image, str(library.path(image)), look, packages=False), look)


@command.command("list")
@pass_door
def list_(door: Door) -> None:
    """List the images; names in a profile mean the newest of theirs."""
    from orchestrator.cli.views.images import images_text
    from orchestrator.images.library import Library

    library, look = Library(), door.look()
    show(images_text(library.images(), [library.current_id(name) for name in library.names()], look), look)


@command.command("show")
@click.argument("name")
@click.option("--packages", is_flag=True, help="List the packages of an image that was built here.")
@pass_door
def show_(door: Door, name: str, *, packages: bool) -> None:
    """Show an image in full."""
    from orchestrator.cli.views.images import image_text
    from orchestrator.images.library import Library

    library, look = Library(), door.look()
    image = library.find(name)
    show(image_text(image, str(library.path(image)), look, packages=packages), look)


@command.command()
@click.argument("name")
def verify(name: str) -> None:
    """Read an image as a whole and compare it with its checksum."""
    from orchestrator.images.library import Library

    library = Library()
    image = library.find(name)
    library.verify(image)
    click.echo(f"{image.id} is whole: {image.size:,} bytes, SHA-256 {image.sha256}")


@command.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, *, yes: bool) -> None:
    """Remove an image with its older versions, or by its full id one version that is not current.

    Machines that were installed from it keep what they have.
    """
    from orchestrator.cli.asking import agreed
    from orchestrator.images.library import Library

    library = Library()
    found = library.find(name)
    if yes or agreed(f"Remove {'the version ' + name if name == found.id else 'every version of ' + name}?"):
        for image in library.remove(name):
            click.echo(f"removed {image.id}")
