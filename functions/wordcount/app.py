"""Counts the words of a text: POST it, get its lines, words and the ten most frequent words as JSON."""

# Counter.most_common imports it when called, too late for the snapshot that componentize-py takes.
import heapq  # noqa: F401
import json
import re
from collections import Counter

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

BODY_LIMIT_BYTES = 1 << 20
# The most that blocking_write_and_flush takes.
WRITE_BYTES = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        body = read(request)
        if body is None:
            send(response_out, 413, {"error": f"the text is longer than {BODY_LIMIT_BYTES} bytes"})
            return
        send(response_out, 200, count(body.decode("utf-8", "replace")))


def count(text: str) -> dict:
    words = re.findall(r"\w+", text.lower())
    return {"lines": len(text.splitlines()), "words": len(words), "frequent": dict(Counter(words).most_common(10))}


def read(request: IncomingRequest) -> bytes | None:
    whole = bytearray()
    with request.consume() as body:
        with body.stream() as stream:
            while True:
                try:
                    whole += stream.blocking_read(64 * 1024)
                except Err as error:
                    if isinstance(error.value, StreamError_Closed):
                        return bytes(whole)
                    raise
                if len(whole) > BODY_LIMIT_BYTES:
                    return None


def send(response_out: ResponseOutparam, status: int, value: dict) -> None:
    content = json.dumps(value, ensure_ascii=False).encode()
    headers = [("content-type", b"application/json"), ("content-length", str(len(content)).encode())]
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(content), WRITE_BYTES):
            stream.blocking_write_and_flush(content[start : start + WRITE_BYTES])
    OutgoingBody.finish(body, None)
