"""Batches of real DataLoaders: samples, replay, restart."""

import copy
import itertools
import json
import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from gyrostat.guard.batches import BatchRegistry
from gyrostat.integrations.torch.data import (
    LoaderSource,
    TorchRandomState,
    leave_out,
    tensor_leaves,
)

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

N = 22


def with_generator(*args, **kwargs):
    return DataLoader(*args, **kwargs, generator=torch.Generator().manual_seed(1))


KINDS = (DataLoader, StatefulDataLoader, with_generator)


class Items(Dataset):
    """Sample i is the vector (i, augmentation)."""

    def __init__(self, augment=False):
        self.augment = augment

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.tensor([float(i), torch.rand(()).item() if self.augment else 0.0])


class Fetched(Items):
    def __getitems__(self, indices):
        return [self[i] for i in indices]


class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        first, every = (info.id, info.num_workers) if info else (0, 1)
        for i in range(first, N, every):
            yield torch.tensor([float(i)])


def registry(**kwargs):
    return BatchRegistry(tensor_leaves, random_state=TorchRandomState(), **kwargs)


def told(registry, loader):
    """What the loop gets, as sample numbers, beside what the registry says of it."""
    out = []
    for batch in registry.iterate(LoaderSource(loader)):
        seen = tuple(int(v) for v in torch.atleast_2d(batch)[:, 0])
        out.append((seen, registry.current.samples))
    return out


def seeded():
    return torch.Generator().manual_seed(3)


def loaders():
    yield "plain", lambda w: DataLoader(Items(), batch_size=4, num_workers=w)
    yield "drop_last", lambda w: DataLoader(Items(), 4, drop_last=True, num_workers=w)
    yield (
        "shuffle",
        lambda w: DataLoader(Fetched(), 4, shuffle=True, generator=seeded(), num_workers=w),
    )
    yield (
        "batch_sampler",
        lambda w: DataLoader(
            Items(),
            batch_sampler=BatchSampler(RandomSampler(range(N), generator=seeded()), 4, False),
            num_workers=w,
        ),
    )
    yield (
        "distributed",
        lambda w: DataLoader(Items(), 2, sampler=DistributedSampler(Items(), 2, 1), num_workers=w),
    )
    yield "single", lambda w: DataLoader(Items(), batch_size=None, num_workers=w)
    yield (
        "stateful",
        lambda w: StatefulDataLoader(Items(), 4, shuffle=True, generator=seeded(), num_workers=w),
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("name", "make"), list(loaders()))
def test_the_samples_told_are_those_given(name, make, workers):
    got = told(registry(), make(workers))
    assert [seen for seen, _ in got] == [samples for _, samples in got]
    # Nothing is changed for the user: order, number, and numbers drawn.
    plain = [tuple(int(v) for v in torch.atleast_2d(b)[:, 0]) for b in make(workers)]
    assert [seen for seen, _ in got] == plain


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("name", "make"), list(loaders()))
def test_a_bad_sample_is_left_out_of_its_batch(name, make, workers):
    whole = [seen for seen, _ in told(registry(), make(workers))]
    bad = {*whole[1][:1], *whole[3]}  # one of a batch, and all of another
    reg = registry()
    reg.leave_out(samples=bad)
    loader = make(workers)
    got = told(reg, loader)
    expected = [tuple(s for s in batch if s not in bad) for batch in whole]
    assert [seen for seen, _ in got] == [e for e in expected if e]
    assert [seen for seen, _ in got] == [samples for _, samples in got]
    assert reg.index == len(whole)
    assert reg.left_out == (2 if name == "single" else 1)
    # The loader itself is as it was.
    after = {int(v) for b in loader for v in torch.atleast_2d(b)[:, 0]}
    assert bad <= after or name in {"shuffle", "batch_sampler", "stateful"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_found_bad_is_taken_out_of_the_replay_and_of_what_is_prefetched(workers):
    reg = registry()
    loader = DataLoader(Fetched(), 4, num_workers=workers)
    mark = reg.mark()
    out = []
    for batch in reg.iterate(LoaderSource(loader)):
        out.append([int(v) for v in batch[:, 0]])
        assert list(reg.current.samples) == out[-1]
        if len(out) == 2:
            reg.leave_out(samples=[5, 9])
            assert reg.rewind(mark) == 2
    assert out == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 1, 2, 3],
        [4, 6, 7],
        [8, 10, 11],
        [12, 13, 14, 15],
        [16, 17, 18, 19],
        [20, 21],
    ]


def test_set_epoch_reaches_the_sampler_and_persistent_workers_stay():
    sampler = DistributedSampler(Items(), 2, 0)
    loader = DataLoader(Items(), 4, sampler=sampler, num_workers=2, persistent_workers=True)
    reg = registry()
    epochs = []
    workers = set()
    for epoch in range(3):
        sampler.set_epoch(epoch)
        if epoch == 2:
            reg.leave_out(samples=[epochs[0][0][0][0]])
        epochs.append(told(reg, loader))
        assert all(seen == samples for seen, samples in epochs[-1])
        workers |= {w.pid for w in loader._iterator._workers}
    assert epochs[0] != epochs[1]
    assert len(workers) == 2
    bad = epochs[0][0][0][0]
    assert all(bad not in seen for seen, _ in epochs[2])
    sampler.set_epoch(2)
    plain = [tuple(int(v) for v in b[:, 0]) for b in loader]
    assert [tuple(s for s in b if s != bad) for b in plain] == [seen for seen, _ in epochs[2]]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_is_known_by_content(workers):
    reg = registry()
    loader = DataLoader(Stream(), 4, num_workers=workers)
    first = told(reg, loader)
    assert all(samples == () for _, samples in first)
    for batch in reg.iterate(LoaderSource(loader)):
        if tuple(int(v) for v in batch[:, 0]) == first[2][0]:
            reg.leave_out(reg.current.identity)
    assert told(reg, loader) == first[:2] + first[3:]


