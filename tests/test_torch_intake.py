"""What the tensor functions make of the stranger kinds of torch tensors, and of models."""

import os

import numpy as np
import pytest
import torch
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

import gyrostat
from gyrostat import _intake
from gyrostat.pairs import compare_all


def test_plain_classes_are_read_by_the_core_itself(monkeypatch):
    def refuse(*args):
        raise AssertionError

    class Renamed(torch.Tensor):
        pass

    monkeypatch.setattr(_intake, "readable", refuse)
    assert hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    for cls in (torch.Tensor, torch.nn.Parameter, Renamed):
        assert _intake.is_plain_torch(cls)
    for x in (torch.ones(3), torch.nn.Parameter(torch.ones(3)), torch.ones(3).as_subclass(Renamed)):
        assert gyrostat.summarize(x).l1 == 3.0


class Subclass(torch.Tensor):
    pass


def _imaginary(n):
    return torch.complex(torch.ones(n), torch.arange(1.0, n + 1)).conj().imag


NEGATED = {
    "one value": lambda: _imaginary(1),
    "strided": lambda: _imaginary(3),
    "detached": lambda: _imaginary(3).detach(),
    "parameter": lambda: torch.nn.Parameter(_imaginary(3)),
    "subclass": lambda: _imaginary(3).as_subclass(Subclass),
}


@pytest.mark.parametrize("name", NEGATED)
def test_a_negated_view_is_never_read_with_the_wrong_sign(name):
    x, fine = NEGATED[name](), torch.ones(NEGATED[name]().numel())
    assert x.is_neg()
    for level in ("norm", "full"):
        with pytest.raises(TypeError, match=r"^x: expected .*resolve_neg"):
            gyrostat.summarize(x, level=level)
        for others in ([fine], [np.ones(3), fine], [np.ones(3)]):
            with pytest.raises(TypeError, match=r"^tensors.*resolve_neg"):
                gyrostat.summarize_all([*others, x], level=level)
    with pytest.raises(TypeError, match="resolve_neg"):
        gyrostat.summarize(x, dtype="float32")
    for pair in ([x], [fine]), ([fine], [x]):
        with pytest.raises(TypeError, match="resolve_neg"):
            compare_all(*pair)
    assert gyrostat.summarize(x.resolve_neg()).max == -1.0
    assert gyrostat.summarize(torch.complex(x.resolve_neg(), x.resolve_neg()).real).max == -1.0


def _fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(3)


def _functional():
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    with FunctionalTensorMode():
        return FunctionalTensor.to_functional(torch.ones(3))


def _freed():
    x = torch.ones(3)
    x.untyped_storage().resize_(0)
    return x


def _masked():
    from torch.masked import masked_tensor

    return masked_tensor(torch.ones(2), torch.tensor([True, False]))


def _quantised():
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)


