"""Runs functions in real gloo process groups on this machine."""

import datetime as dt
import multiprocessing
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Scenario = Callable[[], Any]

# To import these takes far longer than the tests do: where it can be done, one process imports them
# for all the others. It starts no thread, so that it may be forked.
_IMPORTED_ONCE = ["torch.distributed.fsdp", "torch.distributed.tensor.parallel"]
_FORKS = "forkserver" in multiprocessing.get_all_start_methods()


@dataclass
class Raised:
    """That a scenario raised on a rank, and what."""

    kind: str
    message: str


def run(world: int, scenarios: Sequence[Scenario], folder: Path, limit: float = 120.0) -> dict:
    """What each scenario, by name, returned or raised on each rank.

    Args:
        world: Number of ranks.
        scenarios: Functions of a module that the processes can import. All run one after the other
            in the same processes.
        folder: An empty folder, for the rendezvous and the answers.
        limit: Seconds after which everything is ended and TimeoutError raised.
    """
    multiprocessing.set_forkserver_preload(_IMPORTED_ONCE)
    context = mp.start_processes(
        _rank,
        (world, list(scenarios), folder),
        nprocs=world,
        join=False,
        start_method="forkserver" if _FORKS else "spawn",
    )
    end = time.monotonic() + limit
    try:
        while not context.join(timeout=max(0.0, end - time.monotonic())):
            if time.monotonic() > end:
                raise TimeoutError(f"a group of {world} ranks took more than {limit} s")
    finally:
        for process in context.processes:
            process.kill()
    told = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(world)]
    return {scenario.__name__: [t[scenario.__name__] for t in told] for scenario in scenarios}


def _rank(rank: int, world: int, scenarios: list[Scenario], folder: Path) -> None:
    warnings.simplefilter("error")  # as pytest does in its own process
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    patience = dt.timedelta(seconds=30)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
    told = {}
    for scenario in scenarios:
        torch.manual_seed(0)
        try:
            told[scenario.__name__] = scenario()
        except Exception as error:  # noqa: BLE001 - the test that looks at it decides
            told[scenario.__name__] = Raised(type(error).__name__, str(error))
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(told))
    dist.destroy_process_group()
