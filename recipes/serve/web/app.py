"""The application: all routes, the page, and what guards them."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from starlette.types import ASGIApp

from longlive_core import __version__
from longlive_recipes.configs.serve import Serve
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.studio import Studio
from longlive_recipes.serve.web import sessions, videos
from longlive_recipes.serve.web.context import REFUSALS, TheStudio
from longlive_recipes.serve.web.errors import add_handlers
from longlive_recipes.serve.web.forms import Server, TokenForm
from longlive_recipes.serve.web.guard import COOKIE, Guard, cookie_of, same

PAGE = Path(__file__).parent.parent / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/player.js": ("player.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_ABOUT = "Videos that are made while they are watched, and steered meanwhile."


def application(config: Serve, studio: Studio) -> ASGIApp:
    """The application of a server, with its guard."""
    app = FastAPI(
        title="LongLive",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # its page would load scripts of another site
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.studio = studio
    add_handlers(app)
    app.include_router(sessions.router)
    app.include_router(videos.router)

    @app.get("/v1/server", tags=["server"], responses=REFUSALS)
    async def get_server(studio: TheStudio) -> Server:
        """Tell which model is served, what runs it, and the limits."""
        facts = {"version": __version__, "limits": asdict(studio.limits), **studio.offers.facts()}
        return Server.model_validate(facts)

    @app.post("/v1/token", tags=["server"], status_code=204, responses=REFUSALS)
    async def send_token(form: TokenForm, response: Response) -> None:
        """Exchange the token for a cookie, which the page's downloads are sent with."""
        if config.token is None:
            return
        if not same(form.token, config.token):
            raise Refused("this is not the server's token.", 401)
        response.set_cookie(
            COOKIE, cookie_of(config.token), httponly=True, samesite="strict", max_age=30 * 86400
        )

    described = app.openapi

    def openapi() -> dict[str, Any]:
        """The document, without the status that the framework would refuse a value with."""
        document = described()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        return document

    vars(app)["openapi"] = openapi
    for address, (name, kind) in FILES.items():
        app.add_api_route(address, _sender(name, kind), include_in_schema=False)
    return Guard(app, config, socket.gethostname())


def _sender(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    data = (PAGE / name).read_bytes()

    async def send() -> Response:
        return Response(data, headers={"content-type": kind})

    return send
