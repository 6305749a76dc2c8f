"""Checkpoints of torch state: every dtype, shared memory, optimizers, shards."""

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

from gyrostat.guard.checkpoints import newest_complete
from gyrostat.integrations.torch import TorchSubject
from gyrostat.integrations.torch.checkpoints import (
    check_finite,
    read_checkpoint,
    read_sharded,
    write_checkpoint,
    write_sharded,
)
