"""Small videos made for tests: of any rate, size and kind, whole and broken."""

import json
from fractions import Fraction
from pathlib import Path

import av
import torch

from longlive_models.video import VideoWriter
from longlive_recipes.configs.prepare_data import PrepareData

CAPTIONS = (
    "a red circle moves right on a navy background",
    "a yellow star spins on a black background",
    "a green square bounces on a white background",
)


def write_clip(path: Path, frames: int, *, fps: float = 12, size=(40, 56), seed: int = 0) -> Path:
    """A video of patches that change with every frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (frames, size[0] // 8, size[1] // 8, 3), generator=generator)
    pixels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=fps, size=size) as writer:
        writer.write(pixels.contiguous())
    return path


def write_with_av(
    path: Path,
    times: list[Fraction],
    *,
    size=(40, 56),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    audio_first: bool = False,
    brightness=lambda n: 8 * n % 256,
) -> Path:
    """A video whose frames, each brighter than the one before, are shown at the given times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000) if audio_first else None
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 240)
        if sound is not None:
            silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            silence.sample_rate, silence.pts = 8000, 0
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
        for number, time in enumerate(times):
            gray = torch.full((*size, 3), brightness(number), dtype=torch.uint8)
            frame = av.VideoFrame.from_ndarray(gray.numpy(), format="rgb24")
            frame.pts, frame.time_base = round(time * 240), Fraction(1, 240)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def caption(video: Path, text: str) -> Path:
    """Write the caption beside a video; returns the video."""
    video.with_suffix(".txt").write_text(text)
    return video


def folder_of_clips(place: Path, frames=(70, 35, 64)) -> Path:
    """Videos with captions beside them: 0.mp4, 1.mp4, ..."""
    for number, count in enumerate(frames):
        caption(write_clip(place / f"{number}.mp4", count, seed=number), CAPTIONS[number % 3])
    return place


def stories(place: Path) -> Path:
    """The original's layout: one story of three shots, one of one."""
    for story, shot, frames in (("b", 10, 70), ("b", 2, 30), ("b", "last", 33), ("a", 0, 40)):
        write_clip(place / "video" / story / f"{shot}.mp4", frames, seed=frames)
        text = place / "caption" / story / f"{shot}.json"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(json.dumps({"caption": f"shot {shot} of {story}"}))
    return place


def tiny(vae: Path, **changes) -> PrepareData:
    """What takes clips of 32 x 32 pixels, twelve a second, two blocks at most."""
    settings = {"height": 32, "width": 32, "fps": 12, "blocks": 2, "device": "cpu"}
    return PrepareData(model=str(vae), **(settings | changes))
