"""A video as an HTML element with the file embedded, for notebooks."""

import base64
import tempfile
from pathlib import Path

import av
import torch
from jaxtyping import UInt8
from torch import Tensor

from longlive_models.video.files import VideoWriter

MOST_BYTES = 32 * 1024 * 1024
"""The most bytes of an embedded video: notebooks keep it in their file, and browsers in memory."""


def video_tag(frames: UInt8[Tensor, "frames height width 3"], fps: float) -> str:
    """A player with the video as mp4 in base64; a sentence for videos without frames or too large.

    An odd height or width, which mp4 cannot have, is made even by repeating the last row or column.
    """
    count, height, width, _ = frames.shape
    if not count:
        return "<p>a video without frames</p>"
    data = _mp4(frames, fps)
    if len(data) > MOST_BYTES:
        return (
            f"<p>a video of {count} frames, {count / fps:.1f} s; its {len(data) / 1e6:.0f} MB are "
            f"too many for a notebook: write it to a file with save(), and open that</p>"
        )
    text = base64.b64encode(data).decode("ascii")
    return (
        f'<video controls loop autoplay muted playsinline width="{width}" height="{height}">'
        f'<source src="data:video/mp4;base64,{text}" type="video/mp4"></video>'
    )


def _mp4(frames: Tensor, fps: float) -> bytes:
    """A plain mp4, in one piece with its index in front: every browser plays it."""
    height, width = frames.shape[1:3]
    if height % 2:
        frames = torch.cat([frames, frames[:, -1:]], dim=1)
    if width % 2:
        frames = torch.cat([frames, frames[:, :, -1:]], dim=2)
    size = (frames.shape[1], frames.shape[2])
    with tempfile.TemporaryDirectory() as folder:
        pieces, whole = Path(folder, "pieces.mp4"), Path(folder, "whole.mp4")
        with VideoWriter(pieces, fps=fps, size=size) as writer:
            writer.write(frames)
        options = {"movflags": "faststart"}
        with av.open(str(pieces)) as source, av.open(str(whole), "w", options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:  # the last one is empty
                    packet.stream = stream
                    target.mux(packet)
        return whole.read_bytes()
