"""What a machine that starts over the network gets: decisions, scripts, dnsmasq's configuration, the boot archive."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.boot import (
    LOADERS,
    Answer,
    Artefact,
    BootSettings,
    DhcpSettings,
    DiscoveryImage,
    Request,
    Templates,
    decide,
    dnsmasq,
    mac_address,
    script,
    site_cpio,
    site_files,
    start,
)
from orchestrator.errors import HalliganError
from orchestrator.lifecycle import TABLE
from orchestrator.model import Failure, MachineState, Phase

FOLDER = Path(__file__).parents[2] / "pxe/templates"
TEMPLATES = Templates({path.name: path.read_text() for path in FOLDER.glob("*.j2")})
SETTINGS = BootSettings(
    http="http://10.77.0.1:8090",
    images={"amd64": DiscoveryImage(kernel="/files/discovery/vmlinuz", initrd="/files/discovery/initrd.img")},
)
MAC = "52:54:00:aa:bb:cc"
UUID = "6d1f5a0e-8a2b-4a39-9c51-0a1b2c3d4e5f"
REQUEST = Request(mac=MAC, uuid=UUID, arch="x86_64", platform="efi")


def machine(phase, **changes):
    return MachineState(id="m-0123456789ab", phase=phase, **changes)


def commands(text):
    """The lines of a script that do something, as iPXE reads them: words between spaces."""
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith(("#", ":"))]


# --- the question -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [MAC, "52-54-00-AA-BB-CC", "525400aabbcc", "5254.00aa.bbcc", f" {MAC.upper()} "])
def test_a_mac_may_be_written_in_every_usual_way(text):
    assert mac_address(text) == MAC


@pytest.mark.parametrize(
    "text",
    [
        "52:54:00:aa:bb",
        "52:54:00:aa:bb:cg",
        "52:54-00:aa:bb:cc",
        "5:254:00:aa:bb:cc",
        "ff:ff:ff:ff:ff:ff",
        "${net0/mac}",
    ],
)
def test_anything_else_is_no_mac(text):
    with pytest.raises(HalliganError, match="not the MAC address"):
        mac_address(text)


def test_a_request_may_miss_everything():
    assert Request.parse({}) == Request()
    assert Request.parse({"mac": "", "uuid": " ", "colour": "red"}) == Request()


def test_what_boards_say_that_know_no_better_is_nothing():
    assert Request.parse({"mac": "00:00:00:00:00:00", "uuid": "00000000-0000-0000-0000-000000000000"}) == Request()
    assert Request.parse({"uuid": "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}) == Request()


def test_a_request_is_read():
    found = Request.parse(
        {
            "mac": "52-54-00-AA-BB-CC",
            "uuid": UUID.upper(),
            "serial": " CZ1234\t",
            "arch": "X86_64",
            "platform": "efi",
            "manufacturer": "Dell Inc.",
            "product": "é" * 100,
        }
    )
    assert found == replace(REQUEST, serial="CZ1234", manufacturer="Dell Inc.", product="?" * 64)


@pytest.mark.parametrize(
    "query",
    [{"mac": "x"}, {"uuid": "not settable"}, {"arch": "x86 64"}, {"platform": "e" * 17}, {"uuid": UUID + "\n0"}],
)
def test_a_malformed_request_is_refused_in_words(query):
    with pytest.raises(HalliganError) as caught:
        Request.parse(query)
    assert next(iter(query.values()))[:3].strip() in str(caught.value)


# --- the decision -------------------------------------------------------------------------------------------------

LOCAL = (Phase.INSTALLED, Phase.READY)
OWN = {Phase.RETIRED: Answer.NOTHING, Phase.RESCUE: Answer.RESCUE}


@pytest.mark.parametrize("phase", Phase)
def test_a_machine_gets_what_its_phase_says(phase):
    wanted = Answer.LOCAL if phase in LOCAL else OWN.get(phase, Answer.DISCOVER)
    for unknown in ("discover", "ignore"):
        found = decide(machine(phase), REQUEST, unknown=unknown)
        assert found.answer is wanted
        assert "m-0123456789ab" in found.reason
        assert phase in found.reason


def test_the_table_of_lives_has_no_phase_without_an_answer():
    assert {phase for phase, _ in TABLE if phase} <= set(Phase)


def test_a_machine_that_nobody_can_log_in_to_keeps_its_system():
    """Its disk is what somebody has to look at: it was written as it should be."""
    found = decide(machine(Phase.FAILED, failure=Failure.LOGIN), REQUEST, unknown="discover")
    assert found.answer is Answer.LOCAL


def test_unknown_machines_are_discovered_or_ignored_and_never_installed():
    assert decide(None, REQUEST, unknown="discover").answer is Answer.DISCOVER
    ignored = decide(None, REQUEST, unknown="ignore")
    assert ignored.answer is Answer.NOTHING
    assert "boot.unknown" in ignored.reason
    assert "install" not in set(Answer)


def test_the_reason_names_the_node():
    assert "kvm-1" in decide(machine(Phase.READY, node="kvm-1"), REQUEST, unknown="discover").reason


# --- the scripts --------------------------------------------------------------------------------------------------


def answer(phase=None, request=REQUEST, settings=SETTINGS):
    return script(decide(machine(phase) if phase else None, request, unknown="discover"), settings, TEMPLATES)


def test_discovery_loads_kernel_archives_and_boots():
    made = commands(answer())
    [kernel] = [words for words in made if words[0] == "kernel"]
    assert "http://10.77.0.1:8090/files/discovery/vmlinuz" in kernel
    assert "BOOTIF=01-52-54-00-aa-bb-cc" in kernel
    assert {"ip=dhcp", "halligan=1", "console=tty0", "console=ttyS0,115200n8"} <= set(kernel)
    archives = [words[3] for words in made if words[0] == "initrd"]
    assert archives == [
        f"http://10.77.0.1:8090/boot/site.cpio?mac={MAC}&uuid={UUID}",
        "http://10.77.0.1:8090/files/discovery/initrd.img",
    ]
    assert ["boot", "||", "goto", "again"] in made


def test_every_download_that_fails_is_tried_again():
    for words in commands(answer()):
        if words[0] in ("kernel", "initrd", "boot"):
            assert words[-3:] == ["||", "goto", "again"]


def test_without_a_mac_ipxe_fills_it_in():
    text = answer(request=Request())
    assert "BOOTIF=01-${netX/mac:hexhyp}" in text
    assert "/boot/site.cpio?mac=${netX/mac}&uuid=${uuid}" in text


def test_rescue_starts_the_same_image():
    strip = [line for line in answer(Phase.RESCUE).splitlines() if not line.startswith(("#", "echo"))]
    assert strip == [line for line in answer().splitlines() if not line.startswith(("#", "echo"))]


def test_another_architecture_needs_its_own_image():
    arm = replace(REQUEST, arch="arm64")
    assert "no discovery image for arm64" in answer(request=arm)
    assert ["exit", "1"] in commands(answer(request=arm))
    image = DiscoveryImage(kernel="/files/discovery-arm64/vmlinuz", initrd="/files/discovery-arm64/initrd.img")
    with_arm = replace(SETTINGS, images={**SETTINGS.images, "arm64": image})
    assert "console=ttyAMA0,115200n8" in answer(request=arm, settings=with_arm)
    assert "/files/discovery-arm64/vmlinuz" in answer(request=arm, settings=with_arm)


def test_an_installed_machine_starts_its_disk_or_hands_back_to_uefi():
    made = commands(answer(Phase.READY))
    assert ["iseq", "${platform}", "efi", "&&", "goto", "efi", "||"] in made
    assert ["sanboot", "--no-describe", "--drive", "0x80", "||"] in made
    assert made[-1] == ["exit", "1"]  # an error: UEFI firmware stays in its menu after a success
    assert not [words for words in made if words[0] in ("kernel", "initrd", "chain")]


def test_a_retired_machine_gets_nothing():
    assert {words[0] for words in commands(answer(Phase.RETIRED))} == {"echo", "sleep", "exit"}


def test_the_first_script_is_short_to_name_and_says_who_asks():
    text = start(SETTINGS, TEMPLATES)
    for name in ("mac", "uuid", "serial", "arch", "platform", "manufacturer", "product"):
        assert re.search(rf"[?&]{name}=\$\{{", text), name
    assert len("http://255.255.255.255:65535/boot/script") < 128


@pytest.mark.parametrize("phase", [None, *Phase])
def test_scripts_are_scripts(phase):
    """iPXE takes plain ASCII that begins with its mark, with lines that end in a newline; jumps lead somewhere."""
    text = answer(phase)
    assert text.startswith("#!ipxe\n")
    assert text.isascii()
    assert "\r" not in text
    labels = set(re.findall(r"^:(\w+)$", text, re.MULTILINE))
    assert {name for line in commands(text) for name in re.findall(r"goto (\w+)", " ".join(line))} <= labels


SHELLY = st.text(alphabet=st.sampled_from("a1:${}|&;# \n\r\t`'\"\\/?é\0%"), max_size=80) | st.text(max_size=80)
PROSE = ("serial", "manufacturer", "product")
DECIDING = {
    "mac": st.just("52-54-00-AA-BB-CC") | SHELLY,
    "uuid": st.just(UUID) | SHELLY,
    "arch": st.sampled_from(["i386", "x86_64", "arm64"]) | SHELLY,
    "platform": st.sampled_from(["efi", "pcbios"]) | SHELLY,
}


@given(st.fixed_dictionaries({}, optional=DECIDING | dict.fromkeys(PROSE, SHELLY)))
def test_a_request_is_harmless_or_refused(query):
    try:
        found = Request.parse(query)
    except HalliganError:
        return
    assert re.fullmatch(r"([0-9a-f]{2}(:[0-9a-f]{2}){5})?", found.mac)
    assert re.fullmatch(r"([0-9a-f-]{36})?", found.uuid)
    assert all(re.fullmatch(r"[a-z0-9_]{0,16}", word) for word in (found.arch, found.platform))
    for name in PROSE:
        assert re.fullmatch(r"[ -~]{0,64}", getattr(found, name))


@given(
    query=st.fixed_dictionaries({}, optional=dict.fromkeys(PROSE, SHELLY)),
    phase=st.sampled_from([None, *Phase]),
    node=SHELLY,
    arch=st.sampled_from(["", "i386", "x86_64", "arm64", "arm32"]),
)
def test_no_hostile_value_reaches_a_script(query, phase, node, arch):
    """Whatever a machine says of itself, its script has the commands that it would have had anyway."""
    request = Request.parse(query | {"mac": MAC, "arch": arch})
    text = script(
        decide(machine(phase, node=node) if phase else None, request, unknown="discover"), SETTINGS, TEMPLATES
    )
    silent = Request(mac=MAC, arch=arch)
    plain = script(decide(machine(phase) if phase else None, silent, unknown="discover"), SETTINGS, TEMPLATES)
    assert [words for words in commands(text) if words[0] != "echo"] == [
        words for words in commands(plain) if words[0] != "echo"
    ]
    assert text.count("\n") == plain.count("\n")
    assert set(text) <= {"\n", *map(chr, range(32, 127))}
    for words in commands(text):
        if words[0] == "echo":
            assert not {"&&", "||"} & set(words)
            assert set(re.findall(r"\$\{?[^}]*\}?", " ".join(words))) <= {"${errno}", "${tries}"}


@pytest.mark.parametrize("name", PROSE)
def test_what_people_read_is_in_no_script(name):
    """Not even escaped: what is not there cannot go wrong."""
    for phase in (None, *Phase):
        assert "zqz" not in answer(phase, request=replace(REQUEST, **{name: "zqz"}))


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, http="http://10.77.0.1:8090/\nreboot"),
        replace(SETTINGS, http="https://10.77.0.1:8443"),
        replace(SETTINGS, images={"amd64": DiscoveryImage(kernel="/files/vmlinuz || shell", initrd="/i")}),
        replace(SETTINGS, images={"amd64": DiscoveryImage(kernel="/files/../../etc/shadow", initrd="/i")}),
    ],
)
def test_settings_are_checked_too(settings):
    with pytest.raises(HalliganError, match="boot service"):
        answer(settings=settings)


def test_a_broken_template_is_named():
    with pytest.raises(HalliganError, match=r"nothing\.ipxe\.j2"):
        script(decide(None, REQUEST, unknown="ignore"), SETTINGS, Templates({}))
    broken = Templates({"nothing.ipxe.j2": "#!ipxe\n{{ raeson }}\n"})
    with pytest.raises(HalliganError, match="raeson"):
        script(decide(None, REQUEST, unknown="ignore"), SETTINGS, broken)
    with pytest.raises(HalliganError, match=r"nothing\.ipxe\.j2:2"):
        script(decide(None, REQUEST, unknown="ignore"), SETTINGS, Templates({"nothing.ipxe.j2": "#!ipxe\n{% if %}"}))


# --- dnsmasq ------------------------------------------------------------------------------------------------------

SERVER = DhcpSettings(
    mode="server",
    interface="br0",
    address="10.77.0.1",
    network="10.77.0.0/24",
    http="http://10.77.0.1:8090",
    lease_file="/var/lib/halligan/leases",
    tftp_root="/srv/tftp",
    first="10.77.0.100",
    last="10.77.0.199",
)
PROXY = replace(SERVER, mode="proxy", first="", last="")
FULL = replace(SERVER, gateway="10.77.0.254", dns=("10.77.0.2", "10.77.0.3"), mtu=9000, user="nobody")


def lines(settings):
    text = dnsmasq(settings, TEMPLATES)
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_a_prefix_is_advertised_without_a_router():
    assert "enable-ra" not in lines(SERVER)
    told = lines(replace(SERVER, prefix6="fd00:1::/64"))
    assert {"enable-ra", "dhcp-range=fd00:1::,ra-only,64", f"ra-param={SERVER.interface},0,0"} <= set(told)


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="not installed: dnsmasq-base")
@pytest.mark.parametrize(
    "settings", [SERVER, PROXY, FULL, replace(FULL, mode="proxy"), replace(SERVER, prefix6="fd00:1::/64")], ids=str
)
def test_dnsmasq_takes_its_configuration(settings, tmp_path):
    path = tmp_path / "dnsmasq.conf"
    path.write_text(dnsmasq(settings, TEMPLATES))
    done = subprocess.run(["dnsmasq", "--test", "-C", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "dnsmasq: syntax check OK.")


@pytest.mark.parametrize("settings", [SERVER, PROXY, FULL])
def test_no_machine_has_a_line_of_its_own(settings):
    assert not [line for line in lines(settings) if line.startswith(("dhcp-host", "dhcp-hostsfile", "read-ethers"))]
    assert not re.search(r"([0-9a-f]{2}:){5}", dnsmasq(settings, TEMPLATES))


def test_a_server_leases_and_a_proxy_does_not():
    server, proxy = lines(SERVER), lines(PROXY)
    assert "dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,3600" in server
    assert {"dhcp-authoritative", "no-ping", "dhcp-lease-max=100", "dhcp-ignore-clid"} <= set(server)
    assert "dhcp-range=10.77.0.0,proxy,255.255.255.0" in proxy
    assert not [
        line for line in proxy if line.startswith(("dhcp-authoritative", "no-ping", "dhcp-option=", "dhcp-lease-max"))
    ]
    assert "port=0" in server
    assert "port=0" in proxy


def test_what_a_network_has_is_told():
    assert {
        "dhcp-option=option:router,10.77.0.254",
        "dhcp-option=option:dns-server,10.77.0.2,10.77.0.3",
        "dhcp-option=option:mtu,9000",
        "user=nobody",
    } <= set(lines(FULL))


def test_without_a_gateway_we_are_none():
    """dnsmasq would name itself as the router if the option were not there."""
    assert "dhcp-option=option:router" in lines(SERVER)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "off"}, "boot.dhcp"),
        ({"network": "fd00::/64"}, "IPv4"),
        ({"network": "10.77.0.1/24"}, "cannot boot in the network"),
        ({"interface": "br0\ndhcp-script=/bin/sh"}, "boot.interface"),
        ({"lease_file": "/tmp/a b"}, "lease file"),
        ({"tftp_root": "tftp"}, "TFTP folder"),
        ({"http": "http://boot.example.org:8090"}, "boot service"),
        ({"user": "No body"}, "user"),
        ({"address": "10.78.0.1"}, "boot.address"),
        ({"gateway": "10.77.0.255"}, "gateway"),
        ({"dns": ("resolver",)}, "DNS"),
        ({"first": ""}, "no addresses to lease"),
        ({"first": "10.77.0.199", "last": "10.77.0.100"}, "ends before it starts"),
        ({"first": "10.76.0.199"}, "boot.range"),
        ({"first": "10.77.0.1"}, "boot.address 10.77.0.1"),
        ({"gateway": "10.77.0.150"}, "the gateway 10.77.0.150"),
        ({"lease_s": 60}, "120"),
        ({"mtu": 100}, "MTU"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(HalliganError, match=re.escape(words)):
        dnsmasq(replace(SERVER, **changes), TEMPLATES)


# --- the boot archive ---------------------------------------------------------------------------------------------


def unpack(data):
    """Read a newc archive as the kernel does: {path: (mode, uid, gid, mtime, content)}, and where it ended."""
    entries, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        assert data[at + 110 + length - 1] == 0
        at += 110 + length
        at += -at % 4
        content = data[at : at + size]
        assert len(content) == size
        at += size
        at += -at % 4
        if name == "TRAILER!!!":
            return entries, at
        entries[name] = (fields[1], fields[2], fields[3], fields[5], content)


PATHS = st.lists(st.text("abc.-_09", min_size=1, max_size=12), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(PATHS, st.binary(max_size=600), max_size=6))
def test_an_archive_holds_what_was_put_in(files):
    parts = [path.split("/") for path in files]
    if any({".", ".."} & set(names) for names in parts) or any(
        "/".join(names[:n]) in files for names in parts for n in range(1, len(names))
    ):
        with pytest.raises(HalliganError):
            site_cpio(files)
        return
    data = site_cpio(files)
    entries, end = unpack(data)
    assert {name: entry[4] for name, entry in entries.items() if entry[0] == 0o100600} == files
    folders = [name for name, entry in entries.items() if entry[0] == 0o040755]
    assert set(folders) == {"/".join(names[:n]) for names in parts for n in range(1, len(names))}
    order = list(entries)
    assert all("/" not in name or order.index(name.rsplit("/", 1)[0]) < order.index(name) for name in order)
    assert {entry[1:4] for entry in entries.values()} <= {(0, 0, 0)}
    assert len(data) % 512 == 0
    assert not data[end:].strip(b"\0")
    assert len(data) - end < 512
    assert data == site_cpio(dict(reversed(files.items())))


@pytest.mark.skipif(shutil.which("busybox") is None, reason="not installed: busybox")
def test_an_archive_is_read_by_others(tmp_path):
    data = site_cpio({"/etc/halligan/site.json": b"{}\n", "etc/halligan/ca.pem": b"x"})
    done = subprocess.run(["busybox", "cpio", "-idm"], input=data, cwd=tmp_path, capture_output=True, check=True)
    assert done.returncode == 0
    made = tmp_path / "etc/halligan/site.json"
    assert made.read_text() == "{}\n"
    assert made.stat().st_mode == 0o100600
    assert made.parent.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["", "/", "a//b", "../etc/shadow", "/etc/./x", "a b", "é", "a/"])
def test_odd_paths_are_refused(path):
    with pytest.raises(HalliganError, match="cannot hold"):
        site_cpio({path: b""})


def test_two_names_of_one_file_are_refused():
    with pytest.raises(HalliganError, match="same path"):
        site_cpio({"/etc/x": b"1", "etc/x": b"2"})


SITE = {
    "server": "https://10.77.0.1:8443",
    "files": "http://10.77.0.1:8090",
    "root": Artefact(path="/files/discovery/root.squashfs", sha256="ab" * 32, size=4096),
    "token": "one-time'$(reboot)",
    "ca": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
}


def test_the_site_is_told_to_agent_and_stage_one():
    files = site_files(**SITE, authorized_keys=["ssh-ed25519 AAAA"])
    assert set(files) == {"/etc/halligan/site.json", "/etc/halligan/site.env", "/etc/halligan/ca.pem"}
    assert json.loads(files["/etc/halligan/site.json"]) == {
        "server": "https://10.77.0.1:8443",
        "files": "http://10.77.0.1:8090",
        "root": {"path": "/files/discovery/root.squashfs", "sha256": "ab" * 32, "size": 4096},
        "token": "one-time'$(reboot)",
        "mode": "discover",
    }
    assert b"one-time" not in files["/etc/halligan/site.env"]
    assert files["/etc/halligan/ca.pem"].startswith(b"-----BEGIN CERTIFICATE-----")


def test_keys_are_told_in_a_rescue_only():
    rescue = site_files(**SITE, mode="rescue", authorized_keys=["ssh-ed25519 AAAA"])
    assert json.loads(rescue["/etc/halligan/site.json"])["authorized_keys"] == ["ssh-ed25519 AAAA"]


def test_a_shell_reads_the_environment():
    hostile = Artefact(path="/files/a'b $(touch /tmp/x)", sha256="ab" * 32, size=1)
    files = site_files(**SITE | {"root": hostile})
    shell = '. /dev/stdin; printf "%s|" "$FILES" "$ROOT_PATH" "$ROOT_SHA256" "$ROOT_SIZE" "$MODE"'
    done = subprocess.run(["sh", "-c", shell], input=files["/etc/halligan/site.env"], capture_output=True, check=True)
    assert done.stdout.decode() == f"http://10.77.0.1:8090|{hostile.path}|{'ab' * 32}|1|discover|"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server": "http://10.77.0.1"}, "https"),
        ({"files": "ftp://10.77.0.1"}, "http URL"),
        ({"root": replace(SITE["root"], sha256="AB")}, "SHA-256"),
        ({"root": replace(SITE["root"], size=0)}, "size"),
        ({"token": ""}, "token"),
        ({"ca": "nothing"}, "PEM"),
        ({"mode": "install"}, "mode"),
    ],
)
def test_an_archive_that_cannot_work_is_not_made(changes, words):
    with pytest.raises(HalliganError, match=words):
        site_files(**SITE | changes)


def test_loaders_have_names_of_their_own():
    assert len(set(LOADERS.values())) == len(LOADERS)
