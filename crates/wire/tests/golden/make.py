#!/usr/bin/env python3
"""Writes the golden frames beside this file: docs/raft-wire-format.md in another language, to hold the Rust one against."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent
ID = bytes(range(16))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(kind, payload=b"", request_id=b"", fields=(), flags=0, with_sum=True):
    tail = request_id + b"".join(bytes([tag, len(value)]) + value for tag, value in fields)
    flags |= (1 if request_id else 0) | (8 if with_sum else 0)
    sums = crc32c(payload) if with_sum else 0

    def header(own):
        fixed = struct.pack("<BBBBIII", 0x53, 16 + len(tail), kind, flags, len(payload), own, sums)
        return fixed + tail

    return header(crc32c(header(0))) + payload


def part(kind, seq, payload=b"", extra=(), request_id=b""):
    place = (3, struct.pack("<II", 7, seq))
    return frame(kind, payload, request_id, (place, *extra), 4)


TRACE = (2, bytes(range(0x10, 0x20)) + bytes(range(0x20, 0x28)) + b"\x01")
DEADLINE = (4, struct.pack("<I", 1500))
HELLO = struct.pack("<HHIQ", 1, 0, 16 << 20, 3) + b"c" * 16 + b"s" * 16 + struct.pack("<QQ", 5, 9)
GOLDEN = {
    "heartbeat": frame(3),
    "ping": frame(3, request_id=ID),
    "raft": frame(2, b"raft payload", fields=(TRACE, DEADLINE)),
    "without_sum": frame(2, b"raft payload", with_sum=False),
    "compressed": frame(2, b"compressed", fields=((1, b"\x02" + struct.pack("<I", 5000)),), flags=2),
    "request": frame(0, b"\x09\x07catalogueproposearguments", ID, (DEADLINE,)),
    "response": frame(1, b"\x03\x00\x00\x00result", ID),
    "response_error": frame(1, b"\x04\x00\x0a\x00not leader", ID),
    "error": frame(4, b"\x02\x00cut off", ID),
    "close": frame(9, b"\x41\x00not a member"),
    "hello": frame(5, HELLO),
    "chunked": part(6, 0, extra=((5, b"\x02" + struct.pack("<I", 11)),), request_id=ID)
    + part(7, 1, b"hello ")
    + part(7, 2, b"world")
    + part(8, 3, extra=((7, b"\x00"),)),
    "aborted": part(6, 0, extra=((5, b"\x02" + struct.pack("<I", 11)),))
    + part(7, 1, b"hello ")
    + part(8, 2, extra=((7, b"\x01"),)),
    # A later minor version: a field that may be skipped, and a longer hello.
    "later": frame(5, HELLO + b"more", fields=((100, b"new"),)),
}
if __name__ == "__main__":
    for name, data in GOLDEN.items():
        (HERE / f"{name}.bin").write_bytes(data)
