"""Frames block by block, as they are made, and what each block took.

Run: `python examples/stream_blocks.py`
"""

from longlive_models import LongLivePipeline


def main(seconds: float = 4.0, model: str = "pocket") -> int:
    """Two shots of ``seconds`` in all; returns how many frames there were."""
    # "thread" decodes a block while the next one is being denoised: the frames stay the same
    pipe = LongLivePipeline.from_pretrained(model, lane="thread")
    shots = {
        "shots": [
            {"prompt": "a yellow star moves right on a navy background", "seconds": seconds / 2},
            {"prompt": "a green triangle moves up on a white background"},
        ]
    }
    shown = 0
    # two steps in all blocks after the first are quicker than the model's own four, and rougher
    with pipe.stream(shots, seconds=seconds, seed=0, steps=(4, 2)) as stream:
        for block in stream:
            shown += len(block.frames)  # uint8 [frames, height, width, 3], on the CPU
            took = block.timing
            print(
                f"block {block.index}: {len(block.frames)} frames, denoised in {took.denoise:.2f} "
                f"s, decoded in {took.decode:.2f} s, here after {took.elapsed:.2f} s"
                f"{', a cut' if block.prompt.cut else ''}"
            )
    return shown


if __name__ == "__main__":
    main()
