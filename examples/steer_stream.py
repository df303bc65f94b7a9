"""A video that is steered while it is made, stopped, resumed, and given a second ending.

Its files go to a new folder.

Run: `python examples/steer_stream.py`
"""

import tempfile
from pathlib import Path

import torch

from longlive_models import LongLivePipeline, Video


def main(folder: Path, seconds: float = 8.0, model: str = "pocket") -> list[Path]:
    """Two videos of ``seconds`` that part in the middle; returns their files."""
    pipe = LongLivePipeline.from_pretrained(model)
    paused = folder / "paused.safetensors"
    with pipe.stream("a blue square moves left on a white background", seconds=seconds) as stream:
        past = [next(stream)]
        # "recache": what the next block sees of the past is encoded again, under the new prompt
        stream.prompt("a yellow square moves left on a navy background", memory="recache")
        past.append(next(stream))
        stream.snapshot(paused)  # the process may end here

    stream = pipe.resume(paused)
    other = stream.fork()
    stream.cut("a green triangle moves up on a white background")  # a new shot
    other.prompt("a red square moves left on a navy background", at=seconds / 2)

    files = []
    for name, ending in (("cut", stream), ("red", other)):
        frames = torch.cat([block.frames for block in (*past, *ending)])
        video = Video(frames, ending.plan.timing.fps)
        files.append(video.save(folder / f"{name}.mp4"))
    return files


if __name__ == "__main__":
    print(*main(Path(tempfile.mkdtemp(prefix="longlive-"))), sep="\n")
