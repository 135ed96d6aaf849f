"""Event files, read by a reader of the tests."""

import struct
from pathlib import Path
from typing import Any

import pytest


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """As TFRecord stores it: turned right by 15 bits, plus a constant."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and scalars of each event of the one file in `folder`; the first says which version it is."""
    event_pb2: Any = pytest.importorskip("tensorboardX.proto.event_pb2")
    (path,) = folder.iterdir()
    data, events = path.read_bytes(), []
    while data:
        length, checksum = struct.unpack_from("<QI", data)
        content, (content_checksum,) = data[12 : 12 + length], struct.unpack_from("<I", data, 12 + length)
        assert (checksum, content_checksum) == (masked(data[:8]), masked(content))
        events.append(event_pb2.Event.FromString(content))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert all(event.wall_time > 1.7e9 for event in events)
    return [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in events[1:]]
