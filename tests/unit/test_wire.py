"""What a host and its controller say to each other comes through in whatever pieces it arrives."""

from __future__ import annotations

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.executors.carry.on_host.serve import RefusedError, Wire, start_time, take_lock

MESSAGES = st.lists(st.tuples(st.dictionaries(st.text(max_size=8), st.integers(), max_size=3), st.binary(max_size=200)))


@given(MESSAGES, st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=20))
def test_messages_and_contents_come_through_in_any_pieces(messages, sizes):
    stream = b"".join(json.dumps({**head, "size": len(c)}).encode() + b"\n" + c for head, c in messages)
    source, far = os.pipe()

    def feed():
        rest, turn = stream, 0
        while rest:
            size = sizes[turn % len(sizes)]
            os.write(far, rest[:size])
            rest, turn = rest[size:], turn + 1
        os.close(far)

    writer = threading.Thread(target=feed)
    writer.start()
    wire = Wire(source, -1)
    for head, content in messages:
        assert wire.read() == {**head, "size": len(content)}
        assert wire.read_bytes(len(content)) == content
    with pytest.raises(EOFError):
        wire.read()
    writer.join()
    os.close(source)


def test_what_was_read_already_is_known_to_wait():
    source, far = os.pipe()
    os.write(far, b'{"do": "a"}\n{"do": "b"}\n{"do"')
    wire = Wire(source, -1)
    assert not wire.waiting()
    assert wire.read() == {"do": "a"}
    assert wire.waiting()
    assert wire.read() == {"do": "b"}
    assert not wire.waiting()
    os.close(far)
    with pytest.raises(EOFError):
        wire.read()
    os.close(source)


def test_content_that_ends_too_early_is_the_end():
    source, far = os.pipe()
    os.write(far, b"abc")
    os.close(far)
    with pytest.raises(EOFError):
        Wire(source, -1).read_bytes(4)
    os.close(source)


def test_more_than_a_pipe_holds_is_written_whole():
    near, sink = os.pipe()
    content = b"x" * 300_000
    got = []

    def drain():
        while chunk := os.read(near, 1 << 16):
            got.append(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    wire = Wire(-1, sink)
    wire.write({"do": "it"})
    wire.write_bytes(content)
    os.close(sink)
    reader.join()
    os.close(near)
    assert b"".join(got) == b'{"do":"it"}\n' + content


def test_a_lock_is_shared_within_a_run_and_with_nobody_else(tmp_path):
    mine = {"owner": "site room", "run": "r1", "about": "web@a of run r1", "since": 1}
    first = take_lock(tmp_path, mine)
    second = take_lock(tmp_path, {**mine, "about": "db@a of run r1"})
    for other in ({"owner": "site hall"}, {"run": "r2"}):
        with pytest.raises(RefusedError) as refused:
            take_lock(tmp_path, {**mine, **other})
        assert refused.value.holder == mine
    os.close(first)
    with pytest.raises(RefusedError):
        take_lock(tmp_path, {**mine, "run": "r2"})
    os.close(second)
    os.close(take_lock(tmp_path, {**mine, "run": "r2"}))


def test_a_process_is_known_by_when_it_started():
    assert start_time(os.getpid()) == start_time(os.getpid()) != ""
    assert start_time(2**22 + 1) == ""
