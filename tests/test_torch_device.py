"""The records that a GPU makes, through Triton's interpreter, and on a GPU where there is one."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import torch

import gyrostat
import reference
from gyrostat.integrations.torch.device_ring import Past, Ring

pytest.importorskip("triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
CHUNK = 65_536
SIZES = {  # the interpreter is slow
    "float32": (0, 1, 63, 64, 65, 4095, CHUNK, 200_001),
    "bfloat16": (0, 65, CHUNK + 1),
    "float16": (1, 4095),
}


def data(dtype):
    """Arrays of every kind, by name."""
    rng = np.random.default_rng(7)
    tiny = {"float32": 2.0**-130, "bfloat16": 2.0**-130, "float16": 2.0**-20}[dtype]
    octaves = {"float32": 100, "bfloat16": 100, "float16": 12}[dtype]

    def special(n):
        x = rng.normal(size=n)
        where = rng.random(n)
        x[where < 0.05] = np.nan
        x[where < 0.02] = np.inf
        x[where < 0.01] = -np.inf
        return x

    def lone(value):
        # None of the 512 values that the kernel samples is the one that is out of the ordinary.
        x = rng.normal(size=2048)
        x[5] = value
        return x

    arrays = {
        **{f"normal {n}": rng.normal(size=n) * 1e-2 for n in SIZES[dtype]},
        "lognormal": np.minimum(np.exp(3 * rng.normal(size=3000)), 6e4),
        "gains": 1 + 1e-4 * rng.normal(size=3000),
        "far from zero": rng.normal(-100, 3, 9000),
        "constant": np.full(CHUNK + 1 if dtype == "float32" else 3000, 0.1),
        "one magnitude": np.resize([1.37, -1.37], 3000),
        "zeros": np.zeros(3000) * np.resize([1, -1], 3000),
        "sparse": rng.normal(size=3000) * (rng.random(3000) < 0.05),
        "subnormal": rng.uniform(-1, 1, 3000) * tiny,
        "special": special(3000),
        "nothing finite": np.resize([np.nan, np.inf, -np.inf], 100),
        "octaves": rng.choice([-1, 1], 3000) * 2 ** rng.uniform(-octaves, octaves, 3000),
        "large one": lone(3e4),
        "small one": lone(1e-12),
        "NaN": lone(np.nan),
    }
    with np.errstate(over="ignore"):
        arrays = {name: x.astype(DTYPES[dtype]) for name, x in arrays.items()}
    if dtype == "float32":
        patterns = rng.integers(0, 1 << 32, 3000, dtype=np.uint32)
    else:
        patterns = np.arange(0, 1 << 16, 9, dtype=np.uint16)
    arrays["patterns"] = patterns.view(DTYPES[dtype])
    return arrays


def tensor(array, device="cpu"):
    bits = torch.from_numpy(array.view(f"int{8 * array.itemsize}").copy())
    return bits.to(device).view(getattr(torch, array.dtype.name))


def check(record, array):
    """Against the Rust record, and the twin in long double."""
    expected, twin = gyrostat.summarize(array), reference.tensor_stats(array)
    for name in ("dtype", "count", "nan_count", "posinf_count", "neginf_count", "zero_count"):
        assert getattr(record, name) == getattr(expected, name), name
    assert record.subnormal_count == expected.subnormal_count
    assert record.exponents.tolist() == expected.exponents.tolist()
    assert record.exponent_histogram.tolist() == expected.exponent_histogram.tolist()
    np.testing.assert_array_equal([record.min, record.max], [expected.min, expected.max])
    exact = array.dtype == np.float32
    norm, moment = (1e-12, 1e-11) if exact else (2e-6, 5e-6)
    np.testing.assert_allclose([record.l1, record.l2], [float(twin["l1"]), float(twin["l2"])], norm)
    np.testing.assert_allclose(record.sum, float(twin["sum"]), 0, norm * float(twin["l1"]))
    np.testing.assert_allclose(record.var, float(twin["var"]), moment)
    shape = moment * (4 + float(twin["kurtosis"]))
    np.testing.assert_allclose(record.skewness, float(twin["skewness"]), 0, shape)
    np.testing.assert_allclose(record.kurtosis, float(twin["kurtosis"]), 0, shape)


# Through the interpreter, which replaces the compiler of a whole process


@pytest.fixture(scope="module")
def interpreted():
    """Calls a function of this module where Triton is interpreted."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()  # the process starts, and inherits the environment
        yield lambda function, *args: pool.submit(function, *args).result()


def record(arrays):
    from gyrostat.integrations.torch.device import DeviceRecorder

    recorder = DeviceRecorder({name: tensor(array) for name, array in arrays.items()})
    recorder.record(step=3)
    [(step, table)] = recorder.ready()
    assert step == 3
    assert recorder.ready() == []
    return dict(zip(table.names, table, strict=True)), recorder.total_norm().item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_record_is_that_of_the_rust_kernel(interpreted, dtype):
    arrays = data(dtype)
    records, norm = interpreted(record, arrays)
    assert list(records) == list(arrays)
    for name, array in arrays.items():
        check(records[name], array)
    assert np.isnan(norm)


