"""The routes of whole videos: a queue of jobs, in the shape of OpenAI's videos."""

import re
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.studio import Studio
from longlive_recipes.serve.video import ServedVideo
from longlive_recipes.serve.web.answers import Put, Streamed, server_sent
from longlive_recipes.serve.web.context import REFUSALS, Name, TheStudio
from longlive_recipes.serve.web.errors import in_one_sentence
from longlive_recipes.serve.web.forms import Deleted, Job, Jobs, WishForm
from longlive_recipes.serve.web.sessions import mp4_of, record_of

router = APIRouter(prefix="/v1/videos", tags=["videos"], responses=REFUSALS)
KIND = "video"
DEFAULT_SECONDS = 4.0
"""As long as the clients of this shape expect."""
_NUMBERS = ("seed", "steps", "crf")
_FRACTIONS = ("seconds", "guidance")
_MP4 = {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
_PROPERTIES: dict[str, Any] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 4000, "pattern": r"\S"},
    "model": {"type": "string"},
    "seconds": {"type": "string", "pattern": r"^\d{1,5}(\.\d{1,3})?$"},
    "size": {"type": "string", "pattern": r"^\d{1,5}x\d{1,5}$"},
    "seed": {"type": "string", "pattern": r"^\d{1,15}$"},
    "steps": {"type": "string", "pattern": r"^\d{1,3}$"},
    "crf": {"type": "string", "pattern": r"^\d{1,2}$"},
    "guidance": {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,3})?$"},
    "negative_prompt": {"type": "string", "maxLength": 4000},
    "sampler": {"type": "string", "enum": ["unipc", "euler", "few_step"]},
    "weights": {"type": "string", "maxLength": 40},
    "input_reference": {"type": "string", "format": "binary"},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["prompt"],
                    "additionalProperties": False,
                    "properties": _PROPERTIES,
                }
            }
        },
    }
}


@router.post("", openapi_extra=_BODY)
async def create_video(request: Request, studio: TheStudio) -> Job:
    """Put a whole video into the queue. A form, or a JSON object with the same fields."""
    fields, picture = await _fields(request)
    model = fields.pop("model", None)
    settings, served = studio.offers.spec.settings, studio.offers.facts()["model"]
    if model not in (None, served):
        raise Refused(f"this server has the model {served} alone: leave model out.")
    size = fields.pop("size", None)
    if size not in (None, f"{settings.width}x{settings.height}"):
        raise Refused(
            f"the model makes frames of {settings.width}x{settings.height}: leave size out."
        )
    try:
        form = WishForm.model_validate({"seconds": DEFAULT_SECONDS, **fields})
    except ValidationError as error:
        raise Refused(in_one_sentence(error.errors())) from error
    image = form.image if picture is None else studio.images.put(picture)
    return view(studio, await studio.submit(form.wish(), image))


@router.get("")
async def list_videos(studio: TheStudio) -> Jobs:
    """List all whole videos, newest first."""
    data = [view(studio, video) for video in studio.of_kind(KIND)]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return Jobs(object="list", data=data, has_more=False, first_id=first, last_id=last)


@router.get("/{name}")
async def get_video(name: Name, studio: TheStudio) -> Job:
    """Tell how far a video is."""
    return view(studio, studio.find(name, KIND))


@router.delete("/{name}")
async def delete_video(name: Name, studio: TheStudio) -> Deleted:
    """Take a video out of the queue, or end it, and remove its files."""
    await studio.delete(studio.find(name, KIND))
    return Deleted(id=name, object="video.deleted", deleted=True)


@router.get("/{name}/content", response_class=Response, responses={200: _MP4, 206: _MP4})
async def get_content(name: Name, request: Request, studio: TheStudio) -> Response:
    """The mp4 of a video that is complete."""
    video = studio.find(name, KIND)
    if video.saved.state != "ended":
        raise Refused(f"the video is {_status(video)}: its content comes with its end.", 409)
    return mp4_of(request, video)


@router.get("/{name}/record", response_class=Response)
async def get_record(name: Name, studio: TheStudio) -> Response:
    """The record of a video that is complete."""
    return record_of(studio, studio.find(name, KIND))


@router.get(
    "/{name}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def get_events(name: Name, studio: TheStudio) -> Response:
    """The progress of a video as server-sent events: one for each change, the last at its end."""
    video = studio.find(name, KIND)

    async def produce(put: Put) -> None:
        told, number = None, 0
        while not studio.closing:
            job = view(studio, video)
            over = job.status in ("completed", "failed") or name not in studio.videos
            if job != told:
                kind = job.status if over else "progress"
                await put(server_sent(kind, job.model_dump_json(), number))
                told, number = job, number + 1
            if over:
                return
            await video.signal.wait(5.0)

    return Streamed(produce, media_type="text/event-stream")


def view(studio: Studio, video: ServedVideo) -> Job:
    """A whole video in the shape of OpenAI's."""
    saved, facts = video.saved, video.facts()
    settings = studio.offers.spec.settings
    status, frames, total = _status(video), facts["frames"], facts["frames_total"]
    seconds = saved.wish.seconds or 0
    share = frames / total if total else 0.0
    return Job(
        id=saved.id,
        object="video",
        model=studio.offers.facts()["model"],
        status=status,
        progress=100 if status == "completed" else min(99, round(100 * share)),
        created_at=int(saved.created),
        completed_at=int(saved.finished) if saved.finished and status == "completed" else None,
        expires_at=None,
        prompt=saved.wish.shots[0].prompt,
        seconds=f"{seconds:g}",
        size=f"{settings.width}x{settings.height}",
        remixed_from_video_id=saved.parent,
        error=None if saved.error is None else {"code": "failed", "message": saved.error},
        notes=list(saved.notes),
        seed=saved.wish.seed,
        frames=frames,
        frames_total=total,
        before=studio.place(video),
    )


def _status(video: ServedVideo) -> Any:
    names = {"queued": "queued", "ended": "completed", "failed": "failed", "stopped": "queued"}
    return names.get(video.state, "in_progress")


async def _fields(request: Request) -> tuple[dict[str, Any], bytes | None]:
    """The fields of a form or of a JSON object, and the picture of a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            values = await request.json()
        except (ValueError, RecursionError) as error:
            raise Refused("the body is no JSON.") from error
        if not isinstance(values, dict):
            raise Refused("the body is a JSON object with a prompt.")
        if isinstance(values.get("seconds"), str):
            values["seconds"] = _number("seconds", values["seconds"], float)
        return values, None
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise Refused("a video is asked for by a form, or by a JSON object.", 415)
    values, picture = {}, None
    async with request.form(max_files=1, max_fields=32, max_part_size=64 << 10) as form:
        for name, value in form.multi_items():
            if name in values or (name == "input_reference" and picture is not None):
                raise Refused("a field of the form comes once.")
            if isinstance(value, UploadFile):
                if name != "input_reference":
                    raise Refused("the one file of the form is its input_reference.")
                picture = await value.read()
            else:
                values[name] = value
    if isinstance(values.get("input_reference"), str):
        raise Refused("input_reference is a file: send the picture itself.")
    for name in _NUMBERS:
        if name in values:
            values[name] = _number(name, values[name], int)
    for name in _FRACTIONS:
        if name in values:
            values[name] = _number(name, values[name], float)
    return values, picture


def _number(name: str, text: str, kind: type[int] | type[float]) -> float:
    pattern = r"-?\d{1,19}" if kind is int else r"-?\d{1,9}(\.\d{1,9})?"
    if not re.fullmatch(pattern, text, re.ASCII):
        raise Refused(f"{name} is a number.")
    return kind(text)
