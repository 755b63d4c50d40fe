"""Tokens, certificates, what dnsmasq's lines say, DHCP messages, and limits: everything of netboot without a server."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from orchestrator.errors import HalliganError, StoreError
from orchestrator.lifecycle import RefusedError
from orchestrator.model import Boot, Event
from orchestrator.netboot import Settings, probe, tls
from orchestrator.netboot.commits import Commits, StaleError
from orchestrator.netboot.limits import LogLimit, Once, Rate, Turns
from orchestrator.netboot.polls import Polls
from orchestrator.netboot.sightings import Sighting, Sightings
from orchestrator.netboot.tokens import LASTS_S, Claim, Tokens, credential_hash, new_credential, shows

MAC, UUID = "52:54:00:00:00:01", "6d1f5a0e-8a2b-4a39-9c51-000000000001"
NOW = 1_800_000_000.0
DAY = 86400.0

# --- tokens -------------------------------------------------------------------------------------------------------


def issued(tokens: Tokens, now: float = NOW) -> tuple[str, Claim]:
    token = tokens.issue(mac=MAC, uuid=UUID, now=now)
    claim = tokens.check(token, now)
    assert isinstance(claim, Claim)
    return token, claim


def test_a_token_says_whose_it_is(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, now=NOW)
    token, claim = issued(tokens)
    assert (claim.mac, claim.uuid, claim.ends) == (MAC, UUID, int(NOW) + LASTS_S)
    assert tokens.issue(mac=MAC, uuid=UUID, now=NOW) != token


def test_a_token_is_good_once(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, now=NOW)
    token, claim = issued(tokens)
    assert tokens.take(claim, NOW)
    assert not tokens.take(claim, NOW)
    assert "used before" in str(tokens.check(token, NOW))
    tokens.give_back(claim)
    assert tokens.check(token, NOW) == claim


def test_what_was_kept_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, now=NOW)
    (used, claim), (taken, _) = issued(tokens), issued(tokens)
    tokens.take(claim, NOW)
    tokens.keep([claim])
    again = Tokens(tmp_path, now=NOW + 1)
    assert "used before" in str(again.check(used, NOW + 1))
    assert isinstance(again.check(taken, NOW + 1), Claim)
    Tokens(tmp_path, now=NOW + LASTS_S + 1)
    assert (tmp_path / "used-tokens").read_text() == ""


def test_a_line_that_was_cut_off_hurts_nobody(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, now=NOW)
    token, claim = issued(tokens)
    tokens.keep([claim])
    with (tmp_path / "used-tokens").open("a") as file:
        file.write("0123")
    again = Tokens(tmp_path, now=NOW)
    assert "used before" in str(again.check(token, NOW))
    other, claim = issued(again)
    again.keep([claim])
    assert "used before" in str(Tokens(tmp_path, now=NOW).check(other, NOW))


def test_tokens_expire(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, now=NOW)
    token, _ = issued(tokens)
    assert isinstance(tokens.check(token, NOW + LASTS_S - 1), Claim)
    assert "expired" in str(tokens.check(token, NOW + LASTS_S))


def test_other_tokens_are_not_ours(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path, now=NOW)
    token, _ = issued(tokens)
    (tmp_path / "other").mkdir()
    foreign, _ = issued(Tokens(tmp_path / "other", now=NOW))
    body, _, signature = token.partition(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**said, "m": "52:54:00:00:00:02"}).encode()).decode().rstrip("=")
    for forged in (
        *("", ".", "a", "é.é", "a" * 5000, foreign, body, f"{body}.", f".{signature}", f"{changed}.{signature}"),
        *(token + "=", token + "A", token[:-1], f"{body}.{signature}.", token.replace(".", "..")),
    ):
        assert tokens.check(forged, NOW) == "the enrolment token is not one of this site", forged


def test_the_sites_key_is_its_owners(tmp_path: Path) -> None:
    Tokens(tmp_path, now=NOW)
    assert (tmp_path / "enrol.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "enrol.key").write_bytes(b"short")
    with pytest.raises(HalliganError, match="damaged"):
        Tokens(tmp_path, now=NOW)


def test_only_the_credential_itself_shows_what_is_known() -> None:
    one, other = new_credential("m-0123456789ab"), new_credential("m-0123456789ab")
    assert one != other
    assert one.startswith("m-0123456789ab.")
    assert shows(one, credential_hash(one))
    assert not shows(other, credential_hash(one))
    assert not shows(one, "")
    assert not shows("", credential_hash(one))
    assert one.partition(".")[2] not in credential_hash(one)


# --- certificates -------------------------------------------------------------------------------------------------


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_certificates_are_made_once(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path, ["10.77.0.1", "boot.example"], now=NOW)
    content = [path.read_bytes() for path in (made.ca, made.cert, made.key)]
    tls.ensure(tmp_path, ["boot.example", "10.77.0.1"], now=NOW + DAY)
    assert [path.read_bytes() for path in (made.ca, made.cert, made.key)] == content
    assert made.key.stat().st_mode & 0o777 == (tmp_path / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600
    ca, server = loaded(made.ca), loaded(made.cert)
    server.verify_directly_issued_by(ca)
    for each in (ca, server):  # clocks that are a little slow
        assert each.not_valid_before_utc.timestamp() == NOW - DAY
    assert ca.not_valid_after_utc.timestamp() > NOW + 9.9 * 365 * DAY


def test_the_server_gets_a_new_certificate_for_another_address_or_in_time(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path, ["10.77.0.1"], now=NOW)
    ca, first = made.ca.read_bytes(), loaded(made.cert)
    tls.ensure(tmp_path, ["10.77.0.2"], now=NOW)
    second = loaded(made.cert)
    assert second.serial_number != first.serial_number
    end = second.not_valid_after_utc.timestamp()
    tls.ensure(tmp_path, ["10.77.0.2"], now=end - 31 * DAY)
    assert loaded(made.cert).serial_number == second.serial_number
    tls.ensure(tmp_path, ["10.77.0.2"], now=end - 29 * DAY)
    assert loaded(made.cert).serial_number != second.serial_number
    assert made.ca.read_bytes() == ca


def test_a_damaged_certificate_is_replaced_and_a_damaged_authority_told(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path, ["10.77.0.1"], now=NOW)
    made.key.write_text("nothing")
    tls.ensure(tmp_path, ["10.77.0.1"], now=NOW)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.cert, made.key)
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(HalliganError, match="damaged"):
        tls.ensure(tmp_path, ["10.77.0.1"], now=NOW)


def test_an_authority_that_ended_is_told(tmp_path: Path) -> None:
    tls.ensure(tmp_path, ["10.77.0.1"], now=NOW)
    with pytest.raises(HalliganError, match="ended on"):
        tls.ensure(tmp_path, ["10.77.0.1"], now=NOW + 3660 * DAY)


# --- what dnsmasq says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "dnsmasq-dhcp[717]: 2223766584 DHCPDISCOVER(br0) 52:54:00:00:00:01 ",
            Sighting(what="dhcp", mac=MAC, detail="DHCPDISCOVER"),
        ),
        (
            "dnsmasq-dhcp: 22 DHCPDISCOVER(br0) 10.99.0.9 52:54:00:00:00:01 ",
            Sighting(what="dhcp", mac=MAC, address="10.99.0.9", detail="DHCPDISCOVER 10.99.0.9"),
        ),
        (
            "dnsmasq-dhcp[717]: 2223766584 DHCPACK(br0) 10.99.0.11 52:54:00:00:00:01 kvm-1",
            Sighting(what="dhcp", mac=MAC, address="10.99.0.11", detail="DHCPACK 10.99.0.11"),
        ),
        (
            "dnsmasq-dhcp[717]: 672997236 DHCPDISCOVER(br0) 52:54:00:00:00:01 no address available",
            Sighting(what="dhcp", mac=MAC, detail="DHCPDISCOVER no address available", exhausted=True, bad=True),
        ),
        (
            "dnsmasq-dhcp[717]: 6 DHCPNAK(br0) 10.99.0.5 52:54:00:00:00:01 wrong network",
            Sighting(what="dhcp", mac=MAC, address="10.99.0.5", detail="DHCPNAK 10.99.0.5 wrong network", bad=True),
        ),
        (
            "dnsmasq-dhcp[717]: 6 PXE(br0) 52:54:00:00:00:01 proxy",
            Sighting(what="dhcp", mac=MAC, detail="PXE proxy"),
        ),
        (
            "dnsmasq-tftp[717]: sent /run/x/undionly.kpxe to 10.99.0.10",
            Sighting(what="tftp", address="10.99.0.10", detail="sent undionly.kpxe to 10.99.0.10"),
        ),
        (
            "dnsmasq-tftp[717]: file /run/x/no such file not found for 10.99.0.10",
            Sighting(what="tftp", address="10.99.0.10", detail="no such file is missing for 10.99.0.10", bad=True),
        ),
        (
            "dnsmasq-tftp[717]: error 8 User aborted the transfer received from 10.99.0.10",
            Sighting(
                what="tftp",
                address="10.99.0.10",
                detail="error 8 User aborted the transfer received from 10.99.0.10",
            ),
        ),
        (
            "dnsmasq-dhcp[717]: no address range available for DHCP request via br0",
            Sighting(what="trouble", detail="a request came through br0, in whose network nothing is leased", bad=True),
        ),
        (
            "dnsmasq: failed to bind DHCP server socket: Address already in use",
            Sighting(what="trouble", detail="failed to bind DHCP server socket: Address already in use", bad=True),
        ),
        ("dnsmasq-dhcp[717]: 2223766584 tags: br0", None),
        ("dnsmasq-dhcp[717]: 2223766584 sent size:  4 option: 51 lease-time  10m", None),
        ("dnsmasq-dhcp[717]: 2 client provides name: DHCPACK(br0) 10.0.0.1 52:54:00:00:00:01", None),
        ("dnsmasq[717]: started, version 2.90 DNS disabled", None),
        ("", None),
    ],
)
def test_lines_of_dnsmasq(line: str, expected: Sighting | None) -> None:
    assert Sightings().read(line) == expected


def test_tftp_belongs_to_who_got_the_address_last() -> None:
    sightings = Sightings()
    sightings.read("dnsmasq-dhcp[1]: 1 DHCPACK(br0) 10.99.0.10 52:54:00:00:00:01")
    sent = "dnsmasq-tftp[1]: sent /x/snponly.efi to 10.99.0.10"
    found = sightings.read(sent)
    assert found is not None
    assert found.mac == MAC
    sightings.read("dnsmasq-dhcp[1]: 1 DHCPACK(br0) 10.99.0.10 52:54:00:00:00:02")
    found = sightings.read(sent)
    assert found is not None
    assert found.mac == "52:54:00:00:00:02"


# --- DHCP messages ------------------------------------------------------------------------------------------------


def answer(number: int, options: bytes, *, op: int = 2, ports: bytes = b"\0\x43\0\x44") -> bytes:
    bootp = bytearray(probe.discover(number, b"\2\0\0\0\0\1")[:240])
    bootp[0] = op
    bootp[16:20] = bytes([10, 0, 0, 77])
    whole = bytearray(probe.frame(bytes(bootp) + options, b"\2\0\0\0\0\2"))
    whole[34:38] = ports
    whole[26:30] = bytes([10, 0, 0, 9])
    return bytes(whole)


SERVER = bytes([53, 1, 2, 0, 54, 4, 10, 0, 0, 1, 255])


def test_an_offer_is_recognised() -> None:
    found = probe.Offer(server="10.0.0.1", mac="02:00:00:00:00:02", offered="10.0.0.77")
    assert probe.offer(answer(5, SERVER), 5) == found
    assert probe.offer(answer(5, bytes([53, 1, 2, 255])), 5) == replace(found, server="10.0.0.9")


@pytest.mark.parametrize(
    "received",
    [
        b"",
        bytes(600),
        answer(6, SERVER),
        answer(5, SERVER, op=1),
        answer(5, SERVER, ports=b"\0\x44\0\x43"),
        answer(5, bytes([53, 1, 5, 255])),
        answer(5, bytes([54])),
        answer(5, b""),
    ],
)
def test_what_is_no_offer_is_none(received: bytes) -> None:
    assert probe.offer(received, 5) is None


def test_a_question_is_a_whole_frame() -> None:
    sent = probe.frame(probe.discover(5, b"\2\0\0\0\0\1"), b"\2\0\0\0\0\1")
    header, udp = sent[14:34], sent[34:]
    assert _ones(header) == 0xFFFF
    assert _ones(header[12:20] + b"\0\x11" + udp[4:6] + udp) == 0xFFFF
    assert len(udp) == int.from_bytes(udp[4:6])
    assert probe.offer(sent, 5) is None


def _ones(data: bytes) -> int:
    """The ones' complement sum of RFC 1071; of data with a right checksum it is all ones."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_made_up_macs_are_nobodys() -> None:
    for _ in range(50):
        assert probe.made_up_mac()[0] & 3 == 2


