"""Many tensors at once: the table, the total, the global norm."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
import torch

import gyrostat
import reference

RNG = np.random.default_rng(3)
TENSORS = {
    "a": RNG.standard_normal((30, 40)),
    "b": RNG.standard_normal(70_000).astype(np.float32),
    "c": np.array([1.0, np.nan, -np.inf], np.float16),
    "d": np.empty(0, ml_dtypes.bfloat16),
}


def test_a_table_holds_what_each_tensor_gives_alone():
    table = gyrostat.summarize_all(TENSORS)
    assert table.names == tuple(TENSORS)
    assert len(table) == 4
    assert list(table) == [gyrostat.summarize(x) for x in TENSORS.values()]
    assert all(table[name] == gyrostat.summarize(x) for name, x in TENSORS.items())
    assert "a" in table
    assert "z" not in table
    with pytest.raises(KeyError, match="z"):
        table["z"]


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        (list(TENSORS.values()), ("0", "1", "2", "3")),
        (tuple(TENSORS.values()), ("0", "1", "2", "3")),
        ((x for x in TENSORS.values()), ("0", "1", "2", "3")),
        (TENSORS.items(), ("a", "b", "c", "d")),
        ([], ()),
        ({}, ()),
    ],
)
def test_collections_of_any_kind(tensors, names):
    table = gyrostat.summarize_all(tensors)
    assert table.names == names
    assert list(table) == [gyrostat.summarize(x) for x in list(TENSORS.values())[: len(names)]]


def test_a_model_and_its_gradients():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[1].bias.requires_grad_(requires_grad=False)
    model(torch.randn(8, 4)).sum().backward()
    weights = gyrostat.summarize_all(model.named_parameters())
    assert weights.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert weights.missing == ()
    gradients = gyrostat.summarize_all({n: p.grad for n, p in model.named_parameters()})
    assert gradients.names == ("0.weight", "0.bias", "1.weight")
    assert gradients.missing == ("1.bias",)
    expected = torch.nn.utils.get_total_norm(
        [p.grad for p in model.parameters() if p.requires_grad]
    )
    assert gradients.total.l2 == pytest.approx(expected.item(), rel=1e-6)
    norm = gyrostat.total_norm(p.grad for p in model.parameters())
    assert norm == pytest.approx(gradients.total.l2, rel=1e-13)


def test_columns_are_arrays():
    table = gyrostat.summarize_all(TENSORS)
    assert table.count.dtype == table.nan_count.dtype == np.int64
    assert table.count.tolist() == [1200, 70_000, 3, 0]
    assert table.nonfinite_count.tolist() == [0, 0, 2, 0]
    assert table.l2.dtype == np.float64
    assert table.l2.tolist() == [record.l2 for record in table]
    assert {"l2", "kurtosis"} <= set(dir(table))
    with pytest.raises(AttributeError, match="l3"):
        table.l3  # noqa: B018 - the access itself must fail


def test_the_total_is_the_merge_in_order():
    table = gyrostat.summarize_all(TENSORS)
    a, b, c, d = table
    assert table.total == a.merge(b).merge(c).merge(d)
    assert table.total.dtype == "mixed"
    assert gyrostat.summarize_all([]).total.count == 0
    assert gyrostat.summarize_all([]).total.dtype is None


def test_a_table_as_json_as_frame_and_as_text():
    table = gyrostat.summarize_all(TENSORS | {"frozen": None})
    plain = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert gyrostat.TensorStats.from_dict(plain["c"]) == table["c"]
    frame = table.to_pandas()
    assert list(frame.index) == list(table.names)
    assert frame.loc["b", "l2"] == table["b"].l2
    assert frame["nan_count"].tolist() == table.nan_count.tolist()
    assert "4 tensors" in repr(table)
    assert "\n" not in repr(table)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (np.ones((2, 2)), "got one ndarray"),
        (torch.ones(2, 2), "got one Tensor"),
        ("abc", "got one str"),
        (3, "got int"),
        (torch.nn.Linear, "a mapping, a sequence or a model, got type"),
        ({0: np.ones(2)}, "names that are strings"),
        ([np.ones(2), [1.0]], "'1'"),
        ([("a", np.ones(2)), ("b", 2.0)], "'b'"),
    ],
)
def test_what_is_no_collection_of_tensors_is_named(tensors, message):
    for function in (gyrostat.summarize_all, gyrostat.total_norm):
        with pytest.raises(TypeError, match=f"^tensors.*{message}"):
            function(tensors)


def test_a_name_that_comes_twice_is_refused():
    for pair in [("a", np.ones(2)), ("a", None)]:
        with pytest.raises(ValueError, match="'a' more often"):
            gyrostat.summarize_all([("a", np.ones(2)), pair])


@pytest.mark.parametrize(
    "tensors",
    [
        TENSORS["a"],
        TENSORS["b"],
        1e25 * TENSORS["a"].astype(np.float32),
        1e-25 * TENSORS["a"].astype(np.float32),
        1e200 * TENSORS["a"],
        1e-200 * TENSORS["a"],
        1e-310 * TENSORS["a"],
        300 * np.ones(10**6, np.float16),  # whose norm float16 cannot hold
    ],
)
def test_the_norm_is_that_of_its_twin(tensors):
    parts = np.array_split(tensors.ravel(), 5)
    expected = reference.total_norm(parts)
    tolerance = 1e-12 * expected + np.longdouble(5e-324)
    assert abs(gyrostat.total_norm(parts) - expected) <= tolerance


def test_the_norm_of_bfloat16_gradients_does_not_depend_on_how_they_are_split():
    # torch gives the norm in bfloat16, and so up to 0.4 % off, which differs with the split.
    x = torch.randn(100_000).bfloat16()
    expected = reference.total_norm([x.float().numpy()])
    for parts in (1, 3, 100):
        assert gyrostat.total_norm(x.chunk(parts)) == pytest.approx(float(expected), rel=1e-12)


def test_the_norm_does_not_hide_what_is_not_finite():
    fine, inf, nan = np.ones(3), np.array([np.inf]), np.array([np.nan])
    assert gyrostat.total_norm([fine, -inf, fine]) == math.inf
    assert math.isnan(gyrostat.total_norm([fine, inf, 1e300 * fine, nan]))
    assert gyrostat.total_norm([fine, np.ones(1)]) == 2.0
    assert gyrostat.total_norm([None, fine, np.ones(1)]) == 2.0
    assert gyrostat.total_norm([]) == 0.0
