"""Checkpoints of torch state: every dtype, shared memory, optimizers, shards."""

import math

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import gloo
from gyrostat.guard.checkpoints import newest_complete
from gyrostat.integrations.torch import TorchSubject
from gyrostat.integrations.torch.checkpoints import (
    check_finite,
    read_checkpoint,
    read_sharded,
    write_checkpoint,
    write_sharded,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*support is experimental")

DTYPES = sorted(
    {d for d in vars(torch).values() if isinstance(d, torch.dtype) and "q" not in str(d)}
    - {torch.quint4x2, torch.quint2x4},
    key=str,
)


def there_and_back(path, state):
    write_checkpoint(path, state, {"step": 1})
    return read_checkpoint(path)[0]


def bits(t):
    return t.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_with_its_bits(tmp_path, dtype):
    raw = torch.randint(0, 2, (4 * 3 * 16,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(4, -1)
    state = {
        "t": tensor,
        "part": raw[16:80].clone().view(dtype),
        "none": torch.empty(0, 3, dtype=dtype),
    }
    back = there_and_back(tmp_path / "x.safetensors", state)
    for name, t in state.items():
        assert (back[name].dtype, back[name].shape) == (t.dtype, t.shape)
        assert bits(back[name]) == bits(t)


def test_nan_with_a_payload_keeps_it(tmp_path):
    t = torch.tensor([0x7FC00001, -1], dtype=torch.int32).view(torch.float32)
    assert bits(there_and_back(tmp_path / "x.safetensors", [t])[0]) == bits(t)


def test_tensors_that_share_memory_share_it_again(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tied = nn.Parameter(torch.ones(3))
    state = {
        "tied": [tied, tied.detach()],
        "views": [base[1:3], base.T[2:5], base.view(torch.int32)[0], base[2, 3]],
        "own": base.clone()[1:2],
        "signs": [torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag],
    }
    path = tmp_path / "x.safetensors"
    back = there_and_back(path, state)
    for key, tensors in state.items():
        for a, b in zip(tensors, back[key], strict=True):
            assert torch.equal(a.detach(), b)
    one, two = back["tied"]
    one += 1
    assert torch.equal(two, torch.full((3,), 2.0))
    back["views"][0][:] = -1  # rows 1 and 2
    assert back["views"][1].tolist() == [[r, -1, -1, 18 + r] for r in (2.0, 3.0, 4.0)]
    assert back["views"][3] == -1
    # A row of a large tensor does not bring the rest along.
    write_checkpoint(path, [torch.zeros(1_000_000)[:3]], {})
    assert path.stat().st_size < 2000


def training(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer),
            torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 8]),
        ],
        [4],
    )
    return model, optimizer, scheduler, TorchSubject(model, optimizer, scheduler, None)


def steps(model, optimizer, scheduler, n):
    for _ in range(n):
        loss = model(torch.randn(16, 4, dtype=torch.bfloat16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return [bits(t) for t in model.state_dict().values()]


def test_a_run_read_from_a_checkpoint_goes_on_with_the_same_bits(tmp_path):
    *parts, subject = training(0)
    steps(*parts, 5)
    write_checkpoint(tmp_path / "x.safetensors", subject.capture(), {"step": 5})
    expected = steps(*parts, 5)
    *others, again = training(1)
    again.restore(read_checkpoint(tmp_path / "x.safetensors")[0])
    assert steps(*others, 5) == expected


def test_other_readers_find_the_weights(tmp_path):
    model = nn.Linear(3, 2, dtype=torch.bfloat16)
    write_checkpoint(tmp_path / "x.safetensors", {"model": model.state_dict()}, {})
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert {n: bits(t) for n, t in found.items()} == {
        f"model.{n}": bits(t) for n, t in model.state_dict().items()
    }


def test_what_cannot_be_written_is_named(tmp_path):
    for tensor in [torch.ones(2).to_sparse(), torch.ones(2, device="meta")]:
        with pytest.raises(TypeError, match=r"state: a\.0 is a Tensor of layout"):
            write_checkpoint(tmp_path / "x.safetensors", {"a": [tensor]}, {})
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_named():
    half = torch.ones(3, dtype=torch.bfloat16)
    eighth = torch.tensor([0x7F, 0x10], dtype=torch.uint8).view(torch.float8_e4m3fn)
    check_finite({"a": half, "n": torch.ones(2, dtype=torch.int64), "inf": math.inf})
    half[1] = math.nan
    bad = {"w": half, "e": eighth, "f": eighth.view(torch.float8_e4m3fnuz), "z": half.float() + 1j}
    with pytest.raises(ValueError, match=r"NaN or Inf in w \(1\), e \(1\), z \(1\)$"):
        check_finite(bad)


# Sharded


def test_one_process_writes_and_reads_a_folder(tmp_path):
    state = {"model": nn.Linear(3, 2).state_dict(), "step": 3}
    write_sharded(tmp_path / "step-3", state, {"step": 3, "loss": math.inf})
    assert [p.name for p in tmp_path.iterdir()] == ["step-3"]
    assert newest_complete(tmp_path) == tmp_path / "step-3"
    other = {"model": nn.Linear(3, 2).state_dict(), "step": 0}
    assert read_sharded(tmp_path / "step-3", other)["step"] == 3
    assert all(torch.equal(other["model"][k], v) for k, v in state["model"].items())
    assert other["step"] == 3
    with pytest.raises(FileExistsError, match="path: "):
        write_sharded(tmp_path / "step-3", state, {})
    with pytest.raises(FileNotFoundError):
        read_sharded(tmp_path / "none", state)
    (tmp_path / ".step-4.tmp").mkdir()  # a kill left it; it is no checkpoint
    assert newest_complete(tmp_path) == tmp_path / "step-3"


def shards(path=None):
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(12.0).reshape(4, 3)
    state = {"w": distribute_tensor(whole, mesh, [Shard(0)])}
    if path is None:
        with pytest.raises(TypeError, match=r"state: w is a DTensor .* write_sharded"):
            write_checkpoint("x.safetensors", state, {})
        return None
    write_sharded(path, state, {"step": 8})
    other = {"w": distribute_tensor(torch.zeros(4, 3), mesh, [Shard(1)])}
    meta = read_sharded(path, other)
    return meta["step"], torch.equal(other["w"].full_tensor(), whole)


class Shards:
    """A scenario that knows its folder."""

    __name__ = "Shards"

    def __init__(self, path):
        self.path = path

    def __call__(self):
        shards()
        return shards(self.path)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_ranks_write_their_shards_and_read_them_in_another_layout(tmp_path):
    (tmp_path / "gloo").mkdir()
    path = tmp_path / "step-8"
    told = gloo.run(2, [Shards(path)], tmp_path / "gloo")
    assert told["Shards"] == [(8, True)] * 2
    assert newest_complete(tmp_path) == path
    state = {"w": torch.zeros(4, 3)}
    read_sharded(path, state)
    assert state["w"].tolist() == torch.arange(12.0).reshape(4, 3).tolist()
