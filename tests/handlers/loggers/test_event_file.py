"""What is encoded by hand is what protobuf encodes, and how a file takes it."""

import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers.loggers.event_file import EventFile, scalar_event

pytest.importorskip("tensorboardX", reason="the package tensorboardX is missing")

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


def encoded(values: list[tuple[str, float]], step: int, wall_time: float) -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in values])
    data: bytes = Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()
    return data


tags = st.text(st.sampled_from("aZ0_-./\u00e4\u4e00"), min_size=1, max_size=200).filter(
    lambda tag: not tag.startswith("/")
)


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(tags, st.floats(width=32)), max_size=12),
    st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
    st.floats(1, 2e9),
)
def test_every_byte_is_protobufs(
    values: list[tuple[str, float]], step: int, wall_time: float
) -> None:
    data = scalar_event(values, step, wall_time)
    if not any(math.isnan(value) for _, value in values):  # NaNs are many
        assert data == encoded(values, step, wall_time)
    read = Event.FromString(data)
    assert (read.step, read.wall_time) == (step, wall_time)
    for (tag, value), found in zip(values, read.summary.value, strict=True):
        assert found.tag == tag and found.WhichOneof("value") == "simple_value"
        assert found.simple_value == value or math.isnan(found.simple_value) == math.isnan(value)


def test_what_does_not_fit() -> None:
    data = scalar_event([("a", 1e300), ("b", -1e300), ("c", 1e-300)], 1, 2.0)
    assert [one.simple_value for one in Event.FromString(data).summary.value] == [
        math.inf,
        -math.inf,
        0.0,
    ]
    with pytest.raises(ValueError, match=f"step={2**63} does not fit in 64 bits"):
        scalar_event([("a", 1.0)], 2**63, 2.0)


def test_what_a_tag_may_not_hold() -> None:
    data = scalar_event([("/a b/c:d", 1.0), ("/", 1.0)], 1, 2.0)
    assert [one.tag for one in Event.FromString(data).summary.value] == ["a_b/c_d", ""]


def test_records_carry_their_length_and_checksums(tmp_path: Path) -> None:
    file = EventFile(str(tmp_path))
    events = [scalar_event([("x" * size, 0.5)], size, 2.0) for size in (1, 100, 5000)]
    for data in events:
        file.write(data)
    file.close()
    found = list(records(next(tmp_path.iterdir())))
    assert Event.FromString(found[0]).file_version == "brain.Event:2"
    assert found[1:] == events


def records(path: Path) -> Any:
    text, at = path.read_bytes(), 0
    while at < len(text):
        (size,) = struct.unpack_from("<Q", text, at)
        head, data = text[at : at + 8], text[at + 12 : at + 12 + size]
        assert struct.unpack_from("<I", text, at + 8) == (masked_crc32c(head),)
        assert struct.unpack_from("<I", text, at + 12 + size) == (masked_crc32c(data),)
        yield data
        at += 16 + size
    assert at == len(text)
