"""Records of tensors on several ranks, in real gloo process groups of 4 and of 2."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import gloo
import gyrostat
from gyrostat.findings import Finding
from gyrostat.integrations.torch import DistributedTable, summarize_distributed
from gyrostat.integrations.torch.distributed import _ready

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


@dataclasses.dataclass
class Told:
    """A table in a form that travels from the processes to the tests."""

    records: dict
    missing: tuple
    nonfinite_ranks: dict
    findings: list
    whole: dict  # by name the record of the whole tensor, where the scenario knows it

    def __post_init__(self):
        self.findings = [Finding.from_dict(f) for f in self.findings]


def tell(table, whole=None):
    assert isinstance(table, DistributedTable)
    findings = [f.to_dict() for f in table.findings]
    whole = {} if whole is None else gyrostat.summarize_all(whole).to_dict()
    return Told(table.to_dict(), table.missing, table.nonfinite_ranks, findings, whole)


def values(*shape, dtype=torch.float32):
    return (torch.randn(shape) * torch.randn(shape).exp()).to(dtype)


def mesh_of(*shape):
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", shape, mesh_dim_names=("outer", "inner")[: len(shape)])


def placed(tensor, mesh, *placements):
    """Every rank must hold the same ``tensor``; none is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def flip_bit(tensor, index=0, bit=0):
    """Flips a bit of a float32 in place."""
    flat = tensor.detach().view(-1)
    flat.view(torch.int32)[index] ^= 1 << bit


# Scenarios: they run on every rank, and what they return comes back to the tests below.


def replicated():
    whole = {"w": values(300, 50), "b": values(50, dtype=torch.bfloat16), "s": values()}
    tensors = {**whole, "frozen": None}
    tensors["w"] = tensors["w"].t().contiguous().t()  # other strides, the same values
    if dist.get_rank() == 1:
        tensors["w"] = tensors["w"].contiguous()
    tensors["w"].requires_grad_()
    return tell(summarize_distributed(tensors), whole)


def generator():
    return tell(summarize_distributed(nn.Linear(3, 2).named_parameters()))


def sharded():
    from torch.distributed.tensor import Shard

    mesh = mesh_of(4)
    whole = {
        "even": values(40, 30),
        "uneven": values(7, 5),
        "one empty": values(3, 5),
        "three empty": values(1, 5),
        "all empty": values(0, 5),
        "columns": values(6, 10),
        "half": values(9, 9, dtype=torch.float16),
    }
    parts = {n: placed(x, mesh, Shard(1 if n == "columns" else 0)) for n, x in whole.items()}
    return tell(summarize_distributed(parts), whole)


def square_mesh():
    from torch.distributed.tensor import Replicate, Shard

    mesh = mesh_of(2, 2)
    whole = {name: values(9, 7) for name in ("rows", "both", "twice", "copies", "inner")}
    whole["plain"] = values(5)
    parts = {
        "rows": placed(whole["rows"], mesh, Replicate(), Shard(0)),
        "both": placed(whole["both"], mesh, Shard(0), Shard(1)),
        "twice": placed(whole["twice"], mesh, Shard(0), Shard(0)),
        "copies": placed(whole["copies"], mesh, Replicate(), Replicate()),
        # Tensor parallel under plain data parallel: two meshes that do not know of each other.
        "inner": placed(whole["inner"], mesh["inner"], Shard(1)),
        "plain": whole["plain"],
    }
    table = summarize_distributed(parts)
    if dist.get_rank() == 3:
        flip_bit(parts["rows"].to_local(), bit=3)
        flip_bit(parts["inner"].to_local(), bit=4)
    return tell(table, whole), tell(summarize_distributed(parts, step=12))


def part_of_the_ranks():
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard

    whole = {"w": values(5, 4)}
    mesh = DeviceMesh("cpu", [1, 3])
    return tell(summarize_distributed({"w": placed(whole["w"], mesh, Shard(0))}), whole)


