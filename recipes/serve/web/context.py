"""What all routes have: the studio, and the answers that they document."""

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from longlive_recipes.serve.studio import Studio
from longlive_recipes.serve.web.forms import ErrorAnswer

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": what}
    for status, what in {
        400: "A value is refused.",
        401: "The token is missing or wrong.",
        403: "Another site's page, or another name of the server.",
        404: "There is no such video or block.",
        408: "The request did not come in time.",
        409: "It does not go in this state.",
        413: "The body is too large.",
        415: "The body is of another kind.",
        429: "A limit of the server is reached.",
        503: "The server is being stopped.",
        507: "The server's disk is full, or cannot be written.",
    }.items()
}


def studio_of(request: Request) -> Studio:
    """The studio of the application."""
    studio: Studio = request.app.state.studio
    return studio


TheStudio = Annotated[Studio, Depends(studio_of)]
Name = Annotated[str, Path(max_length=64, description="The id of a video.")]