def test_the_norm_of_everything(interpreted):
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(5, 1, 700).astype("f4"), "b": rng.normal(size=99).astype("f2")}
    expected = float(reference.total_norm(arrays.values()))
    np.testing.assert_allclose(interpreted(record, arrays)[1], expected, 1e-7)
    arrays["b"][7] = -np.inf
    assert interpreted(record, arrays)[1] == np.inf


def use_a_recorder():
    """What happens to one recorder from step to step."""
    from gyrostat.integrations.torch.device import DeviceRecorder

    def refused(tensors):
        try:
            recorder.record(tensors, step=9)
        except (TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    w, b = torch.nn.Parameter(torch.ones(4, 6)), torch.arange(3.0)
    recorder = DeviceRecorder({"w": w, "b": b}, slots=2)
    recorder.record({"b": b, "w": w.detach().t().clone().t()}, step=0)
    recorder.record({"w": None, "b": b + 1}, step=1)
    first = [(step, t.names, t.missing, t.sum.tolist()) for step, t in recorder.ready()]
    for step in range(3):
        b += 1
        recorder.record(step=step)
    last = [(step, t["b"].sum) for step, t in recorder.flush()]
    messages = [
        refused({"w": w.double()}),
        refused({"w": w[:, ::2]}),
        refused({"w": w[0]}),
        refused({"b": 3}),
        refused([w]),
        refused([("b", b), ("b", b)]),
    ]
    nothing = DeviceRecorder([])
    nothing.record(step=0)
    [(_, table)] = nothing.flush()
    return first, last, recorder.dropped, messages, len(table), nothing.total_norm().item()


def test_a_recorder_from_step_to_step(interpreted):
    first, last, dropped, messages, size, norm = interpreted(use_a_recorder)
    assert first == [(0, ("w", "b"), (), [24.0, 3.0]), (1, ("b",), ("w",), [6.0])]
    assert (last, dropped) == ([(1, 9.0), (2, 12.0)], 1)
    assert messages == [
        "TypeError: tensors['w']: expected dtype float32, bfloat16, float16, got torch.float64",
        "TypeError: tensors['w']: expected memory without gaps or overlaps, got strides (6, 2)",
        "ValueError: tensors['w']: expected 24 of float32, got 6 of float32",
        "TypeError: tensors['b']: expected a tensor, got int",
        "ValueError: tensors: expected the names of the recorder, got '0'",
        "ValueError: tensors: expected each name once, got 'b' more often",
    ]
    assert (size, norm) == (0, 0)


def record_in_a_compiled_step():
    from gyrostat.integrations.torch.device import DeviceRecorder

    recorder = DeviceRecorder({"weight": torch.zeros(5, 10)})

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x, n):
        y = x * 2
        recorder.record({"weight": y}, step=n)
        return y + 1, recorder.total_norm()

    norms = [step(torch.full((5, 10), n + 1.0), n)[1].item() for n in range(3)]
    return norms, [(n, table.l2.tolist()) for n, table in recorder.ready()]


def test_a_compiled_step_without_a_graph_break(interpreted):
    norms, results = interpreted(record_in_a_compiled_step)
    expected = [2 * (n + 1) * np.sqrt(50) for n in range(3)]
    np.testing.assert_allclose(norms, expected, 1e-12)
    assert [n for n, _ in results] == [0, 1, 2]
    np.testing.assert_allclose([l2 for _, (l2,) in results], expected, 1e-12)


# On no device


class Manual:
    """An event that comes when the test says so."""

    def __init__(self):
        self.here = True

    def record(self):
        self.here = False

    def query(self):
        return self.here

    def synchronize(self):
        self.here = True


def test_the_ring_keeps_order_and_never_waits():
    events = [Manual(), Manual()]
    ring = Ring(events)

    def put(step):
        slot = ring.take((step, ()))
        if slot is not None:
            ring.mark(slot)
        return slot

    def steps(**kwargs):
        return [label[0] for _, label in ring.arrived(**kwargs)]

    assert [put(0), put(1)] == [0, 1]
    events[1].here = True
    assert steps() == []  # the second is there, but the first is not
    assert (put(2), ring.dropped) == (None, 1)  # the device is behind
    events[0].here = True
    assert (put(3), ring.dropped) == (0, 2)  # step 0 is there and nobody read it
    assert steps() == [1]
    assert put(4) == 1
    assert steps(wait=True) == [3, 4]
    assert (steps(wait=True), ring.dropped) == ([], 2)


def test_a_device_that_is_never_behind():
    ring = Ring([Past()])
    for step in range(3):
        slot = ring.take((step, ()))
        ring.mark(slot)
        assert list(ring.arrived()) == [(0, (step, ()))]
    assert ring.dropped == 0