def subgroups():
    """Two groups that hold other tensors, as the stages of a pipeline do."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    stage = dist.get_rank() // 2
    tensors = {f"stage{stage}": torch.full((3,), float(dist.get_rank()))}
    return tell(summarize_distributed(tensors, groups[stage]))


def outside_the_group():
    group = dist.new_group([0, 1])
    return tell(summarize_distributed({"w": torch.ones(2)}, group))


def group_without_all_shards():
    from torch.distributed.tensor import Shard

    part = placed(values(8), mesh_of(4), Shard(0))
    group = dist.new_group([0, 1])
    return tell(summarize_distributed({"w": part}, group)) if dist.get_rank() < 2 else None


def one_bit():
    tensors = {"a": values(100), "w": values(300, 50), "b": values(50)}
    if dist.get_rank() == 2:
        flip_bit(tensors["w"], index=4321)
    return tell(summarize_distributed(tensors, step=7))


def negative_zero():
    tensors = {"w": torch.zeros(10)}
    if dist.get_rank() == 0:
        tensors["w"][3] = -0.0
    return tell(summarize_distributed(tensors))


def nan_payload():
    tensors = {"w": torch.tensor([1.0, torch.nan])}
    if dist.get_rank() in {1, 2}:
        flip_bit(tensors["w"], index=1, bit=5)
    assert tensors["w"].isnan()[1]
    return tell(summarize_distributed(tensors))


def never_in_step():
    tensors = {"a": torch.full((3,), float(dist.get_rank())), "b": torch.ones(3), "c": values(4)}
    tensors["c"] *= dist.get_rank()
    return tell(summarize_distributed(tensors))


def not_finite():
    from torch.distributed.tensor import Shard

    whole = {"sharded": values(8, 3), "fine": values(4), "local": values(4)}
    whole["sharded"][2:5, 1] = torch.nan
    tensors = {**whole, "sharded": placed(whole["sharded"], mesh_of(4), Shard(0))}
    if dist.get_rank() == 3:
        tensors["local"] = tensors["local"] * torch.inf
    return tell(summarize_distributed(tensors), whole)


def partial():
    from torch.distributed.tensor import DTensor, Partial

    tensor = DTensor.from_local(values(3), mesh_of(4), [Partial()])
    return tell(summarize_distributed({"fine": torch.ones(2), "w": tensor}))


def on_its_way():
    """A tensor whose collective may not have ended."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    local = values(1000)
    mesh = mesh_of(4)
    tensor = DTensor.from_local(local, mesh, [Partial()])
    tensor = tensor.redistribute(mesh, [Replicate()], async_op=True)
    with torch.no_grad():
        to_come = tensor.to_local()
    assert type(to_come) is not torch.Tensor
    assert type(_ready(to_come)) is torch.Tensor
    return tell(summarize_distributed({"w": tensor}), {"w": local * 4})


def foreign_dtype_on_one_rank():
    dtype = torch.int64 if dist.get_rank() == 3 else torch.float32
    return tell(summarize_distributed({"fine": torch.ones(2), "w": torch.ones(2, dtype=dtype)}))


def no_tensor_on_one_rank():
    return tell(summarize_distributed({"w": "text" if dist.get_rank() == 2 else torch.ones(2)}))


def a_loader_that_fails_on_one_rank():
    def tensors():
        yield "a", torch.ones(2)
        if dist.get_rank() == 1:
            raise OSError("disk gone")

    return tell(summarize_distributed(tensors()))


def lacks_one():
    names = ["a", "b", "c"] if dist.get_rank() != 2 else ["a", "c"]
    return tell(summarize_distributed({name: torch.ones(2) for name in names}))


def has_one_more():
    names = ["a", "b"] if dist.get_rank() != 1 else ["a", "b", "c"]
    return tell(summarize_distributed({name: torch.ones(2) for name in names}))


def other_order():
    names = ["a", "b", "c"] if dist.get_rank() != 3 else ["a", "c", "b"]
    return tell(summarize_distributed({name: torch.ones(2) for name in names}))


def none_on_one_rank():
    return tell(summarize_distributed({"w": None if dist.get_rank() == 1 else torch.ones(2)}))


