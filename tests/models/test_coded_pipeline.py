"""Videos whose attention reads windows in E4M3: the same, however a stream came to its block."""

import torch

from longlive_core.kv_cache import PagedKVCache
from longlive_models import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.stream import Stream
from tests.models.tiny_pipeline import tiny_pipeline


def pipeline() -> LongLivePipeline:
    return tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", quality="high")), guidance=1.0)


def begin(pipe: LongLivePipeline) -> Stream:
    return pipe.stream("a red circle", seconds=2, seed=3)


def frames(stream: Stream) -> torch.Tensor:
    return torch.cat([block.frames for block in stream])


def test_a_stream_that_is_forked_or_resumed_goes_on_with_the_same_bytes(monkeypatch, tmp_path):
    plain = frames(begin(pipeline()))  # on a CPU no cache is made with windows
    coded = []

    def read_coded(cache: PagedKVCache, layer: int):
        coded.append(layer)
        return original(cache, layer)

    original = PagedKVCache.read_coded
    monkeypatch.setattr(PagedKVCache, "read_coded", read_coded)
    monkeypatch.setattr(Runtime, "reads_windows", lambda runtime, head_dim: True)
    pipe = pipeline()
    want = frames(begin(pipe))
    assert coded and not torch.equal(want, plain)
    stream = begin(pipe)
    first = next(stream).frames
    snapshot = stream.snapshot(tmp_path / "stream.safetensors")
    fork = stream.fork()
    for one in (fork, stream, pipe.resume(snapshot)):
        assert torch.equal(torch.cat((first, frames(one))), want)
