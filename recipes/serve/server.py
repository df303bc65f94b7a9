"""The server: a socket, the model, and the application, from start to a signal."""

import asyncio
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import uvicorn

from longlive_recipes.configs.serve import Serve
from longlive_recipes.generation.interrupts import ENDING
from longlive_recipes.serve.offers import Offers
from longlive_recipes.serve.own_thread import begin
from longlive_recipes.serve.studio import Studio
from longlive_recipes.serve.web.app import application
from longlive_recipes.serve.web.protocol import PatientProtocol

MOST_CONNECTIONS = 512
BACKLOG = 128


def listen(config: Serve) -> socket.socket:
    """A socket at the address of a config, before anything is loaded.

    Raises:
        ValueError: the address is taken, or is not this machine's.
    """
    with ExitStack() as opening:
        try:
            found = socket.getaddrinfo(
                config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, address = found[0]
            opened = opening.enter_context(socket.socket(family, kind, protocol))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
        except OSError as error:
            raise ValueError(
                f"the server cannot listen at {config.host}:{config.port} ({error.strerror}): "
                f"another program may have that port. Name another --port; 0 takes any that is "
                f"free."
            ) from error
        opening.pop_all()
    return opened


def address_of(config: Serve, opened: socket.socket) -> str:
    """The address to open in a browser."""
    port = opened.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{port}/"


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: ``serve`` has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield


def serve(config: Serve, opened: socket.socket, ready: Callable[[], None]) -> int:
    """Load the model and answer requests until a signal; returns its number.

    ``ready`` is called when requests are answered. Videos that are being made then get a snapshot,
    and can be resumed by the next server of the same folder; a second signal ends the process.

    Raises:
        ValueError, BackendUnavailable: the model cannot be loaded, or another server uses the
            folder.
    """
    offers = begin(lambda: Offers.load(config)).result()
    return asyncio.run(_until_a_signal(config, opened, offers, ready))


async def _until_a_signal(
    config: Serve, opened: socket.socket, offers: Offers, ready: Callable[[], None]
) -> int:
    loop, ending, stopped_by = asyncio.get_running_loop(), asyncio.Event(), 0

    def stop(number: int) -> None:
        nonlocal stopped_by
        stopped_by = number
        for other in ENDING:
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)
        ending.set()

    for number in ENDING:
        loop.add_signal_handler(number, stop, number)
    await answer(config, opened, offers, ready, ending)
    return stopped_by


async def answer(
    config: Serve,
    opened: socket.socket,
    offers: Offers,
    ready: Callable[[], None],
    ending: asyncio.Event,
) -> None:
    """Answer requests at a socket until ``ending`` is set; then all videos are put aside.

    Raises:
        ValueError: another server uses the folder.
    """
    studio = Studio(config, offers, asyncio.get_running_loop())
    settings = uvicorn.Config(
        application(config, studio),
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 << 10,
    )
    server = _Server(settings)

    async def end() -> None:
        await ending.wait()
        studio.end_streams()
        server.should_exit = True

    studio.start()
    opened.listen(BACKLOG)
    waiting = asyncio.ensure_future(end())
    try:
        asyncio.get_running_loop().call_soon(ready)
        await server.serve([opened])
    finally:
        waiting.cancel()
        await studio.stop()
