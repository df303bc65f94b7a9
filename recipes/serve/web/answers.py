"""Answers that take a while: streams that end when their reader leaves, and files that grow."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.video import ServedVideo

Put = Callable[[bytes], Awaitable[None]]
_PIECE = 1 << 18
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_LOOK = 5.0
"""Seconds after which a wait looks again whether the server is being stopped."""


class Streamed(Response):
    """An answer that is made piece by piece, and ended as soon as its reader leaves.

    Args:
        produce: a coroutine that puts pieces of the body; it is canceled when the reader leaves.
    """

    def __init__(
        self,
        produce: Callable[[Put], Awaitable[None]],
        *,
        media_type: str,
        headers: dict[str, str] | None = None,
        status: int = 200,
    ) -> None:
        super().__init__(status_code=status, headers=headers, media_type=media_type)
        if "content-length" in self.headers and "content-length" not in (headers or {}):
            del self.headers["content-length"]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)

        async def put(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        work = asyncio.ensure_future(self._produce(put))
        gone = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await canceled(gone)
            if not work.done():
                await canceled(work)
        if not work.cancelled():
            work.result()
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def left(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def canceled(task: "asyncio.Future[None]") -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    await asyncio.wait({task})


async def waited(
    request: Request, video: ServedVideo, there: Callable[[], bool], seconds: float
) -> bool:
    """Wait until ``there`` answers True; False if the time is over or the client has gone."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    gone = asyncio.ensure_future(left(request.receive))
    try:
        while not there():
            rest = min(_LOOK, end - loop.time())
            if rest <= 0 and loop.time() >= end:
                return False
            given = asyncio.ensure_future(video.signal.wait(rest))
            await asyncio.wait({given, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not given.done():
                await canceled(given)  # type: ignore[arg-type]
            if gone.done():
                return False
        return True
    finally:
        await canceled(gone)


def part_of_file(request: Request, path: Path, size: int, headers: dict[str, str]) -> Response:
    """The first ``size`` bytes of an mp4, or the range of them that is asked for.

    Raises:
        Refused: a range behind its end.
    """
    start, end, status = 0, size, 200
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is not None and (match[1] or match[2]):
        if match[1]:
            start = int(match[1])
            end = min(size, int(match[2]) + 1) if match[2] else size
        else:
            start = max(0, size - int(match[2]))
        if start >= end:
            raise Refused(f"the file has {size} bytes, and the range begins behind them.", 416)
        status = 206
        headers = headers | {"content-range": f"bytes {start}-{end - 1}/{size}"}

    async def produce(put: Put) -> None:
        with open(path, "rb") as file:
            file.seek(start)
            rest = end - start
            while rest > 0:
                piece = await asyncio.to_thread(file.read, min(rest, _PIECE))
                if not piece:
                    raise OSError("the file has become shorter")
                rest -= len(piece)
                await put(piece)

    more = {"content-length": str(end - start), "accept-ranges": "bytes"}
    return Streamed(produce, media_type="video/mp4", headers=headers | more, status=status)


def server_sent(name: str, data: str, number: int) -> bytes:
    """An event as text/event-stream has it; ``data`` is one line."""
    return f"id: {number}\nevent: {name}\ndata: {data}\n\n".encode()