def test_lists_of_indices_from_a_sampler_without_a_batch_size():
    class Sliced(Items):
        def __getitem__(self, i):
            return torch.tensor([[float(j), 0.0] for j in i])

    lists = BatchSampler(SequentialSampler(range(N)), 8, drop_last=False)
    loader = DataLoader(Sliced(), sampler=lists, batch_size=None)
    reg = registry()
    mark = reg.mark()
    out = []
    for batch in reg.iterate(LoaderSource(loader)):
        out.append(tuple(int(v) for v in batch[:, 0]))
        if len(out) == 1:
            reg.leave_out(samples=[3, 8])
            reg.rewind(mark)
    assert out == [
        tuple(range(8)),
        (0, 1, 2, 4, 5, 6, 7),
        tuple(range(9, 16)),
        tuple(range(16, 22)),
    ]


class Skipping(DataLoader):
    def __iter__(self):
        return itertools.islice(super().__iter__(), 2, None)


def test_a_loader_with_an_iteration_of_its_own_is_not_told():
    got = told(registry(), Skipping(Items(), 4))
    assert got[0] == ((8, 9, 10, 11), ())
    if hasattr(DataLoader(Items()), "in_order"):
        loader = DataLoader(Items(), 4, num_workers=2, in_order=False)
        reg = registry()
        reg.leave_out(samples=[5])
        got = told(reg, loader)
        assert {s for _, s in got} == {()}
        assert sorted(v for seen, _ in got for v in seen) == [v for v in range(N) if v != 5]


def test_keys_that_are_no_numbers():
    data = {"a": torch.zeros(2), "b": torch.ones(2)}

    class Named(Dataset):
        def __getitem__(self, key):
            return data[key]

        def __len__(self):
            return 2

    got = told(registry(), DataLoader(Named(), 1, sampler=["a", "b"]))
    assert got == [((0,), ()), ((1,), ())]


def test_batches_held_leave_shared_memory_to_the_workers():
    reg = registry()
    reg.mark()
    for batch in reg.iterate(LoaderSource(DataLoader(Items(), 4, num_workers=1))):
        assert batch.is_shared()
    assert [data.is_shared() for _, data in reg.recent(3)] == [False] * 3


def test_leave_out_without_a_guard(tmp_path):
    path = tmp_path / "left-out.jsonl"
    reg = registry(path=path)
    loader = DataLoader(Items(), 4)
    for _ in reg.iterate(LoaderSource(loader)):
        if reg.current.index == 2:
            reg.leave_out(reg.current.identity, samples=[0, 21])
    left = leave_out(loader, path)
    for _ in range(2):
        got = [tuple(int(v) for v in b[:, 0]) for b in left]
        assert got == [(1, 2, 3), (4, 5, 6, 7), (12, 13, 14, 15), (16, 17, 18, 19), (20,)]


# Restart


@pytest.mark.parametrize("saved_in", ["body", "boundary"])
@pytest.mark.parametrize(("kind", "workers"), list(itertools.product(KINDS, [0, 2])))
def test_a_restart_goes_on_as_if_it_had_not_been_killed(kind, workers, saved_in):
    """Shuffle, augmentation (in this process or in the workers) and dropout."""

    def run(reg, states):
        augment = kind is not StatefulDataLoader or workers == 0  # it gives workers new seeds
        loader = kind(Items(augment=augment), 4, shuffle=True, num_workers=workers)
        out = []

        def save(where):
            if where == saved_in:
                state = reg.state_dict()
                position = copy.deepcopy(state.pop("loader"))  # torchdata's holds tensors
                states.append((json.dumps(state, allow_nan=False), position))

        for _ in range(reg.next_epoch, 2):
            for batch in reg.iterate(LoaderSource(loader), lambda: save("boundary")):
                dropped = torch.rand(2).tolist(), np.random.rand(), random.random()  # noqa: NPY002, S311
                out.append((batch.tolist(), dropped))
                save("body")
        return out

    torch.manual_seed(5)
    states = []
    whole = run(registry(), states)
    assert len(whole) == len(states) == 12
    for where in (2, 5, 8):
        torch.manual_seed(77)
        np.random.seed(77)  # noqa: NPY002
        random.seed(77)
        reg = registry()
        text, position = states[where]
        reg.load_state_dict({**json.loads(text), "loader": position})
        assert run(reg, []) == whole[where + (saved_in == "body") :]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_leaves_of_every_kind_of_tensor():
    x = torch.arange(6.0).reshape(2, 3)
    kinds = [
        x,
        x.bfloat16(),
        x.to(torch.float8_e4m3fn),
        x.T,
        x.to_sparse(),
        x + 1j,
        torch.nested.nested_tensor([x[0], x[1, :2]]),
        x[:0],
        x[0, 0],
        x[:1, :1],
    ]
    reg = BatchRegistry(tensor_leaves)
    seen = [reg._measure(k)[0] for k in kinds]
    assert seen[4] == seen[0]
    assert len(set(seen)) == len(kinds) - 1
    assert reg._measure(x.T.contiguous()) == reg._measure(x.T)
    assert reg._measure((x + 1j).conj()) != reg._measure(x + 1j)
