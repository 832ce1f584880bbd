"""What the systems are asked to do. Hosts of components run the same file, so their ratios are fair."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

GREETING = b"Hello, world!\n"
STREAM_BYTES = 1 << 20


@dataclass(frozen=True)
class Workload:
    """One request, sent again and again, and what its answer must be."""

    name: str
    component: str
    body: bytes
    path: str
    right: Callable[[bytes], bool]

    @property
    def method(self) -> str:
        """Bodies are posted."""
        return "POST" if self.body else "GET"


def all_workloads() -> list[Workload]:
    """In the order in which they are reported."""
    document, blob = _document(), bytes(range(256)) * 256
    digest = hashlib.sha256(blob).hexdigest().encode()
    text = b"# Hello\n\n" + b"A *flock* of [dunlins](https://example.com) turns as one.\n\n" * 8
    return [
        Workload("hello", "hello", b"", "/", lambda answer: answer == GREETING),
        Workload("json", "transform", document, "/", lambda answer: "sha256" in json.loads(answer)),
        Workload("sha", "transform", blob, "/sha256", lambda answer: answer == digest),
        Workload("stream", "workload-stream", b"", "/", lambda answer: len(answer) == STREAM_BYTES),
        Workload("thumbnail", "thumbnail", _picture(256), "/", lambda answer: answer.startswith(b"\x89PNG")),
        Workload("markdown", "markdown", text, "/", lambda answer: b"<h1>Hello</h1>" in answer),
        Workload("wordcount", "wordcount", text, "/", lambda answer: json.loads(answer)["words"] > 0),
    ]


def _document() -> bytes:
    """About 4 KiB of JSON as an API would get it."""
    lines = [
        {"sku": f"A-{at:05}", "name": f"  item {at}  ", "price": 17.25 + at, "tags": ["a", "b"], "note": None}
        for at in range(43)
    ]
    return json.dumps({"order": "0001", "customer": {"name": " Dunlin ", "mail": None}, "lines": lines}).encode()


def _picture(side: int) -> bytes:
    """A PNG with a gradient (W3C PNG §5: signature, then chunks with their CRC)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + bytes(part for x in range(side) for part in (x, y, 128)) for y in range(side))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