def other_shape():
    return tell(summarize_distributed({"w": torch.ones(2 + dist.get_rank() // 3)}))


def net():
    layers = [nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3, bias=False), nn.ReLU()]
    return nn.Sequential(*layers)


def tensors_of(model, prefix=""):
    """Weights and gradients by name."""
    for name, parameter in model.named_parameters():
        yield f"{prefix}{name}", parameter
        yield f"{prefix}{name}.grad", parameter.grad


def after_backward(model):
    x = torch.randn(6, 10) + dist.get_rank()
    model(x).square().mean().backward()
    whole = {name: x.full_tensor().detach() for name, x in tensors_of(model)}
    return tell(summarize_distributed(tensors_of(model)), whole)


def fully_sharded():
    from torch.distributed.fsdp import fully_shard

    model = net()
    for layer in model:
        fully_shard(layer)
    return after_backward(fully_shard(model))


def hybrid_sharded():
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(net(), mesh=mesh_of(2, 2))
    healthy = after_backward(model)
    if dist.get_rank() == 1:
        flip_bit(model[0].weight.to_local(), index=9, bit=1)
    return healthy, tell(summarize_distributed(tensors_of(model), step=3))


def fully_sharded_and_tensor_parallel():
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = mesh_of(2, 2)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    model = parallelize_module(net(), mesh["inner"], plan)
    return after_backward(fully_shard(model, mesh=mesh["outer"]))


def data_parallel():
    model = nn.parallel.DistributedDataParallel(net())
    model(torch.randn(6, 10) + dist.get_rank()).square().mean().backward()
    tensors = dict(tensors_of(model.module))
    return tell(summarize_distributed(tensors), {n: t.detach() for n, t in tensors.items()})


FOUR = [
    replicated,
    generator,
    sharded,
    square_mesh,
    part_of_the_ranks,
    subgroups,
    outside_the_group,
    group_without_all_shards,
    one_bit,
    negative_zero,
    nan_payload,
    never_in_step,
    not_finite,
    partial,
    on_its_way,
    foreign_dtype_on_one_rank,
    no_tensor_on_one_rank,
    a_loader_that_fails_on_one_rank,
    lacks_one,
    has_one_more,
    other_order,
    none_on_one_rank,
    other_shape,
    fully_sharded,
    hybrid_sharded,
    fully_sharded_and_tensor_parallel,
    data_parallel,
]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return gloo.run(4, FOUR, tmp_path_factory.mktemp("four"))


def assert_whole(told):
    """The records are those of the whole tensors, on every rank to the bit."""
    first = told[0]
    assert list(first.records) == list(first.whole)
    for other in told:
        assert other == first
    for name, record in first.records.items():
        one, whole = (gyrostat.TensorStats.from_dict(d) for d in (record, first.whole[name]))
        for column in ("dtype", "count", "nan_count", "zero_count", "subnormal_count"):
            assert getattr(one, column) == getattr(whole, column), (name, column)
        for column in ("min", "max", "absmax", "exponents", "exponent_histogram"):
            np.testing.assert_array_equal(getattr(one, column), getattr(whole, column), name)
        norm = 1e-12 if whole.dtype in {"float32", "float64"} else 2e-6
        assert one.sum == pytest.approx(whole.sum, rel=0, abs=norm * whole.l1)
        for column in ("l1", "l2", "var", "skewness", "kurtosis"):
            # Cut elsewhere, powers are summed in another order, some in single precision.
            bound = 5e-6 if column in {"skewness", "kurtosis"} else norm
            close = pytest.approx(getattr(whole, column), rel=bound, abs=bound, nan_ok=True)
            assert getattr(one, column) == close, (name, column)


@pytest.mark.parametrize(
    "scenario",
    [
        "replicated",
        "sharded",
        "part_of_the_ranks",
        "on_its_way",
        "fully_sharded",
        "fully_sharded_and_tensor_parallel",
        "data_parallel",
    ],
)
def test_records_are_those_of_the_whole_tensors(four, scenario):
    assert_whole(four[scenario])
    assert four[scenario][0].findings == []
    assert four[scenario][0].nonfinite_ranks == {}


def test_none_is_missing_and_pairs_are_taken(four):
    assert four["replicated"][0].missing == ("frozen",)
    assert list(four["generator"][0].records) == ["weight", "bias"]


def test_replicas_are_found_by_placement(four):
    healthy, hurt = zip(*four["square_mesh"], strict=True)
    assert_whole(healthy)
    assert healthy[0].findings == []
    assert all(told == hurt[0] for told in hurt)
    by_ranks = {f.culprit.ranks: f for f in hurt[0].findings}
    # "rows": rank 1 holds the same rows as rank 3. "inner": so it does of the other mesh.
    assert list(by_ranks) == [(1, 3)]
    finding = by_ranks[1, 3]
    assert finding.evidence["tensors"] == ["rows", "inner"]
    assert finding.evidence["of"] == 6
    assert finding.step == 12


def test_hybrid_sharded_replicas_are_compared(four):
    healthy, hurt = zip(*four["hybrid_sharded"], strict=True)
    assert_whole(healthy)
    assert healthy[0].findings == []
    (finding,) = hurt[0].findings
    assert finding.culprit.layer == "0.weight"
    assert finding.culprit.ranks == (1, 3)
    assert finding.evidence["tensors"] == ["0.weight"]


def test_one_flipped_bit_names_tensor_and_rank(four):
    assert all(told == four["one_bit"][0] for told in four["one_bit"])
    (finding,) = four["one_bit"][0].findings
    assert finding.code == "replica-mismatch"
    assert finding.severity == "critical"
    assert finding.step == 7
    assert finding.culprit.layer == "w"
    assert finding.culprit.ranks == (2,)
    assert finding.evidence["majority"]
    assert finding.evidence["alike"] == [[0, 1, 3], [2]]


def test_bits_that_no_statistic_sees_are_seen(four):
    (zero,) = four["negative_zero"][0].findings
    assert zero.culprit.ranks == (0,)
    (nan,) = four["nan_payload"][0].findings
    assert nan.culprit.ranks == (0, 1, 2, 3)
    assert not nan.evidence["majority"]
    assert nan.evidence["alike"] == [[0, 3], [1, 2]]


def test_ranks_that_were_never_in_step_are_one_finding(four):
    (finding,) = four["never_in_step"][0].findings
    assert finding.evidence["tensors"] == ["a", "c"]
    assert finding.culprit.ranks == (0, 1, 2, 3)


def test_ranks_that_hold_nan_are_named(four):
    told = four["not_finite"][0]
    assert told.nonfinite_ranks == {"sharded": (1, 2), "local": (3,)}
    assert told.records["sharded"]["nan_count"] == 3
    assert [f.culprit.layer for f in told.findings] == ["local"]


def test_groups_of_ranks_stand_alone(four):
    told = four["subgroups"]
    assert [list(t.records) for t in told] == [["stage0"]] * 2 + [["stage1"]] * 2
    assert [t.findings[0].culprit.ranks for t in told] == [(0, 1)] * 2 + [(2, 3)] * 2
    assert all(isinstance(t, Told) for t in four["outside_the_group"][:2])
    assert [t.message for t in four["outside_the_group"][2:]] == [
        f"group: expected one with rank {rank} in it" for rank in (2, 3)
    ]


@pytest.mark.parametrize(
    ("scenario", "kind", "message"),
    [
        ("partial", "ValueError", "rank 0: tensors['w']: expected no Partial placement"),
        ("foreign_dtype_on_one_rank", "TypeError", "rank 3: tensors['w']: expected dtype"),
        ("no_tensor_on_one_rank", "TypeError", "rank 2: tensors['w']: expected a torch.Tensor"),
        ("a_loader_that_fails_on_one_rank", "RuntimeError", "rank 1: OSError: disk gone"),
        ("lacks_one", "ValueError", "rank 2 lacks ['b']"),
        ("has_one_more", "ValueError", "rank 0 lacks ['c']"),
        ("other_order", "ValueError", "'b' on rank 0 where rank 3 has 'c'"),
        ("none_on_one_rank", "ValueError", "(2,) on rank 0 and None on rank 1"),
        ("other_shape", "ValueError", "(2,) on rank 0 and torch.float32 of shape (3,) on rank 3"),
        ("group_without_all_shards", "ValueError", "lacks those of shards [2, 3]"),
    ],
)
def test_an_error_reaches_every_rank_alike(four, scenario, kind, message):
    told = [t for t in four[scenario] if t is not None]
    assert [t.kind for t in told] == [kind] * len(told)
    assert message in told[0].message
    assert {t.message for t in told} == {told[0].message}


def two_replicas():
    tensors = {"w": values(10)}
    if dist.get_rank() == 1:
        flip_bit(tensors["w"])
    return tell(summarize_distributed(tensors))


def two_shards():
    from torch.distributed.tensor import Shard

    whole = {"w": values(5, 3), "one": values(1)}
    mesh = mesh_of(2)
    return tell(
        summarize_distributed({n: placed(x, mesh, Shard(0)) for n, x in whole.items()}), whole
    )


TWO = [two_replicas, two_shards]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return gloo.run(2, TWO, tmp_path_factory.mktemp("two"))


def test_between_two_replicas_nobody_is_right(two):
    (finding,) = two["two_replicas"][0].findings
    assert finding.culprit.ranks == (0, 1)
    assert not finding.evidence["majority"]
    assert "no majority" in finding.message


def test_two_shards_make_a_whole(two):
    assert_whole(two["two_shards"])


def test_without_a_process_group_it_is_one_rank():
    x = torch.randn(20, 3)
    table = summarize_distributed({"w": x, "frozen": None})
    assert table["w"] == gyrostat.summarize(x)
    assert table.missing == ("frozen",)
    assert table.findings == ()
    assert table.nonfinite_ranks == {}
    with pytest.raises(TypeError, match=r"rank 0: tensors\['w'\]: expected a torch.Tensor"):
        summarize_distributed({"w": np.ones(3)})
    with pytest.raises(TypeError, match="names that are strings, got 5"):
        summarize_distributed({5: x})
