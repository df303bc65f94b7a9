"""A signal from the thread that makes blocks to the coroutines that wait for them."""

import asyncio


class Signal:
    """Wakes all coroutines that wait for it; it may be given from any thread.

    Look at the state, and if it is not there yet, ``wait`` and look again: what changes in between
    is not missed, as the signal is handed to the loop after the change.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wake all that wait."""
        self._loop.call_soon_threadsafe(self._fire)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until the signal is given, or so long; returns whether it was given."""
        event = self._event
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _fire(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()
