"""A snapshot that the benchmarks write opens as a published model of its own depth."""

from dataclasses import replace

import pytest

from benchmarks.snapshot import write_snapshot
from longlive_models.layouts import depth
from longlive_models.published import find_files, open_files
from longlive_models.text import UMT5Config
from longlive_models.vae import WAN22_VAE
from longlive_models.wan import WAN_5B


def test_one_with_fewer_layers_than_the_published_model_of_its_width_is_whole(
    tmp_path, monkeypatch
):
    wan = replace(WAN_5B, num_layers=2, dim=128, num_heads=1, ffn_dim=256, text_dim=32)
    vae = replace(WAN22_VAE, encoder_dim=4, decoder_dim=4, num_res_blocks=1)
    text = UMT5Config(vocab_size=16, dim=32, dim_attn=64, dim_ffn=64, num_heads=1, num_layers=1)
    monkeypatch.setattr(depth, "KNOWN", {("transformer", 128, 256): ("the published model", 30)})
    write_snapshot(tmp_path, wan, vae, text)
    assert open_files(find_files(tmp_path)).checked_spec().transformer == wan
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="it holds 2 blocks, and the published model"):
        open_files(find_files(tmp_path)).checked_spec()
