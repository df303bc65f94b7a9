"""Make the small golden folder that ships with the tests out of the whole one.

    python tests/checks/trim.py SOURCE tests/golden

Cases are copied as they are, but for the tensors named in DROPPED: large outputs that the others of
their case imply. Inputs and weights stay. The manifest keeps the entries of the copied cases, with
new sizes and hashes.
"""

import argparse
import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

GROUPS = (1, 2, 4, 5, 6, 8)  # whole
CASES = (  # of other groups
    "c3_kv_clean_recache",
    "c3_kv_multi_shot",
    "c3_kv_relative_rope",
    "c7_vae_chunk_halo",
    "c9_nvfp4_matmul",
    "c11_ar_loss_error_recycling",
    "c11_critic_loss",
    "c11_dmd_loss",
    "c11_error_buffer",
    "c11_self_forcing_rollout_b2",
    "c12_state_dict_dit_causal",
    "c12_state_dict_umt5_encoder",
    "c12_state_dict_vae",
)
DROPPED = (
    "output.*block[0-9]",
    "output.*block[0-9].*",
    "output.*block[0-9]_clean_then_noisy",
    "output.*time_projection",
    "output.hd128.case0.*",
    "output.decode_of_encode",
    "output.decode",
    "output.call*.x0",
    "output.step[0-9].x0_pred",
    "output.hd32.case0.*",
)
LIMIT = 8_000_000  # bytes of the whole folder


def trim(source: Path, target: Path) -> None:
    """Write the trimmed copy of `source` to `target`, which is emptied first."""
    manifest = json.loads((source / "manifest.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    cases = {
        name: meta
        for name, meta in manifest["cases"].items()
        if meta["group"] in GROUPS or name in CASES
    }
    manifest["cases"] = {
        name: _copy(source / meta["file"], target / meta["file"], meta)
        for name, meta in cases.items()
    }
    (target / "manifest.json").write_text(json.dumps(manifest) + "\n")
    size = sum(path.stat().st_size for path in target.iterdir())
    assert size <= LIMIT, f"{target} has {size} bytes, more than {LIMIT}: drop more"


def _copy(source: Path, target: Path, meta: dict[str, Any]) -> dict[str, Any]:
    if source.suffix != ".safetensors":
        target.write_bytes(source.read_bytes())
        return meta
    tensors = {
        name: tensor
        for name, tensor in load_file(source).items()
        if not any(fnmatch(name, pattern) for pattern in DROPPED)
    }
    save_file(tensors, target)
    data = target.read_bytes()
    kept = {name: value for name, value in meta["tensors"].items() if name in tensors}
    return {
        **meta,
        "tensors": kept,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the whole golden folder")
    parser.add_argument("target", type=Path, help="the folder to write")
    options = parser.parse_args()
    trim(options.source, options.target)
