"""What the tensor functions take: layouts, torch, DLPack; and what they refuse."""

import types

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gyrostat

RNG = np.random.default_rng(7)


def _packed(dtype):
    """A field of a packed record: its values lie at odd addresses, an odd number of bytes apart."""
    x = np.zeros((300, 400), [("flag", "u1"), ("value", dtype)])["value"]
    x[...] = RNG.standard_normal(x.shape)
    assert not x.flags.aligned
    return x


def _wide(shape=(300, 400), dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


VIEWS = {
    "every second": _wide()[:, ::2],
    "every third row": _wide()[::3],
    "backwards": _wide()[::-1, ::-1],
    "transposed": _wide().T,
    "Fortran": np.asfortranarray(_wide()),
    "axes in another order": _wide((7, 30, 11, 50)).transpose(2, 0, 3, 1),
    "channels last": _wide((64, 9, 9, 33)).transpose(0, 3, 1, 2),
    "short rows": _wide((100_000, 4))[:, :3],
    "broadcast": np.broadcast_to(_wide((300, 1)), (300, 400)),
    "broadcast scalar": np.broadcast_to(np.float32(3), (5, 6)),
    "0-d": np.array(-2.5, np.float32),
    "0-d of a view": _wide()[2:3, 5:6][0, ..., 0],
    "no value": _wide()[:0, ::-2],
    "column": _wide()[:, 17],
    "field of a record": np.full((9, 9), 2, [("a", "f4"), ("b", "f4")])["b"],
    "packed f2": _packed("f2"),
    "packed f4": _packed("f4"),
    "packed f8": _packed("f8").T[::-1],
    "odd address": np.arange(4001, dtype=np.uint8)[1:].view(np.float32)[::7],
    "read only": np.frombuffer(_wide().tobytes(), np.float32),
    "float16": _wide(dtype=np.float16)[::2, ::-1],
    "bfloat16": _wide(dtype=ml_dtypes.bfloat16).T,
    "float64": _wide(dtype=np.float64)[:, 5:],
    "many axes": _wide((2,) * 14).T.reshape((1,) * 10 + (2,) * 14),
    "40 axes": np.ones((1,) * 40, np.float32) if np.lib.NumpyVersion(np.__version__) >= "2.0.0"
    else np.ones((1,) * 30, np.float32),
}  # fmt: skip


def _as_it_lies(x):
    """A contiguous copy in the order of memory: long steps outside, nothing backwards."""
    x = x[tuple(slice(None, None, -1 if step < 0 else 1) for step in x.strides)]
    axes = sorted(range(x.ndim), key=lambda i: (x.strides[i] != 0, -x.strides[i]))
    return x.transpose(axes).copy(order="C")


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_gives_the_bits_of_its_copy(name):
    x = VIEWS[name]
    copy = _as_it_lies(x)
    before = x.tobytes()
    assert gyrostat.summarize(x) == gyrostat.summarize(copy)
    assert gyrostat.summarize(x).count == x.size
    assert gyrostat.total_norm([x]) == gyrostat.total_norm([copy])
    assert x.tobytes() == before


@given(st.data())
def test_any_slices_give_the_bits_of_their_copy(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    steps = st.sampled_from([-3, -2, -1, 1, 2, 3])
    base = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) * 0.37
    axes = data.draw(st.permutations(range(len(shape))))
    x = base.transpose(axes)[tuple(slice(None, None, data.draw(steps)) for _ in shape)]
    assert gyrostat.summarize(x) == gyrostat.summarize(_as_it_lies(x))


def test_the_order_of_the_axes_does_not_show():
    x = _wide((3, 70, 400)) + np.float32(0.1)
    expected = gyrostat.summarize(x)
    for same in (x.T, x.transpose(1, 0, 2), x[::-1], x.T[:, ::-1], x[::-1, ::-1, ::-1]):
        assert gyrostat.summarize(same) == expected
        assert gyrostat.total_norm([same]) == gyrostat.total_norm([x])
    t = torch.randn(8, 33, 9, 9)
    expected = gyrostat.summarize(t.permute(0, 2, 3, 1).contiguous())
    assert gyrostat.summarize(t.to(memory_format=torch.channels_last)) == expected


TORCH = {
    "float32": torch.randn(70_000),
    "float64": torch.randn(1000, dtype=torch.float64),
    "float16": torch.randn(1000).half(),
    "bfloat16": torch.randn(1000).bfloat16(),
    "parameter": torch.nn.Parameter(torch.randn(30, 40)),
    "bfloat16 parameter": torch.nn.Parameter(torch.randn(30, 40).bfloat16()),
    "with a gradient": torch.randn(50, requires_grad=True) * 2,
    "transposed": torch.randn(300, 400).T,
    "bfloat16 view": torch.randn(300, 400).bfloat16()[::3, 5:].T,
    "expanded": torch.randn(300, 1).expand(300, 40),
    "channels last": torch.randn(8, 33, 9, 9).to(memory_format=torch.channels_last),
    "0-d": torch.tensor(1.5),
    "no value": torch.empty(0, 3),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_tensors_are_read_as_they_are(name):
    t = TORCH[name]
    version = t._version
    expected = t.detach().double().contiguous().numpy()
    got, wanted = gyrostat.summarize(t), gyrostat.summarize(expected)
    assert got.dtype == str(t.dtype).removeprefix("torch.")
    assert got.to_dict()["exponent_counts"] == wanted.to_dict()["exponent_counts"]
    for statistic in ("count", "min", "max"):
        np.testing.assert_array_equal(getattr(got, statistic), getattr(wanted, statistic))
    wide = t.dtype in {torch.float32, torch.float64}
    norm, var = (1e-12, 1e-11) if wide else (2e-6, 5e-6)
    for statistic, bound in {"l1": norm, "l2": norm, "var": var}.items():
        expected = getattr(wanted, statistic)
        assert getattr(got, statistic) == pytest.approx(expected, rel=bound, abs=0, nan_ok=True)
    assert got.sum == pytest.approx(wanted.sum, rel=0, abs=norm * wanted.l1)
    bound = 5e-6 * (wanted.kurtosis + 3) if t.dtype != torch.float64 else 1e-11
    assert got.kurtosis == pytest.approx(wanted.kurtosis, rel=0, abs=bound, nan_ok=True)
    assert t._version == version
    assert gyrostat.total_norm([t]) == pytest.approx(wanted.l2, rel=1e-13)


class Shared:
    """A tensor of a framework that is only known by DLPack."""

    def __init__(self, array, device=(1, 0)):
        self._array, self._device = array, device

    def __dlpack__(self, **options):
        if self._device[0] != 1:
            raise BufferError("on another device")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._device


def test_dlpack_objects_are_read_as_they_are():
    x = _wide()
    assert gyrostat.summarize(Shared(x)) == gyrostat.summarize(x)
    assert gyrostat.summarize(Shared(x.T)) == gyrostat.summarize(x)


class Subclass(np.ndarray):
    pass


class TorchSubclass(torch.Tensor):
    pass


def test_scalars_and_subclasses_are_tensors():
    assert gyrostat.summarize(np.float32(-3)).l1 == 3.0
    x = _wide()
    assert gyrostat.summarize(x.view(Subclass)) == gyrostat.summarize(x)
    assert gyrostat.summarize(torch.ones(3).as_subclass(TorchSubclass)).l1 == 3.0


BAD = {
    "list": ([1.0, 2.0], "list"),
    "float": (1.0, "float"),
    "None": (None, "NoneType"),
    "str": ("abc", "str"),
    "int": (np.arange(3), "int64"),
    "bool": (np.ones(3, bool), "bool"),
    "complex": (np.ones(3, complex), "complex128"),
    "object": (np.array([1.0, None], object), "'O'"),
    "text": (np.array(["1.0"]), "<U3"),
    "date": (np.array(["2026-01-01"], "M8[D]"), "M8"),
    "long double": (np.ones(3, np.longdouble), ""),
    "byte-swapped": (np.ones(3, np.dtype(np.float32).newbyteorder()), "order of this machine"),
    "float8 of another kind": (np.ones(3, ml_dtypes.float8_e4m3b11fnuz), "float8_e4m3b11fnuz"),
    "bits": (np.ones(3, np.uint8), "uint8"),
    "masked": (np.ma.masked_invalid([1.0, np.nan]), "without a mask"),
    "record": (np.zeros(3, [("a", "f4")]), "f4"),
    "torch int": (torch.arange(3), "int64"),
    "torch complex": (torch.ones(3, dtype=torch.complex64), "complex64"),
    "torch float8": (torch.ones(3).to(torch.float8_e5m2fnuz), "float8_e5m2fnuz"),
    "torch sparse": (torch.eye(3).to_sparse(), "sparse_coo"),
    "torch sparse 16": (torch.eye(3).half().to_sparse(), "sparse_coo"),
    "torch meta": (torch.empty(3, device="meta"), "use .cpu()"),
    "another device": (Shared(np.ones(3), (2, 0)), "host memory"),
    "DLPack int": (Shared(np.arange(3)), "int64"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_float_tensor_is_named(name):
    bad, got = BAD[name]
    with pytest.raises(TypeError, match=r"^x: expected .*, got ") as info:
        gyrostat.summarize(bad)
    assert got in str(info.value)
    if bad is None:
        return
    for function in (gyrostat.summarize_all, gyrostat.total_norm):
        with pytest.raises(TypeError, match=r"^tensors\['layer.weight'\]: expected .*, got "):
            function({"fine": np.ones(3), "layer.weight": bad})


def test_any_number_of_strided_axes():
    x = np.arange(4096, dtype=np.float32).reshape((2,) * 12)[..., *([None] * 20)].T
    assert gyrostat.summarize(x) == gyrostat.summarize(_as_it_lies(x))


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_8_bit_floats(dtype):
    x = np.arange(256, dtype=np.uint8).repeat(9).view(dtype)
    name = np.dtype(dtype).name
    expected = gyrostat.summarize(x.astype(np.float64))
    got = gyrostat.summarize(x)
    assert got.dtype == name
    assert (got.nan_count, got.posinf_count, got.zero_count) == (
        expected.nan_count,
        expected.posinf_count,
        expected.zero_count,
    )
    np.testing.assert_array_equal(got.exponent_histogram, expected.exponent_histogram)
    assert got.l2 == pytest.approx(expected.l2, rel=1e-12)
    bits = x.view(np.uint8)
    assert gyrostat.summarize(bits, dtype=name) == got
    assert gyrostat.summarize(bits.reshape(48, -1).T, dtype=name).l1 == got.l1
    assert gyrostat.summarize(x, dtype=name) == got


def test_integers_hold_the_bits_that_the_dtype_says():
    x = _wide(dtype=np.float16)
    assert gyrostat.summarize(x.view(np.uint16), dtype="float16") == gyrostat.summarize(x)
    brain = _wide(dtype=ml_dtypes.bfloat16)
    bits = torch.from_numpy(brain.view(np.uint16))
    assert gyrostat.summarize(bits, dtype="bfloat16") == gyrostat.summarize(brain)
    with pytest.raises(ValueError, match=r"dtype: expected one of 'float64', .*, got 'int8'"):
        gyrostat.summarize(bits, dtype="int8")
    for x, dtype in ((_wide(), "float8_e5m2"), (brain, "float16"), (bits, "float8_e4m3fn")):
        with pytest.raises(TypeError, match=f"x: expected dtype {dtype} or its bits"):
            gyrostat.summarize(x, dtype=dtype)


ONES = {"a": np.ones(3), "b": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    "tensors",
    [
        ONES,
        types.MappingProxyType(ONES),
        list(ONES.items()),
        tuple(ONES.items()),
        iter(ONES.items()),
        {**ONES, "c": None},
        [*ONES.items(), ("c", None)],
    ],
    ids=["dict", "mapping", "list", "tuple", "iterator", "None in a dict", "None in a list"],
)
def test_collections_with_names(tensors):
    table = gyrostat.summarize_all(tensors)
    assert table.names == ("a", "b")
    assert set(table.missing) <= {"c"}
    assert table["b"].dtype == "float32"


def test_collections_without_names():
    for tensors in ([np.ones(3), None, np.ones(3)], (x for x in (np.ones(3), None, np.ones(3)))):
        table = gyrostat.summarize_all(tensors)
        assert (table.names, table.missing) == (("0", "2"), ("1",))
    mixed = gyrostat.summarize_all([np.ones(3), ("b", np.ones(3)), np.ones(2)])
    assert mixed.names == ("0", "b", "2")
    assert gyrostat.total_norm([]) == 0.0
    assert gyrostat.total_norm({}) == 0.0


def test_a_name_is_never_made_up_from_what_is_no_pair():
    with pytest.raises(ValueError, match="each name once, got '1' more often"):
        gyrostat.total_norm([("1", np.ones(3)), np.ones(3)])
    with pytest.raises(TypeError, match=r"tensors\['a'\]: expected .*, got tuple"):
        gyrostat.total_norm({"a": ("b", np.ones(3))})
