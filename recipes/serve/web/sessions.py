"""The routes of sessions: videos that are watched and steered while they are made."""

import asyncio
import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from longlive_models.video.fragments import pictures
from longlive_recipes.generation.commands import Command
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.studio import Studio
from longlive_recipes.serve.video import ServedVideo
from longlive_recipes.serve.web.answers import Put, Streamed, part_of_file, waited
from longlive_recipes.serve.web.context import REFUSALS, Name, TheStudio
from longlive_recipes.serve.web.forms import (
    CutForm,
    Deleted,
    ForkForm,
    Frames,
    Picture,
    PromptForm,
    ReplayForm,
    Session,
    Sessions,
    Snapshot,
    Steered,
    WishForm,
)

router = APIRouter(prefix="/v1", responses=REFUSALS)
KIND = "session"
_MP4 = {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
_JSON = {"content": {"application/json": {"schema": {"type": "object"}}}}
_PICTURE = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/png", "image/jpeg", "image/webp")
        },
    }
}
Block = Annotated[int, Path(ge=0, le=1 << 40, description="The number of a block, from 0.")]
Wait = Annotated[
    float, Query(ge=0, le=60, description="Seconds to wait for the block, if it is not made yet.")
]


@router.get("/sessions", tags=["sessions"])
async def list_sessions(studio: TheStudio) -> Sessions:
    """List all sessions, newest first."""
    return Sessions(data=[view(video) for video in studio.of_kind(KIND)])


@router.post("/sessions", tags=["sessions"], status_code=201)
async def create_session(form: WishForm, studio: TheStudio) -> Session:
    """Begin a video. Its first block is made at once, further ones as they are asked for."""
    return view(await studio.create(form.wish(), form.image))


@router.post("/sessions/replay", tags=["sessions"], status_code=201)
async def replay_record(form: ReplayForm, studio: TheStudio) -> Session:
    """Make the video of a record again, steering included."""
    return view(await studio.replay(form.record, form.image))


@router.get("/sessions/{name}", tags=["sessions"])
async def get_session(name: Name, studio: TheStudio) -> Session:
    """Tell where a session stands."""
    return view(studio.find(name, KIND))


@router.delete("/sessions/{name}", tags=["sessions"])
async def delete_session(name: Name, studio: TheStudio) -> Deleted:
    """End a session and remove its files."""
    await studio.delete(studio.find(name, KIND))
    return Deleted(id=name, object="session.deleted", deleted=True)


@router.post("/sessions/{name}/prompt", tags=["sessions"])
async def prompt(name: Name, form: PromptForm, studio: TheStudio) -> Steered:
    """Change the prompt, from the next block on or at a time."""
    return _steered(studio, name, form.command())


@router.post("/sessions/{name}/cut", tags=["sessions"])
async def cut(name: Name, form: CutForm, studio: TheStudio) -> Steered:
    """Begin a new shot, which may forget what was before it."""
    kind = "forget" if form.forget else "cut"
    return _steered(studio, name, Command(kind=kind, text=form.text))


@router.post("/sessions/{name}/fork", tags=["sessions"], status_code=201)
async def fork(name: Name, form: ForkForm, studio: TheStudio) -> Session:
    """Begin a second ending of a video, as a session of its own."""
    return view(await studio.fork(studio.find(name, KIND), form.block, form.ending()))


@router.post("/sessions/{name}/snapshot", tags=["sessions"], status_code=201)
async def take_snapshot(name: Name, studio: TheStudio) -> Snapshot:
    """Take a snapshot between two blocks, from which the video can be forked and resumed."""
    return Snapshot(block=await studio.snapshot(studio.find(name, KIND)))


@router.post("/sessions/{name}/resume", tags=["sessions"])
async def resume(name: Name, studio: TheStudio) -> Session:
    """Go on with a session that was stopped with its server."""
    video = studio.find(name, KIND)
    await studio.resume(video)
    return view(video)


@router.post("/sessions/{name}/close", tags=["sessions"])
async def close(name: Name, studio: TheStudio) -> Session:
    """End a session: its file is complete, and its record is written."""
    video = studio.find(name, KIND)
    await studio.close(video)
    return view(video)


@router.get(
    "/sessions/{name}/header", tags=["frames"], response_class=Response, responses={200: _MP4}
)
async def get_header(name: Name, studio: TheStudio) -> Response:
    """The header of the mp4, which a player is given before any block."""
    video = studio.find(name, KIND)
    if not video.blocks:
        raise Refused("the video has no block yet: wait for its first one.", 404)
    data = await asyncio.to_thread(video.index.read_header)
    return Response(data, media_type="video/mp4", headers={"x-codec": video.codec() or ""})


@router.get(
    "/sessions/{name}/blocks/{block}",
    tags=["frames"],
    response_class=Response,
    responses={200: _MP4, 204: {"description": "The block is not made yet."}},
)
async def get_block(
    name: Name, block: Block, request: Request, studio: TheStudio, wait: Wait = 0
) -> Response:
    """A block as a fragment of the mp4: the bytes that are in the file.

    Asking for a block lets the session make it, and some blocks after it.
    """
    video = studio.find(name, KIND)
    if not await _there(request, studio, video, block, wait):
        return Response(status_code=204)
    fragment = video.index.fragments[block]
    data = await asyncio.to_thread(video.index.read, fragment.start, fragment.end)
    headers = {
        "x-block": str(block),
        "x-first-frame": str(fragment.first),
        "x-frames": str(fragment.frames),
        "x-made-at": f"{video.made_at.get(block, 0):.3f}",
    }
    return Response(data, media_type="video/mp4", headers=headers)


