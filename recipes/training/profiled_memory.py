"""The memory that a computation takes on a CPU, by torch's profiler."""

import json
import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


class ProfiledPeak:
    """Counts the bytes that torch's CPU allocator gives out between two calls."""

    def start(self) -> None:
        """Begin to count: what is there now is not counted."""
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()

    def stop(self) -> int:
        """The most bytes that were held at a time since ``start``."""
        self._profile.__exit__(None, None, None)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
        events = [e["args"] | {"ts": e["ts"]} for e in events if e.get("name") == "[memory]"]
        alive: dict[int, int] = {}
        now = peak = 0
        for event in sorted(events, key=lambda e: (e["ts"], e["Ev Idx"])):
            if event["Bytes"] > 0:
                alive[event["Addr"]] = event["Bytes"]
                now += event["Bytes"]
            else:
                now -= alive.pop(event["Addr"], 0)
            peak = max(peak, now)
        return peak
