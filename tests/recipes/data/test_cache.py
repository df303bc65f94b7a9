"""One process writes to a cache at a time, and an index that cannot be is refused."""

import json

import pytest
import torch

from longlive_recipes.data.cache import CacheWriter
from longlive_recipes.data.cache_index import CachedClip, CacheSettings, read_index

SETTINGS = CacheSettings(
    height=32, width=32, fps=12.0, frames_per_block=8, temporal_factor=4, blocks=2, vae="0"
)


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with CacheWriter(tmp_path / "cache", SETTINGS, shard_bytes=1) as first:
        with pytest.raises(ValueError, match="another process is writing to the cache"):
            CacheWriter(tmp_path / "cache", SETTINGS, shard_bytes=1)
        first.close((), ())
    with CacheWriter(tmp_path / "cache", SETTINGS, shard_bytes=1) as second:
        assert second.clips == 0


def test_an_interrupt_keeps_the_clips_that_were_added(tmp_path):
    def clip(number: int) -> CachedClip:
        return CachedClip(
            source="a.mp4", key="k", number=number, shard="", captions=("x",), cuts=(False,)
        )

    with (
        pytest.raises(KeyboardInterrupt) as stop,
        CacheWriter(tmp_path, SETTINGS, shard_bytes=1 << 20) as cache,
    ):
        for number in range(2):
            cache.add(clip(number), torch.zeros(1, 8, 2, 2, dtype=torch.bfloat16))
        raise KeyboardInterrupt
    assert stop.value.__notes__[0].startswith("2 clips are in ")
    assert [one.number for one in read_index(tmp_path).clips] == [0, 1]
    with CacheWriter(tmp_path, SETTINGS, shard_bytes=1) as again:
        assert again.has_clip("k", 1) and not again.have("k")  # the video is not at its end


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has the format 2, and 1 is read here"),
        ({"clips": [{"source": "a"}]}, "lacks key, number, shard"),
        ({"shards": {"../a.safetensors": ""}}, "expected the name of a file beside it"),
        (
            {
                "shards": {"a": ""},
                "clips": [
                    {"source": "v", "key": "k", "number": 0, "shard": "a", "captions": ["x"]}
                    | {"cuts": [False, True]}
                ],
            },
            "with 1 captions and 2 cuts, which cannot be",
        ),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path, change, message):
    with CacheWriter(tmp_path, SETTINGS, shard_bytes=1) as cache:
        cache.close((), ())
    file = tmp_path / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_index(tmp_path)


def test_a_folder_without_an_index_is_no_cache(tmp_path):
    with pytest.raises(ValueError, match="is no cache of clips: it holds no index.json"):
        read_index(tmp_path)
