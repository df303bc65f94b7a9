#!/usr/bin/env bash
# Package:  Diffusers 0.42.1 with torch 2.13.0
# Expected: AutoencoderKLWan encodes every frame that it is given, or refuses a number of frames
#           that it cannot encode
# Behavior: behind the first frame it takes whole groups of four and leaves out the rest, without a
#           word: of 8 frames the last three do not matter, and 5 come back. A clip in a cache of
#           latents is shorter than its video.
# Seen:     2026-11-30
#           Diffusers 0.42.1: 8 frames are 2 latents, 5 frames come back
#           the last 3 frames replaced: the same latents
# Here:     such a number of frames is refused (longlive_models/vae/autoencoder.py).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" "diffusers==0.42.1" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import AutoencoderKLWan

torch.manual_seed(0)
vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
video = torch.randn(1, 3, 8, 16, 16)
other = torch.cat([video[:, :, :5], torch.randn(1, 3, 3, 16, 16)], dim=2)
with torch.no_grad():
    latents, changed = (vae.encode(x).latent_dist.mean for x in (video, other))
    back = vae(video).sample
frames = f"{latents.shape[2]} latents, {back.shape[2]} frames come back"
same = torch.equal(latents, changed)
print(f"Diffusers {diffusers.__version__}: {video.shape[2]} frames are {frames}")
print(f"the last 3 frames replaced: {'the same' if same else 'other'} latents")
sys.exit(0 if same and back.shape[2] == 5 else 1)
PYTHON