def test_tensors_in_host_memory_are_refused():
    from gyrostat.integrations.torch.device import DeviceRecorder

    with pytest.raises(TypeError, match=r"tensors\['w'\]: expected a tensor on cuda.*cpu"):
        DeviceRecorder({"w": torch.ones(3)})
    with pytest.raises(ValueError, match="slots: expected 1 or more, got 0"):
        DeviceRecorder([], slots=0)


def test_the_kernel_compiles_for_a_gpu(monkeypatch, tmp_path):
    """No GPU is needed to compile for one. The first load of a group must be a wide one."""
    import triton
    from triton.backends.compiler import GPUTarget

    from gyrostat.integrations.torch import device_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = {"table": "*i64", "first": "i32", "sums": "*fp64", "counts": "*i64"}
    constants = {"DTYPE": "float32", "ALIGNED": True}
    source = triton.compiler.ASTSource(
        device_kernel.record_chunk, signature | dict.fromkeys(constants, "constexpr"), constants
    )
    target = GPUTarget("cuda", 90, 32)
    ptx = triton.compile(source, target=target, options=device_kernel.OPTIONS).asm["ptx"]
    assert ptx.count("ld.global.v4.b32") >= 16
    assert ".ftz" not in ptx  # subnormal numbers are not taken for zero


# On a GPU


@pytest.fixture
def gpu():
    from gyrostat.integrations.torch.device import DeviceRecorder

    def recorder(arrays, **kwargs):
        tensors = {name: tensor(array, "cuda") for name, array in arrays.items()}
        return tensors, DeviceRecorder(tensors, **kwargs)

    return recorder


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_the_record_is_that_of_the_rust_kernel(gpu, dtype):
    arrays = data(dtype)
    if dtype != "float32":
        arrays["all patterns"] = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    arrays["long"] = np.random.default_rng(1).normal(size=20_000_000).astype(DTYPES[dtype])
    tensors, recorder = gpu(arrays)
    odd = tensors["long"][1:-1]
    for _ in range(2):
        recorder.record(step=0)
    [(_, a), (_, b)] = recorder.flush()
    assert list(a) == list(b)  # bit for bit
    for name, array in arrays.items():
        check(a[name], array)
    from gyrostat.integrations.torch.device import DeviceRecorder

    at_an_odd_address = DeviceRecorder([odd])
    at_an_odd_address.record(step=0)
    [(_, table)] = at_an_odd_address.flush()
    check(table["0"], arrays["long"][1:-1])


@needs_gpu
def test_gpu_nothing_waits(gpu):
    rng = np.random.default_rng(0)
    arrays = {str(i): rng.normal(size=100_000).astype("f4") for i in range(5)}
    tensors, recorder = gpu(arrays)
    recorder.record(step=0)
    recorder.flush()
    parameters = [torch.nn.Parameter(t) for t in tensors.values()]
    for p in parameters:
        p.grad = torch.ones_like(p)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(4):
            recorder.record([p.grad for p in parameters], step=step)
            norm = recorder.total_norm()
            torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm.float())
            recorder.ready()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    recorder.flush()
    assert norm.item() == pytest.approx(1.0, rel=1e-5)


@needs_gpu
def test_gpu_a_graph_is_captured_and_replayed(gpu):
    arrays = {"x": np.zeros(100_000, "f4"), "h": np.zeros(999, "f2")}
    tensors, recorder = gpu(arrays)
    recorder.record(step=-1)
    recorder.flush()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for t in tensors.values():
            t.add_(1)
        recorder.record(step=0)
        norm = recorder.total_norm()
    results = []
    for step in range(5):
        graph.replay()
        recorder.fetch(step=step)
        results += recorder.flush()
    assert [step for step, _ in results] == list(range(5))
    assert [table.max.tolist() for _, table in results] == [[n, n] for n in range(1, 6)]
    assert norm.item() == pytest.approx(5 * np.sqrt(100_999), rel=1e-6)
    with pytest.raises(RuntimeError, match="for a CUDA graph"):
        recorder.record([("x", tensors["x"].clone())], step=9)


@needs_gpu
def test_gpu_a_compiled_step(gpu):
    _, recorder = gpu({"y": np.zeros(70_000, "f4")})

    @torch.compile(fullgraph=True)
    def step(x, n):
        y = (x * 2).relu()
        recorder.record({"y": y}, step=n)
        return y.sum(), recorder.total_norm()

    for n in range(3):
        _, norm = step(torch.full((70_000,), n + 1.0, device="cuda"), n)
        assert norm.item() == pytest.approx(2 * (n + 1) * np.sqrt(70_000), rel=1e-9)
    assert [(n, t.min.tolist()) for n, t in recorder.flush()] == [
        (n, [2 * n + 2]) for n in range(3)
    ]
