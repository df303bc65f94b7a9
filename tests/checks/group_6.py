"""Group 6: the VAE whole, in pieces, and what it remembers between pieces."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from longlive_models.vae import WAN22_VAE, StreamState, VAEConfig, WanVAE, load_vae
from longlive_models.vae.layers import patchify
from tests.checks.framework import Case, Report, Verdict

RTOL, ATOL = 1e-3, 1e-4


def check(case: Case) -> Verdict:
    report, tensors = Report(case), case.tensors
    case.config.use("stream_chunks")

    def close(name: str, got: Tensor) -> None:
        if (want := tensors.get(f"output.{name}")) is not None:
            report.close(name, got, want, RTOL, ATOL)

    vae = load_vae(case.weights, config=config(case))
    trailing = "encode_two_trailing_frames_dropped"
    with torch.no_grad():
        if (video := tensors.get("input.video")) is not None:
            latents = vae.encode(video)
            close("encode", latents)
            close("encode_pruned_class", latents)
            close("encode_unscaled", vae.moments(video)[0])
            close("encode_first_frame_only", vae.encode(video[:, :, :1]))
            close("patchify_frame0", patchify(video[:, :, :1], vae.config.patch_size))
            close("decode_of_encode", vae.decode(latents))
            close(trailing, vae.encode(torch.cat([video, video[:, :, :2]], 2), parity=True))
            check_encoder(report, vae, video)
        if (video := tensors.get("input.video_batch2")) is not None:
            close("encode_batch2", vae.encode(video))
        if (latents := tensors.get("input.latent")) is not None:
            close("decode", vae.decode(latents))
            close("decode_one_latent", vae.decode(latents[:, :, :1]))
            check_stream(report, vae, latents)
    close("wan22_latent_mean", torch.tensor(WAN22_VAE.latent_mean))
    close("wan22_latent_std", torch.tensor(WAN22_VAE.latent_std))
    return report.verdict(parity=f"output.{trailing}" in tensors)


def config(case: Case) -> VAEConfig:
    sizes: Mapping[str, Any] = case.config
    return VAEConfig(
        encoder_dim=sizes["dim"],
        decoder_dim=sizes["dec_dim"],
        latent_channels=sizes["z_dim"],
        dim_mult=tuple(sizes["dim_mult"]),
        num_res_blocks=sizes["num_res_blocks"],
        temporal_downsample=tuple(sizes["temperal_downsample"]),
        latent_mean=tuple(case.tensors["input.mean"].tolist()),
        latent_std=tuple(case.tensors["input.std"].tolist()),
    )


def check_encoder(report: Report, vae: WanVAE, video: Tensor) -> None:
    """The encoder's features for the first frame, then for each group, and its cache."""
    collected: list[Tensor] = []
    hook = vae.conv1.register_forward_pre_hook(lambda _, inputs: collected.append(inputs[0]))
    state, group = None, vae.config.temporal_stride
    for piece in [video[:, :, :1], *video[:, :, 1:].split(group, 2)]:
        _, state = vae.encode_block(piece, state)
    hook.remove()
    for step, features in enumerate(collected):
        if (want := report.case.tensors.get(f"output.encoder_step{step}")) is not None:
            report.close(f"encoder_step{step}", features, want, RTOL, ATOL)
    check_cache(report, "encoder_cache_slot_shapes", state)


def check_stream(report: Report, vae: WanVAE, latents: Tensor) -> None:
    """Streaming decode: chunk after chunk with the state carried along."""
    state, start = None, 0
    for number, size in enumerate(report.case.config["stream_chunks"]):
        video, state = vae.decode_block(latents[:, :, start : start + size], state)
        start += size
        if (want := report.case.tensors.get(f"output.stream_chunk{number}")) is not None:
            report.close(f"stream_chunk{number}", video, want, RTOL, ATOL)
    check_cache(report, "decoder_cache_slot_shapes", state)


def check_cache(report: Report, field: str, state: StreamState | None) -> None:
    if state is not None and field in report.case.meta:
        used = [shape for shape in report.case.meta[field] if shape is not None]
        channels_last = [tuple(frames.shape) for frames in state.history]
        report.equal(field, [[b, c, t, h, w] for b, t, h, w, c in channels_last], used)
