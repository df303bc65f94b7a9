"""Work on a thread that ends with it.

OpenMP keeps a team of workers for every thread that has computed with tensors, as long as that
thread lives. While there are more workers than cores, all of them fall asleep wherever they wait
rather than look again, and each operation of a block takes several times as long to begin. So one
thread of a server lives on and computes, the scheduler's; what else may touch tensors runs here.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

Answer = TypeVar("Answer")
Given = ParamSpec("Given")


def begin(function: Callable[[], Answer], name: str = "longlive-work") -> "Future[Answer]":
    """Run a function on a new thread; the future has its answer or its error.

    The program does not wait for it at its end.
    """
    future: Future[Answer] = Future()
    work = threading.Thread(target=answer, args=(function, future), name=name, daemon=True)
    work.start()
    return future


async def aside(
    function: Callable[Given, Answer], *args: Given.args, **more: Given.kwargs
) -> Answer:
    """Run a function on a new thread, and wait for its answer; errors are raised here."""
    return await asyncio.wrap_future(begin(lambda: function(*args, **more)))


def answer(function: Callable[[], Answer], future: "Future[Answer]") -> None:
    """Run a function for a future, unless it was canceled meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        found = function()
    except Exception as error:  # it is the caller's, on another thread
        future.set_exception(error)
    else:
        future.set_result(found)
