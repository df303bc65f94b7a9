"""Steering a video while it is made: events as plain data, and the schedule that they change.

An event is a block and what it shows from there on. A plan and its events always make the same
video, no matter when the events were added. Needs no torch.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from longlive_core.checks import real, shown, whole
from longlive_models.prompts.storyboard import BlockPrompt, Number, ShotPlan
from longlive_models.prompts.text import require_prompt
from longlive_models.timing import MOST_LATENT_FRAMES
from longlive_models.unknown_keys import refuse_unknown_keys

MEMORY = ("keep", "recache", "cut")
"""What a block sees of the past at a new prompt; see ``SteeringEvent``."""

At = str | Number
"""When a prompt takes effect: "next", the next block to be denoised, or a time in seconds."""


@dataclass(frozen=True, kw_only=True)
class SteeringEvent:
    """A change of prompt: from ``block`` on, the video shows ``text``.

    ``memory`` says what the block sees of the past. With ``keep`` it sees the same pages as without
    the event. With ``recache`` these pages are first encoded again under the new text, oldest
    first, each seeing those before it, at their old positions. With ``cut`` a new shot begins,
    whose first block still sees the shot before. With ``cut`` and ``forget``, the keys and values
    that are kept of that block are encoded without the shot before, and later blocks do not see it
    either (``shot_clean_recache`` of LongLive-2.0).

    Raises ValueError for an empty text, an unknown word, or what cannot go together.
    """

    block: int
    text: str
    memory: str = "keep"
    forget: bool = False

    def __post_init__(self) -> None:
        _require_event(self.block, self.text, self.memory, self.forget)
        object.__setattr__(self, "block", int(self.block))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def of(cls, value: Any) -> "SteeringEvent":
        """An event from what ``to_dict`` gave, or as it is; ValueError for anything else."""
        if isinstance(value, SteeringEvent):
            return value
        if not isinstance(value, Mapping) or not {"block", "text"} <= value.keys():
            raise ValueError(
                f"an event is an object with the keys 'block' and 'text', got {shown(value)}: it "
                f"says what to show from where on. Pass what stream.events gave."
            )
        refuse_unknown_keys("an event", value, [field.name for field in fields(cls)])
        block, text = value["block"], value["text"]
        memory, forget = value.get("memory", "keep"), value.get("forget", False)
        _require_event(block=block, text=text, memory=memory, forget=forget)
        return cls(block=block, text=text, memory=memory, forget=forget)


class LiveSchedule:
    """The plan of a video with the events that change it: a PromptSchedule that can grow.

    An event holds until the next one, or until the plan starts its next shot. At a block where the
    plan starts a shot, an event takes that shot's place; of several events for one block the last
    one counts. Blocks that have begun do not change. May be used from several threads.

    Args:
        plan: the plan without events.
        events: events known from the start, as ``SteeringEvent`` or in the form of ``to_dict``.
        begun: how many blocks have begun, and so cannot be changed.

        Raises:
            ValueError: an event is not valid, or past the end of the plan.
    """

    def __init__(self, plan: ShotPlan, events: Iterable[Any] = (), *, begun: int = 0) -> None:
        if not isinstance(events, Iterable) or isinstance(events, str | bytes | Mapping):
            raise ValueError(
                f"events are a list, got {shown(events)}: each is a change at a block. Pass what "
                f"stream.events gave."
            )
        self.plan = plan
        self._begun = begun
        self._lock = threading.Lock()
        self._events: dict[int, SteeringEvent] = {}
        for event in map(SteeringEvent.of, events):
            self._require_within(event.block, f"an event at block {event.block}")
            self._events[event.block] = event

    @property
    def begun(self) -> int:
        """The number of blocks that have begun, and so cannot be changed."""
        return self._begun

    @property
    def events(self) -> tuple[SteeringEvent, ...]:
        """The events that have an effect, in the order of their blocks."""
        with self._lock:
            return tuple(self._events[block] for block in sorted(self._events))

    def has(self, index: int) -> bool:
        """Whether the video has this block."""
        return self.plan.endless or index < self.plan.blocks

    def begin(self, index: int) -> BlockPrompt:
        """Return the prompt of block ``index``, which cannot be changed from now on."""
        with self._lock:
            self._begun = max(self._begun, index + 1)
        return self.block(index)

    def block(self, index: int) -> BlockPrompt:
        """The prompt of block ``index`` with the events so far."""
        plan, events = self.plan, {event.block: event for event in self.events}
        starts = dict(zip(plan.starts[1:], plan.prompts[1:], strict=True))
        cuts = {block for block in starts if block not in events}
        cuts |= {block for block, event in events.items() if event.memory == "cut"}
        shot = sum(block <= index for block in cuts)
        newest = max((block for block in {*starts, *events} if block <= index), default=None)
        if newest is None:
            return plan.prompt(plan.prompts[0], shot=0, cut=False)
        event = events.get(newest)
        text = starts[newest] if event is None else event.text
        if newest < index:
            return plan.prompt(text, shot=shot, cut=False)
        return plan.prompt(
            text,
            shot=shot,
            cut=newest in cuts,
            recache=event is not None and event.memory == "recache",
            forget=event is not None and event.forget,
        )

    def add(
        self, text: str, *, at: At = "next", memory: str = "keep", forget: bool = False
    ) -> SteeringEvent:
        """Add an event at the next block, or at the block edge nearest to ``at`` seconds.

        Raises:
            ValueError: the text is empty, ``memory`` is unknown, or the time is past or beyond the
                end.
        """
        with self._lock:
            soon = isinstance(at, str) and at == "next"
            block = self._begun if soon else self._block_at(at)
            self._require_within(block, f"at={shown(at)}")
            event = SteeringEvent(block=block, text=text, memory=memory, forget=forget)
            self._events[block] = event
            return event

    def prompts(self) -> list[tuple[str, str]]:
        """All prompts of the video, in pairs: as it was given, and as its first block has it."""
        plan = self.plan
        planned = [
            (text, plan.prompt(text, shot=shot, cut=shot > 0).text)
            for shot, text in enumerate(plan.prompts)
        ]
        steered = [
            (event.text, plan.prompt(event.text, shot=0, cut=event.memory == "cut").text)
            for event in self.events
        ]
        return planned + steered

    def fork(self) -> "LiveSchedule":
        """An independent schedule that is the same so far."""
        return LiveSchedule(self.plan, self.events, begun=self._begun)

    def _block_at(self, at: Any) -> int:
        why = (
            "a prompt takes effect at the next block or so many seconds into the video. Use "
            "'next', or for example at=12.5."
        )
        seconds, timing = real("at", at, at_least=0, why=why), self.plan.timing
        block = timing.blocks_nearest(seconds, opening=True) if seconds else 0
        if block < self._begun:
            raise ValueError(
                f"at={shown(at)} is past: it falls on block {block}, and {self._begun} blocks have "
                f"been begun. Use at='next', or a time from {timing.seconds(self._begun):.2f} s on."
            )
        return block

    def _require_within(self, block: int, what: str) -> None:
        if not self.has(block):
            raise ValueError(
                f"{what} is past the end: the video has {self.plan.blocks} blocks, and none is "
                f"left to be generated from there on. Steer earlier, or make the video longer."
            )


def _require_event(block: Any, text: Any, memory: Any, forget: Any) -> None:
    """Raise ValueError unless these make an event; values may come straight from a file."""
    require_prompt(text)
    why = "an event takes effect at a block, counted from 0. Use for example block=3."
    whole("an event's block", block, at_least=0, at_most=MOST_LATENT_FRAMES, why=why)
    if not isinstance(memory, str) or memory not in MEMORY:
        raise ValueError(
            f"memory={shown(memory)} is none of {', '.join(MEMORY)}: the past is "
            f"kept, encoded again under the new prompt, or left by a cut. Use one of them."
        )
    if not isinstance(forget, bool) or (forget and memory != "cut"):
        raise ValueError(
            f"forget={shown(forget)} with memory={memory!r}: only a cut can forget what "
            f"was before it. Use cut(text, forget=True), or leave forget out."
        )
    if memory == "cut" and block == 0:
        raise ValueError(
            "a cut at block 0 has nothing to cut from: the video starts there. "
            "Use memory='keep', or cut at a later block."
        )