# --- limits -------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_allows_so_many_within_so_long() -> None:
    clock = Clock()
    rate = Rate(2, 10, clock)
    assert [rate.allow() for _ in range(3)] == [True, True, False]
    clock.now += 10
    assert rate.allow()


def test_once_is_once_per_key_and_stays_small() -> None:
    clock = Clock()
    once = Once(10, clock, most=3)
    assert [once.allow(key) for key in "aab"] == [True, False, True]
    clock.now += 11
    assert once.allow("a")
    for number in range(100):
        once.allow(str(number))
    assert len(once._seen) <= 3


def test_log_lines_are_limited_and_counted() -> None:
    clock = Clock()
    limit = LogLimit(2, clock)

    def passes(level: int = logging.INFO) -> logging.LogRecord | None:
        record = logging.LogRecord("x", level, "", 0, "line %d", (7,), None)
        return record if limit.filter(record) else None

    assert [bool(passes()) for _ in range(4)] == [True, True, False, False]
    assert passes(logging.ERROR)
    passes()
    clock.now += 1
    record = passes()
    assert record is not None
    assert record.getMessage() == "line 7 (1 lines were left out before)"


def test_turns_are_per_key_and_in_order() -> None:
    async def play() -> list[str]:
        turns, said, begun = Turns(), [], asyncio.Event()

        async def one(name: str, keys: Sequence[str], hold: asyncio.Event | None = None) -> None:
            async with turns.of(keys):
                said.append(f"{name} begins")
                begun.set()
                if hold:
                    await hold.wait()
                said.append(f"{name} ends")

        hold = asyncio.Event()
        first = asyncio.create_task(one("a", ["x", "y"], hold))
        await begun.wait()
        later = [asyncio.create_task(one("b", ["y", "z"])), asyncio.create_task(one("c", ["x"]))]
        await one("d", ["w"])
        hold.set()
        await asyncio.gather(first, *later)
        assert not turns._locks
        return said

    assert asyncio.run(play())[:4] == ["a begins", "d begins", "d ends", "a ends"]


