"""The bodies of requests and answers, from which the OpenAPI document is made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from longlive_models.prompts.storyboard import Shot
from longlive_recipes.generation.commands import Command
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.saved import Wish

Text = Annotated[
    str,
    Field(min_length=1, max_length=4000, pattern=r"\S", description="What the video shows."),
]
Memory = Literal["keep", "recache", "cut", "forget"]
MEMORY = (
    "What is kept of the past: all of it; all of it, encoded again under the new prompt (recache); "
    "a new shot begins (cut); or one that does not remember what was before (forget)."
)
NOTES = (
    "What is to be said of the video: words that the model does not know, or sampling that it was "
    "not trained for."
)
MOST_SHOTS = 1000


class Form(BaseModel):
    """A body of a request: fields that are not known are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ShotForm(Form):
    """A prompt, and how long it is shown."""

    prompt: Text
    seconds: Annotated[float, Field(gt=0, le=1e6)] | None = None


class WishForm(Form):
    """What a video shows, and how it is made; what is left out is the model's choice."""

    prompt: Text | None = None
    shots: Annotated[list[ShotForm], Field(min_length=1, max_length=MOST_SHOTS)] | None = Field(
        default=None, description="Several prompts in place of one, with a cut between each two."
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    seconds: Annotated[float, Field(gt=0, le=1e6)] | None = None
    sampler: Literal["unipc", "euler", "few_step"] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Denoising steps of a block."
    )
    guidance: Annotated[float, Field(ge=0, le=1000)] | None = None
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    crf: Annotated[int, Field(ge=0, le=51)] | None = Field(
        default=None, description="Quality of the mp4, from 0, the best, to 51."
    )
    weights: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="A precision that the server offers."
    )
    image: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The id of a picture that was sent, which the video starts with."
    )

    def wish(self) -> Wish:
        """What is asked for. Raises Refused unless it has one of prompt and shots."""
        if (self.prompt is None) == (self.shots is None):
            raise Refused("a video has a prompt or shots, one of the two.")
        shots = self.shots or [ShotForm(prompt=self.prompt or "")]
        return Wish(
            shots=tuple(Shot(prompt=shot.prompt, seconds=shot.seconds) for shot in shots),
            seed=self.seed,
            seconds=self.seconds,
            sampler=self.sampler,
            steps=self.steps,
            guidance=self.guidance,
            negative_prompt=self.negative_prompt,
            crf=self.crf,
            weights=self.weights,
        )


class ReplayForm(Form):
    """The record of a video, which is made again."""

    record: dict[str, Any]
    image: Annotated[str, Field(max_length=64)] | None = None


class PromptForm(Form):
    """A new prompt."""

    text: Text
    memory: Memory = Field(default="keep", description=MEMORY)
    at: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="Seconds into the video; left out: from the next block on."
    )

    def command(self) -> Command:
        """The prompt as a command that steers."""
        return Command(kind=self.memory, text=self.text, at=self.at)


class CutForm(Form):
    """A new shot."""

    text: Text
    forget: bool = False


class ForkForm(Form):
    """A second ending of a video."""

    block: Annotated[int, Field(ge=0, le=1 << 40)] | None = Field(
        default=None, description="The first block that is another; left out: the next one."
    )
    text: Text | None = None
    memory: Memory = Field(default="keep", description=MEMORY)

    def ending(self) -> Command | None:
        """The command with which the fork begins."""
        return None if self.text is None else Command(kind=self.memory, text=self.text)


class TokenForm(Form):
    """The secret that the server was started with."""

    token: Annotated[str, Field(max_length=256)]


class Error(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer of 400 and above."""

    error: Error


class Event(BaseModel):
    """A change of the prompt, from a block on."""

    block: int
    text: str
    memory: str
    forget: bool


class Steered(BaseModel):
    """The answer to a new prompt; ``lines`` say what of it the model leaves out."""

    event: Event
    lines: list[str]


class Begin(BaseModel):
    """The first block of a planned shot."""

    block: int
    text: str


class Session(BaseModel):
    """A video that is made while it is watched."""

    id: str
    kind: Literal["session", "video"]
    state: Literal["queued", "running", "paused", "stopped", "ended", "failed"]
    created: float
    finished: float | None
    prompt: str
    seed: int
    parent: str | None
    parent_block: int | None
    error: str | None
    notes: list[str] = Field(description=NOTES)
    blocks: int = Field(description="Blocks in the file.")
    frames: int
    bytes: int
    codec: str | None = Field(description="The codec of the mp4, for MediaSource.")
    shots: list[Begin]
    events: list[Event]
    snapshots: list[int] = Field(description="Blocks before which there is a snapshot.")
    has_record: bool
    fps_made: float = Field(description="Frames made in a second, lately.")
    watchers: int
    memory: int = Field(description="The peak of memory in use, in bytes.")
    backends: list[str]
    next_block: int | None = Field(description="The first block that can be steered.")
    frames_total: int | None


class Sessions(BaseModel):
    """All sessions, newest first."""

    data: list[Session]


class Snapshot(BaseModel):
    """A snapshot that was taken."""

    block: int


class Picture(BaseModel):
    """A picture that was sent."""

    id: str


class Frames(BaseModel):
    """The frames of a block as pictures in base64."""

    block: int
    first: int = Field(description="The number of the first of them in the video.")
    format: Literal["png", "jpeg"]
    frames: list[str]


class Job(BaseModel):
    """A whole video in the queue, in the shape of OpenAI's videos."""

    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: dict[str, str] | None
    notes: list[str] = Field(description=NOTES)
    seed: int
    frames: int
    frames_total: int | None
    before: int | None = Field(description="How many videos of the queue come first.")


class Jobs(BaseModel):
    """Whole videos, newest first."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Deleted(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted", "session.deleted"]
    deleted: bool


class ServerLimits(BaseModel):
    """What the server gives at most."""

    sessions: int
    seconds: float
    steps: int
    queue: int
    upload_mb: int
    ahead: int
    snapshot_every: int
    snapshot_mb: int


class Server(BaseModel):
    """The model of a server, and what runs it."""

    version: str
    model: str
    width: int
    height: int
    fps: float
    frames_of_first_block: int
    frames_of_block: int
    sampler: str
    steps: int | list[int]
    guidance: float
    weights: list[str]
    device: str
    machine: str
    backends: dict[str, list[str]]
    limits: ServerLimits