@router.get(
    "/sessions/{name}/blocks/{block}/frames",
    tags=["frames"],
    response_model=Frames,
    responses={204: {"description": "The block is not made yet."}},
)
async def get_frames(
    name: Name,
    block: Block,
    request: Request,
    studio: TheStudio,
    wait: Wait = 0,
    format: Literal["png", "jpeg"] = "png",
) -> Any:
    """The frames of a block as pictures, decoded from the mp4."""
    video = studio.find(name, KIND)
    if not await _there(request, studio, video, block, wait):
        return Response(status_code=204)
    fragment = video.index.fragments[block]

    def read() -> list[str]:
        data = video.index.read(fragment.start, fragment.end)
        made = pictures(video.index.read_header(), data, format)
        return [base64.b64encode(picture).decode("ascii") for picture in made]

    frames = await asyncio.to_thread(read)
    return Frames(block=block, first=fragment.first, format=format, frames=frames)


@router.get(
    "/sessions/{name}/video.mp4",
    tags=["frames"],
    response_class=Response,
    responses={200: _MP4, 206: _MP4, 416: REFUSALS[400]},
)
async def get_video(
    name: Name,
    request: Request,
    studio: TheStudio,
    follow: Annotated[bool, Query(description="Go on until the video ends.")] = False,
) -> Response:
    """The mp4: as far as it is made, or with ``follow`` while it is made, up to its end."""
    video = studio.find(name, KIND)
    if follow:
        return Streamed(lambda put: _followed(studio, video, put), media_type="video/mp4")
    return mp4_of(request, video)


@router.get(
    "/sessions/{name}/record", tags=["frames"], response_class=Response, responses={200: _JSON}
)
async def get_record(name: Name, studio: TheStudio) -> Response:
    """The record of a video that has ended: what makes it again, and how long it took."""
    return record_of(studio, studio.find(name, KIND))


@router.post("/images", tags=["server"], status_code=201, openapi_extra=_PICTURE)
async def send_image(request: Request, studio: TheStudio) -> Picture:
    """Send a picture (jpeg, png or webp) that a video is to start with."""
    data = await request.body()
    return Picture(id=await asyncio.to_thread(studio.images.put, data))


def view(video: ServedVideo) -> Session:
    """What is told of a session."""
    return Session.model_validate(video.facts())


def mp4_of(request: Request, video: ServedVideo) -> Response:
    """The mp4 of a video, as far as it is made. Raises Refused before its first block."""
    if not video.blocks:
        raise Refused("the video has no block yet: wait for its first one.", 404)
    name = f'attachment; filename="longlive-{video.saved.id}.mp4"'
    return part_of_file(request, video.path, video.index.end, {"content-disposition": name})


def record_of(studio: Studio, video: ServedVideo) -> Response:
    """The record of a video, without the folders of this machine.

    Raises Refused while it has none.
    """
    if not video.record.is_file():
        raise Refused("the record is written when the video ends: close it first.", 404)
    text = video.record.read_text(encoding="utf-8")
    return Response(
        studio.without_paths(text, video),
        media_type="application/json",
        headers={"content-disposition": f'attachment; filename="longlive-{video.saved.id}.json"'},
    )


def _steered(studio: Studio, name: str, command: Command) -> Steered:
    event, lines = studio.steer(studio.find(name, KIND), command)
    return Steered.model_validate({"event": event, "lines": lines})


async def _there(
    request: Request, studio: Studio, video: ServedVideo, block: int, seconds: float
) -> bool:
    """Wait for a block; asks for it meanwhile, and takes that back if the client leaves."""
    if block < video.blocks:
        return _wanted(studio, video, block)

    def there() -> bool:
        return block < video.blocks or not video.open or studio.closing

    with video.credit.watching() as ask:
        ask(block)
        studio.wake()
        if not await waited(request, video, there, seconds):
            video.credit.revoke()
            return False
    if block < video.blocks:
        return _wanted(studio, video, block)
    if studio.closing:
        raise Refused("the server is being stopped.", 503)
    raise Refused(f"the video is {video.state} and has {video.blocks} blocks.", 404)


def _wanted(studio: Studio, video: ServedVideo, block: int) -> bool:
    """Note that a block was fetched: the next ones will be, too."""
    video.credit.watched(block)
    studio.wake()
    return True


async def _followed(studio: Studio, video: ServedVideo, put: Put) -> None:
    """Put the bytes of a video, as they are made, up to its end."""
    sent = block = 0
    with video.credit.watching() as ask:
        while not studio.closing:
            ask(block)
            studio.wake()
            while block < video.blocks:
                end = video.index.fragments[block].end
                await put(await asyncio.to_thread(video.index.read, sent, end))
                sent, block = end, block + 1
                ask(block)
                studio.wake()
            if not video.open:
                return
            await video.signal.wait(5.0)
