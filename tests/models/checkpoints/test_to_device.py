"""Weights through page-locked buffers: the same bits, each once, with little memory beside."""

import weakref
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from longlive_core.nvfp4 import convert_linears
from longlive_core.testing import assert_bitwise_equal
from longlive_models.checkpoints import to_device
from longlive_models.checkpoints.folder import fill
from longlive_models.checkpoints.to_device import move_weights
from longlive_models.layouts.sources import open_source

CPU = torch.device("cpu")


def same(tensor: Tensor) -> Tensor:
    return tensor


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=5),
    piece=st.integers(1, 64),
    group=st.integers(1, 300),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8]),
)
def test_every_value_arrives_whatever_the_pieces(shapes, piece, group, dtype):
    module = nn.Module()
    for i, shape in enumerate(shapes):
        module.register_buffer(f"b{i}", torch.randint(0, 100, shape).to(dtype))
    want = {name: buffer.clone() for name, buffer in module.named_buffers()}
    places = {name: buffer.data_ptr() for name, buffer in module.named_buffers()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_device, "PIECE", piece)
        patch.setattr(to_device, "GROUP", group)
        move_weights(module, CPU, same)
    for name, buffer in module.named_buffers():
        assert_bitwise_equal(buffer, want[name])
        assert not buffer.numel() or buffer.data_ptr() != places[name]


def test_a_weight_of_two_layers_stays_one(monkeypatch):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    both = nn.ModuleList([first, second])
    before = first.weight.detach().clone()
    seen = []

    def convert(tensor: Tensor) -> Tensor:
        seen.append(tuple(tensor.shape))
        return tensor.bfloat16()

    move_weights(both, CPU, convert)
    assert first.weight is second.weight
    assert_bitwise_equal(first.weight.detach(), before.bfloat16())
    assert len(seen) == 3


def test_packed_layers_keep_their_bits_and_strided_weights_their_values():
    model = nn.Sequential(
        nn.Linear(32, 32), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    )
    convert_linears(model, keep=())
    want = {name: x.clone() for name, x in model.state_dict().items()}
    move_weights(model, CPU, same)
    for name, x in model.state_dict().items():
        assert_bitwise_equal(x, want[name])


class Allocated(TorchDispatchMode):
    """Counts the bytes of memory on the CPU that operations return and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x.device.type == "cpu":
                storage = x.untyped_storage()
                if storage.data_ptr() not in self.known and not self._is_view(args, storage):
                    self.known.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._freed, storage.data_ptr(), storage.nbytes())
        return out

    def _is_view(self, args: Any, storage: Any) -> bool:
        given = [a for a in args if isinstance(a, Tensor) and a.device.type == "cpu"]
        return any(a.untyped_storage().data_ptr() == storage.data_ptr() for a in given)

    def _freed(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size


def test_the_host_holds_the_buffers_and_no_copy_of_a_shard(tmp_path, monkeypatch):
    """Two shards of 8 MiB through buffers of 64 KiB: less than a tenth of a shard is allocated."""
    monkeypatch.setattr(to_device, "PIECE", 1 << 14)
    sizes = {"0": (1024, 1024), "1": (1024, 1024), "2": (1024, 1024), "3": (1024, 1024)}
    tensors = {f"{name}.weight": torch.randn(size) for name, size in sizes.items()}
    names = list(tensors)
    for shard in (0, 1):
        part = {name: tensors[name] for name in names[2 * shard : 2 * shard + 2]}
        save_file(part, tmp_path / f"model-0000{shard + 1}-of-00002.safetensors")
    model = nn.Sequential(*(nn.Module() for _ in sizes))
    for part in model:
        part.register_buffer("weight", torch.empty(1024, 1024, device="meta"))
    with Allocated() as host:
        entries = open_source(tmp_path).entries
        fill(model, {name: entry.read() for name, entry in entries.items()}, tmp_path)
        move_weights(model, torch.device("meta"), partial(torch.Tensor.to, dtype=torch.bfloat16))
    assert {x.device.type for x in model.buffers()} == {"meta"}
    assert host.most < 0.1 * 2 * 4 * 1024 * 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_every_value_arrives_in_its_type():
    module = nn.Sequential(nn.Linear(3000, 4000), nn.Linear(4000, 17))
    want = [p.detach().clone() for p in module.parameters()]
    move_weights(module, torch.device("cuda"), partial(torch.Tensor.to, dtype=torch.bfloat16))
    for parameter, value in zip(module.parameters(), want, strict=True):
        assert_bitwise_equal(parameter.detach().cpu(), value.bfloat16())
