#!/usr/bin/env bash
# Package:  PyAV 18.1.0 (15.1.0 and 17.1.0 do the same)
# Expected: frame.side_data is a collections.abc.Mapping, so that iterating it gives its keys, and
#           .values(), .items() and dict() go through all of it
# Behavior: iterating gives the values. .values(), .items() and dict() look these up as keys, and
#           end in a KeyError on every frame that has side data: the first one of each file that
#           x264 wrote, say.
# Seen:     2026-11-30
#           PyAV 18.1.0: a Mapping of 1, items() raises KeyError <av.sidedata.SideData ...
# Here:     longlive_models/video/reader.py asks for side data by name.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "av==18.1.0" numpy || exit 2
"$work/venv/bin/python" - <<'PYTHON'
import io
import sys
from collections.abc import Mapping

import av
import numpy as np

file = io.BytesIO()
with av.open(file, "w", format="mp4") as out:
    stream = out.add_stream("libx264", rate=8)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    picture = np.zeros((32, 32, 3), np.uint8)
    out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    out.mux(stream.encode())
file.seek(0)
with av.open(file) as container:
    side_data = next(container.decode(video=0)).side_data
try:
    told = f"{len(list(side_data.items()))} items"
except KeyError as error:
    told = f"items() raises KeyError {str(error)[:40]}..."
kind = "a Mapping" if isinstance(side_data, Mapping) else "no Mapping"
print(f"PyAV {av.__version__}: {kind} of {len(side_data)}, {told}")
sys.exit(0 if isinstance(side_data, Mapping) and "KeyError" in told else 1)
PYTHON
