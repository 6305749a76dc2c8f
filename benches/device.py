"""Times the records that a GPU makes of the gradients of GPT-2 small.

Usage: ``uv run --all-extras python benches/device.py``, on a machine with a CUDA GPU.

Prints Markdown: milliseconds on the device, the median of 30 calls, and the time on the host until
the call returns. A plain read is ``torch.sum`` over one flat tensor of the same size.
"""

import itertools
import statistics
import sys
import time

import torch

from gpt2 import SHAPES


def timed(call):
    """Median milliseconds on the device and on the host."""
    for _ in range(5):
        call()
    device, host = [], []
    for _ in range(30):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        start = time.perf_counter()
        call()
        host.append(1e3 * (time.perf_counter() - start))
        end.record()
        torch.cuda.synchronize()
        device.append(begin.elapsed_time(end))
    return statistics.median(device), statistics.median(host)


def watch(tensors):
    """The operations of ``wandb.watch`` on each gradient."""
    for t in tensors:
        flat = t.detach().reshape(-1).clone().float()
        flat = flat[torch.isfinite(flat)]
        low, high = flat.min().item(), flat.max().item()
        flat.histc(64, low, high).cpu().tolist()


def statistics_by_operations(tensors):
    """What a record has, but for the histogram, from operations of torch; nothing waits."""
    for t in tensors:
        x = t.float()
        d = x - x.mean()
        square = d * d
        moments = [square.mean(), (square * d).mean(), (square * square).mean()]
        counts = [x.isnan().sum(), x.isinf().sum(), (x == 0).sum()]
        torch.stack([x.min(), x.max(), x.abs().sum(), *moments, *counts])


def main():
    from gyrostat.integrations.torch.device import DeviceRecorder

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| dtype | what | device ms | GB/s | plain reads | host ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dtype in (torch.float32, torch.bfloat16):
        sizes = [torch.Size(shape).numel() for shape in SHAPES]
        flat = 1e-3 * torch.randn(sum(sizes), device="cuda")
        flat = flat.to(dtype)
        tensors = [t.clone() for t in flat.split(sizes)]
        recorder = DeviceRecorder(tensors)
        step = itertools.count()

        def record(recorder=recorder, step=step):
            recorder.record(step=next(step))
            recorder.ready()

        calls = {
            "plain read": flat.sum,
            "copy": flat.clone,
            "record": record,
            "record and total norm": lambda r=record, recorder=recorder: (
                r(),
                recorder.total_norm(),
            ),
            "torch get_total_norm": lambda t=tensors: torch.nn.utils.get_total_norm(t),
            "torch operations, no histogram": lambda t=tensors: statistics_by_operations(t),
            "operations of wandb.watch": lambda t=tensors: watch(t),
        }
        bytes_read = flat.numel() * flat.itemsize
        read = None
        for name, call in calls.items():
            device, host = timed(call)
            read = read or device
            rate, reads = bytes_read / device / 1e6, device / read
            kind = str(dtype).removeprefix("torch.")
            print(f"| {kind} | {name} | {device:.3f} | {rate:.0f} | {reads:.2f} | {host:.3f} |")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("needs a GPU")
    main()
