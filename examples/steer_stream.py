"""A video that is steered while it is made, stopped, resumed, and given a second ending.

Run: `python examples/steer_stream.py`
"""

from pathlib import Path

import torch

from longlive_models import LongLivePipeline, Video


def main(folder: Path, seconds: float = 8.0, model: str = "pocket") -> list[Path]:
    """Two videos of ``seconds`` that part in the middle; returns their files."""
    pipe = LongLivePipeline.from_pretrained(model)
    paused = folder / "paused.safetensors"
    with pipe.stream("a yellow star bounces on a navy background", seconds=seconds) as stream:
        past = [next(stream)]
        # "recache": what the next block sees of the past is encoded again, under the new prompt
        stream.prompt("a yellow star spins on a navy background", memory="recache")
        past.append(next(stream))
        stream.snapshot(paused)  # the process may end here

    stream = pipe.resume(paused)
    other = stream.fork()
    stream.cut("a green square moves left on a white background")  # a new shot
    other.prompt("a yellow star grows on a navy background", at=seconds / 2)

    files = []
    for name, ending in (("cut", stream), ("grows", other)):
        frames = torch.cat([block.frames for block in (*past, *ending)])
        video = Video(frames, ending.plan.timing.fps)
        files.append(video.save(folder / f"{name}.mp4"))
    return files


if __name__ == "__main__":
    main(Path())
