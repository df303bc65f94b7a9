#!/usr/bin/env bash
# Package:  Diffusers 0.42.1 with torch 2.13.0, transformers 5.24.0 and PEFT 0.21.2
# Expected: load_lora_weights applies all of a Wan adapter in ComfyUI's names, or says what it
#           leaves out. Adapters that were extracted from a distilled model have whole differences
#           (`.diff`) for norms, modulation and patch embedding beside their low ranks.
# Behavior: these differences are dropped at the level of "info" or "debug", which is not shown. The
#           model is neither the plain one nor the adapted one.
# Seen:     2026-11-30
#           Diffusers 0.42.1: changed ['blocks.0.attn1.to_q.weight'], 0 warnings
#           unchanged: blocks.0.norm2.weight, blocks.0.scale_shift_table, patch_embedding.weight
# Here:     differences are applied, and unknown keys refused (longlive_models/adapters).
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" "diffusers==0.42.1" "transformers==5.24.0" \
    "peft==0.21.2" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

warned = []
handler = logging.Handler(logging.WARNING)
handler.emit = warned.append
logging.getLogger("diffusers").addHandler(handler)
model = WanTransformer3DModel(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
    freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
)  # fmt: skip
before = {name: value.clone() for name, value in model.state_dict().items()}
adapter = {
    "blocks.0.self_attn.q.lora_down.weight": torch.ones(4, 24),
    "blocks.0.self_attn.q.lora_up.weight": torch.ones(24, 4),
    "blocks.0.norm3.diff": torch.ones(24),
    "blocks.0.modulation.diff": torch.ones(1, 6, 24),
    "patch_embedding.diff": torch.ones(24, 4, 1, 2, 2),
}
pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), transformer=model)
warned.clear()
pipe.load_lora_weights({f"diffusion_model.{name}": value for name, value in adapter.items()})
pipe.fuse_lora()
pipe.unload_lora_weights()
after = model.state_dict()
changed = [name for name in before if not torch.equal(before[name], after[name])]
ours = ["blocks.0.norm2.weight", "blocks.0.scale_shift_table", "patch_embedding.weight"]
print(f"Diffusers {diffusers.__version__}: changed {changed}, {len(warned)} warnings")
print(f"unchanged: {', '.join(name for name in ours if name not in changed)}")
sys.exit(0 if changed == ["blocks.0.attn1.to_q.weight"] and not warned else 1)
PYTHON