STRANGE = {
    "fake": _fake,
    "functional": _functional,
    "functional inside": lambda: torch._to_functional_tensor(torch.ones(3)),
    "freed storage": _freed,
    "masked": _masked,
    "quantised": _quantised,
    "zero tensor": lambda: torch._efficientzerotensor(3),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "mkldnn": lambda: torch.ones(3, 3).to_mkldnn(),
    "meta": lambda: torch.empty(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "not initialised": torch.nn.UninitializedParameter,
    "float8 of another kind": lambda: torch.ones(3).to(torch.float8_e4m3fnuz),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.filterwarnings("ignore")  # torch says what it thinks of masked and sparse tensors
def test_tensors_without_readable_values_are_refused(name):
    x = STRANGE[name]()
    for call in (gyrostat.summarize, lambda x: gyrostat.total_norm({"layer": x})):
        with pytest.raises(TypeError, match=r"^(x|tensors\['layer'\]): expected .*, got "):
            call(x)


@pytest.fixture
def mesh():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29571", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("gloo")
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of torch.distributed
def test_a_dtensor_is_refused_and_its_shard_is_read(mesh):
    x = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
    for tensor in (x, torch.nn.Parameter(x)):
        with pytest.raises(TypeError, match="x: expected"):
            gyrostat.summarize(tensor)
    assert gyrostat.summarize(x.to_local()).l1 == 4.0


@pytest.mark.filterwarnings("ignore")  # of torch.distributed
def test_clipping_a_dtensor_is_left_to_torch(mesh):
    from gyrostat.integrations.torch import clip_grad_norm_

    p = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    p.grad = distribute_tensor(torch.full((4,), 2.0), mesh, [Shard(0)])
    assert clip_grad_norm_([p], 1.0).full_tensor().item() == pytest.approx(4.0)
    torch.testing.assert_close(p.grad.to_local(), torch.full((4,), 0.5))


def test_transforms_of_functions_do_not_leak_values():
    def norm(x):
        with pytest.raises(TypeError, match="x: expected"):
            gyrostat.summarize(x)
        return (x * x).sum()

    torch.func.vmap(norm)(torch.ones(2, 3))
    torch.func.grad(norm)(torch.ones(3))
    torch.func.functionalize(norm)(torch.ones(3))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_ordinary_tensors_in_extraordinary_places():
    with torch.inference_mode():
        assert gyrostat.summarize(torch.ones(3)).l1 == 3.0
    import torch.autograd.forward_ad as forward

    with forward.dual_level():
        assert gyrostat.summarize(forward.make_dual(torch.ones(3), torch.zeros(3))).l1 == 3.0
    values = np.arange(5, dtype=np.float32)
    odd = torch.frombuffer(bytearray(b"?" + values.tobytes()), dtype=torch.float32, offset=1)
    assert odd.data_ptr() % 4 == 1
    assert gyrostat.summarize(odd) == gyrostat.summarize(values)


def test_more_axes_than_the_shape_has_room_for():
    x = torch.arange(2.0**12).view((2,) * 12).permute(*range(11, -1, -1))
    assert gyrostat.summarize(x) == gyrostat.summarize(torch.arange(2.0**12))
    deep = torch.ones((1,) * 40 + (3, 2)).transpose(-1, -2)
    assert gyrostat.summarize(deep).count == 6


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_floats(dtype):
    bits = torch.arange(256, dtype=torch.uint8).repeat(300)
    x = bits.view(dtype)
    expected = gyrostat.summarize(x.double())
    name = str(dtype).removeprefix("torch.")
    for got in (
        gyrostat.summarize(x),
        gyrostat.summarize(bits, dtype=name),
        gyrostat.summarize(bits.numpy(), dtype=name),
        gyrostat.summarize_all([x])["0"],
    ):
        assert got.dtype == name
        for statistic in ("count", "nan_count", "posinf_count", "zero_count", "min", "max", "sum"):
            assert getattr(got, statistic) == getattr(expected, statistic)
        np.testing.assert_array_equal(got.exponent_histogram, expected.exponent_histogram)
        for statistic in ("l1", "l2", "var", "kurtosis"):
            assert getattr(got, statistic) == pytest.approx(getattr(expected, statistic), rel=1e-12)
        assert gyrostat.TensorStats.from_dict(got.to_dict()) == got
    assert gyrostat.total_norm([x[x.double().isfinite()]]) == pytest.approx(expected.l2, rel=1e-12)
    rows = x.view(300, 256)[:, 3:100]
    assert gyrostat.summarize(rows) == gyrostat.summarize(rows.contiguous())


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used = torch.nn.Linear(3, 2, bias=False)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.frozen(self.used(x))


def test_a_model_stands_for_its_gradients_or_its_parameters():
    model = Model()
    model(torch.ones(1, 3)).sum().backward()
    grads = gyrostat.summarize_all(model)
    assert grads.names == ("used.weight",)
    assert grads.missing == ("frozen.weight", "frozen.bias")
    assert grads["used.weight"] == gyrostat.summarize(model.used.weight.grad)
    assert gyrostat.total_norm(model) == pytest.approx(grads["used.weight"].l2, rel=1e-14)
    weights = gyrostat.summarize_all(model, of="parameters")
    assert weights.names == ("used.weight", "frozen.weight", "frozen.bias")
    named = dict(model.named_parameters())
    assert gyrostat.total_norm(model, of="parameters") == gyrostat.total_norm(named)
    with pytest.raises(ValueError, match="of: expected 'gradients' or 'parameters', got 'buffers'"):
        gyrostat.total_norm(model, of="buffers")
