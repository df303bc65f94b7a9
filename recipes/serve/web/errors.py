"""Errors as answers: one sentence each, which names the field and the rule, and no path of ours."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from longlive_core.backends import BackendUnavailable
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.studio import Studio
from longlive_recipes.serve.web.guard import refusal

_log = logging.getLogger(__name__)
_WORDS = {
    404: "there is nothing at this address: /openapi.json lists what there is.",
    405: "this address does not take that method: /openapi.json lists those it takes.",
}
_MOST = 600


def add_handlers(app: FastAPI) -> None:
    """Let every error of an application become an answer of one sentence."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ValueError, _value)
    app.add_exception_handler(BackendUnavailable, _value)
    app.add_exception_handler(Exception, _bug)


def in_one_sentence(errors: Sequence[Any]) -> str:
    """What is wrong with the first fields of a body, in a sentence."""
    told = []
    for error in list(errors)[:3]:
        place = ".".join(str(part)[:60] for part in error["loc"] if part not in ("body", "query"))
        told.append(f"{plain(place)}: {plain(error['msg'])}" if place else plain(error["msg"]))
    more = f", and {len(errors) - 3} more" if len(errors) > 3 else ""
    return f"the request is refused ({'; '.join(told)}{more})."


def plain(text: str) -> str:
    """A message in one line, of bounded length, that every JSON writer takes."""
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return refusal(in_one_sentence(error.errors()), 400)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = _WORDS.get(error.status_code, plain(error.detail or "the request is refused"))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["allow"] = ", ".join(_methods(request))
    return refusal(words if words.endswith(".") else f"{words}.", error.status_code, headers)


def _methods(request: Request) -> list[str]:
    """All methods that an address takes; its routes have one each."""
    schema = request.app.openapi()["paths"]
    asked = request.url.path.split("/")
    for path, operations in schema.items():
        parts = path.split("/")
        if len(parts) == len(asked) and all(
            part.startswith("{") or part == given for part, given in zip(parts, asked, strict=True)
        ):
            return [method.upper() for method in operations]
    return ["GET"]


async def _value(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 400
    studio: Studio = request.app.state.studio
    return refusal(studio.without_paths(plain(str(error))), status)


async def _bug(request: Request, error: Exception) -> Response:
    _log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return refusal("a mistake of the server, which its log names.", 500)
