"""The recipe of the discovery image, and the pure parts of what builds it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.boot import Artefact, site_cpio, site_files
from orchestrator.errors import HalliganError
from orchestrator.images import discovery, newc
from orchestrator.images.kmodules import Modules, name_of, parse_wanted

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "pxe/discovery"
AGENT = ROOT / "pxe/agent/halligan_agent.py"

DEP = """\
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/hid/hid-generic.ko: kernel/drivers/hid/hid.ko
kernel/drivers/hid/hid.ko:
kernel/sound/core/snd.ko: kernel/sound/soundcore.ko
kernel/sound/soundcore.ko:
"""


@pytest.fixture
def modules() -> Modules:
    return Modules.parse(DEP, "kernel/fs/ext4/ext4.ko\nkernel/drivers/nvmem/nvmem-core.ko\n")


def test_modules_come_with_what_they_need(modules: Modules) -> None:
    assert modules.named(["virtio_net"]) == (
        "kernel/drivers/net/net_failover.ko",
        "kernel/drivers/net/virtio_net.ko",
        "kernel/net/core/failover.ko",
    )
    assert modules.below(["drivers/hid/hid-generic"]) == (
        "kernel/drivers/hid/hid-generic.ko",
        "kernel/drivers/hid/hid.ko",
    )
    assert not any("sound" in path for path in modules.below(["drivers/", "net/"]))


def test_dash_and_underscore_are_one_letter_in_names(modules: Modules) -> None:
    assert modules.named(["hid_generic"]) == modules.named(["hid-generic"]) != ()
    assert name_of("kernel/drivers/hid/hid-generic.ko") == "hid_generic"


def test_a_module_that_is_built_in_is_not_missing(modules: Modules) -> None:
    assert modules.missing(["ext4", "nvmem_core", "virtio-net", "e1000"]) == ("e1000",)


def test_lists_of_modules() -> None:
    assert parse_wanted("# a comment\nrequired loop\n\ne1000 # old\n") == (("loop", "e1000"), ("loop",))


def unpacked(data: bytes, folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["busybox", "cpio", "-idm"], cwd=folder, input=data, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_archives_are_what_cpio_reads(tmp_path: Path) -> None:
    entries = [
        newc.file("init", b"#!/bin/sh\n", 0o755),
        newc.file("etc/secret", b"x" * 4097, 0o600),
        newc.symlink("sbin", "usr/sbin"),
    ]
    unpacked(newc.archive(entries, mtime=1), tmp_path / "tree")
    assert (tmp_path / "tree/init").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "tree/etc/secret").read_bytes() == b"x" * 4097
    assert (tmp_path / "tree/etc/secret").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "tree/sbin").readlink() == Path("usr/sbin")


def test_archives_do_not_depend_on_the_order_of_their_entries() -> None:
    one, two = newc.file("a/b", b"1"), newc.file("a/c", b"2")
    assert newc.archive([one, two], mtime=5) == newc.archive([two, one], mtime=5)
    assert newc.archive([one], mtime=5) != newc.archive([one], mtime=6)


def test_an_image_is_named_by_all_that_goes_in(tmp_path: Path) -> None:
    recipe, agent = tmp_path / "recipe", tmp_path / "agent.py"
    shutil.copytree(RECIPE, recipe)
    shutil.copy(AGENT, agent)

    def name(kernel: str = "cloud") -> str:
        return discovery.digest(kernel=kernel, agent=agent, recipe=recipe)

    seen = [discovery.digest(kernel="cloud", agent=AGENT, recipe=RECIPE)]
    assert name() == seen[0], "a copy elsewhere is the same recipe"
    seen.append(name("generic"))
    agent.write_text(agent.read_text() + "\n")
    seen.append(name())
    (recipe / "packages").write_text((recipe / "packages").read_text() + "tmux\n")
    seen.append(name())
    (recipe / "stage1/init").chmod(0o644)
    seen.append(name())
    (recipe / "root/etc/motd").write_text("hello\n")
    seen.append(name())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": "realtime"}, "no kernel flavour 'realtime'"),
        ({"agent": Path("/nowhere/agent.py")}, "/nowhere/agent.py does not exist"),
        ({"recipe": Path("/nowhere")}, "/nowhere holds no recipe"),
    ],
)
def test_what_cannot_be_built_is_said_at_once(change: dict[str, object], words: str) -> None:
    with pytest.raises(HalliganError, match=words):
        discovery.digest(**{"kernel": "cloud", "agent": AGENT, "recipe": RECIPE, **change})  # type: ignore[arg-type]


def test_a_folder_that_is_no_whole_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HalliganError, match="not a whole discovery image") as caught:
        discovery.load(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("script", ["stage1/init", "stage1/udhcpc.sh", "customize.sh"])
@pytest.mark.parametrize("shell", ["busybox sh", "dash"])
def test_scripts_are_what_a_plain_shell_reads(script: str, shell: str) -> None:
    words = shell.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([*words, "-n", RECIPE / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (RECIPE / script).stat().st_mode & 0o111


def test_stage_1_asks_for_what_the_boot_service_tells() -> None:
    """What `site.env` says and what stage 1 reads of it are written in two languages; they must agree."""
    root = Artefact(path="/files/discovery/root.squashfs", sha256="0" * 64, size=1)
    files = site_files(
        server="https://192.0.2.1:8443",
        files="http://192.0.2.1:8090",
        root=root,
        token="token",
        ca="-----BEGIN CERTIFICATE-----",
    )
    assert site_cpio(files)
    told = {line.partition("=")[0] for line in files["/etc/halligan/site.env"].decode().splitlines()}
    script = (RECIPE / "stage1/init").read_text()
    asked = {name for name in ("FILES", "ROOT_PATH", "ROOT_SHA256", "ROOT_SIZE") if f'"{name}=${name}"' in script}
    assert len(asked) == 4
    assert asked <= told
