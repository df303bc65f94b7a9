"""Group 7: each rank's part of a video, encoded with a halo."""

from collections.abc import Mapping
from typing import Any

import torch

from longlive_core.sequence_parallel import halo_window
from longlive_models.vae import WAN22_VAE, encode_part, encode_window, load_vae
from tests.checks.framework import Case, Report, Verdict
from tests.checks.group_6 import ATOL, RTOL, config


@torch.no_grad()
def check(case: Case) -> Verdict:
    report = Report(case)
    vae = load_vae(case.weights, config=config(case))
    video, whole = case.tensors["input.video"], case.tensors.get("output.full_encode")
    if whole is not None:
        report.close("full_encode", vae.encode(video), whole, RTOL, ATOL)
    for row in case.meta.get("rank_windows", ()):
        keep, halo = range(row["keep_start"], row["keep_end"]), row["halo_latents"]
        _check_window(report, row, vae.config.temporal_stride)
        latents = encode_part(vae, video, keep, halo=halo)
        name = f"sp{row['sp_size']}.halo{halo}.rank{row['sp_rank']}"
        if (want := case.tensors.get(f"output.{name}")) is not None:
            report.close(name, latents, want, RTOL, ATOL)
        if whole is not None:
            part = whole[:, :, keep.start : keep.stop]
            derived = encode_part(vae, video, keep)
            report.close(f"{name} at the derived halo", derived, part, RTOL, ATOL)
    for row in case.meta.get("rank_windows_full_size", ()):
        _check_window(report, row, WAN22_VAE.temporal_stride)
        if row["halo_latents"] == WAN22_VAE.encoder_history:
            keep = range(row["keep_start"], row["keep_end"])
            window = halo_window(keep, halo=row["halo_latents"], stride=WAN22_VAE.temporal_stride)
            report.equal("derived window", encode_window(WAN22_VAE, keep), window)
    return report.verdict()


def _check_window(report: Report, row: Mapping[str, Any], stride: int) -> None:
    keep = range(row["keep_start"], row["keep_end"])
    window = halo_window(keep, halo=row["halo_latents"], stride=stride)
    got = {
        "raw_start": window.pixels.start,
        "raw_end": window.pixels.stop,
        "raw_frames": len(window.pixels),
        "drop_latents": window.drop,
        "local_latent_frames": len(window.keep),
    }
    name = f"window of rank {row['sp_rank']} of {row['sp_size']}, halo {row['halo_latents']}"
    report.equal(name, got, {key: row[key] for key in got})