# --- commits and polls --------------------------------------------------------------------------------------------


class Memory:
    """A store that keeps what was appended; "bad" is refused, "bug" raises."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.full = False

    def append(self, events: Sequence[Event], **_: Any) -> int:
        kinds = [event.kind for event in events]
        if self.full:
            raise StoreError("the disk is full")
        if "bad" in kinds:
            raise RefusedError("it is somewhere else by now")
        if "bug" in kinds:
            raise KeyError("bug")
        self.batches.append(kinds)
        return 1


def committed(names: Sequence[str], *, store: Memory, keep: Any = lambda _claims: None) -> list[BaseException | None]:
    async def play() -> list[BaseException | None]:
        commits = Commits(store, keep)  # type: ignore[arg-type]
        entries = [commits.append([Event(kind=name, at=1.0)]) for name in names]
        found = await asyncio.gather(*entries, return_exceptions=True)
        await commits.close()
        return found

    return asyncio.run(play())


def test_what_comes_together_is_committed_together() -> None:
    store = Memory()
    assert committed([str(n) for n in range(50)], store=store) == [None] * 50
    assert len(store.batches) < 5


def test_one_that_is_refused_does_not_hold_up_the_others() -> None:
    store = Memory()
    names = [str(n) for n in range(40)] + ["bad"] + [str(n) for n in range(40, 80)] + ["bug"]
    found = committed(names, store=store)
    assert isinstance(found[40], StaleError)
    assert isinstance(found[81], KeyError)
    assert [error for error in found if error is None] == [None] * 80
    assert [name for batch in store.batches for name in batch] == [str(n) for n in range(80)]
    assert len(store.batches) < 25


def test_a_full_disk_is_told_to_everybody_at_once() -> None:
    store = Memory()
    store.full = True
    assert all(isinstance(error, StoreError) for error in committed(["a", "b"], store=store))


def test_tokens_are_written_down_before_the_events() -> None:
    store, claim = Memory(), Claim(nonce="n", mac=MAC, uuid="", ends=1)

    def keep(claims: Sequence[Claim]) -> None:
        if claims:
            assert not store.batches
            raise OSError(28, "No space left on device")

    async def play() -> list[BaseException | None]:
        commits = Commits(store, keep)  # type: ignore[arg-type]
        entries = [commits.append([Event(kind="a", at=1.0)], claims=[claim]), commits.append([Event(kind="b", at=1.0)])]
        found = await asyncio.gather(*entries, return_exceptions=True)
        await commits.close()
        return found

    found = asyncio.run(play())
    assert isinstance(found[0], StoreError)
    assert found[1] is None
    assert store.batches == [["b"]]


def test_a_waiting_agent_is_woken_by_a_move_of_its_machine() -> None:
    async def play() -> tuple[bool, bool]:
        polls, events = Polls(), [Event(kind="machine.moved", at=1.0, seq=5, data={"machine": "m-1"})]
        heads = iter([4, 4])
        watch = asyncio.create_task(polls.watch(lambda: next(heads, 5), lambda after: events if after == 4 else []))
        mine, others = polls.begin("m-1"), polls.begin("m-2")
        woken = await mine
        polls.begin("m-2")
        replaced = await others
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        return woken, replaced

    assert asyncio.run(play()) == (True, False)


# --- settings -----------------------------------------------------------------------------------------------------


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    made = Settings(
        site="s",
        store="postgresql://halligan@db/x",
        state_dir=tmp_path / "state",
        boot=Boot(network="pxe", first="10.77.0.100", last="10.77.0.200", address="10.77.0.1", unknown="ignore"),
        templates=tmp_path,
        network="10.77.0.0/24",
        dns=("10.77.0.1",),
        images=tmp_path / "images",
        known_macs=(MAC,),
    )
    path = tmp_path / "settings.json"
    made.write(path)
    assert Settings.read(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["settings.json"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "not right"),
        ('{"site": "s"}', "missing"),
        ('{"sites": "s"}', 'Did you mean "site"?'),
        ('{"boot": {"adress": ""}}', "adress"),
    ],
)
def test_wrong_settings_are_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(HalliganError, match=said.replace("?", r"\?")):
        Settings.read(path)
    with pytest.raises(HalliganError, match="cannot read"):
        Settings.read(tmp_path / "none")
