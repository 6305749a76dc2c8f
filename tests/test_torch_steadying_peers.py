"""What docs/steadying.md says of another package: where it is right, and where it is not."""

import math

import pytest
import torch
from pytorch_optimizer import SPAM, StableAdamW
from pytorch_optimizer import AdaGC as TheirAdaGC
from pytorch_optimizer.optimizer.agc import agc

from gyrostat.integrations.torch.steadying import (
    AdaGC,
    AdaptiveGradientClip,
    SpikeAwareClip,
    ZClip,
)
from test_torch_steadying import Run


def _clip_agc(weight, grad):
    p = torch.nn.Parameter(weight)
    p.grad = grad.clone()
    AdaptiveGradientClip().clip_([("p", p)])
    return p.grad


@pytest.mark.parametrize("shape", [(), (7,), (5, 9), (6, 3, 3, 3)])
def test_agc_agrees_with_theirs_where_theirs_is_right(shape):
    g = torch.Generator().manual_seed(0)
    weight, grad = (torch.randn(shape, generator=g) for _ in range(2))
    torch.testing.assert_close(_clip_agc(weight, grad), agc(weight, grad))


def test_agc_of_theirs_loses_large_gradients():
    weight, grad = torch.ones(2, 100_000), torch.full((2, 100_000), 300.0)
    for dtype, factor in ((torch.float16, 1.0), (torch.float32, 1e23)):
        large, w = (grad * factor).to(dtype), weight.to(dtype)
        assert (agc(w, large) == 0).all()
        expected = 0.01 * math.sqrt(100_000)
        norms = _clip_agc(w, large).double().norm(dim=1).tolist()
        assert norms == pytest.approx([expected] * 2, rel=2e-3)


def _stable_adamw_twin(weight, grads, lr, eps, decay):
    """Wortsman et al. 2023, algorithm 2."""
    m = v = torch.zeros_like(weight)
    for t, g in enumerate(grads, 1):
        b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.99))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        rms = (g**2 / v.clamp(min=eps**2)).mean().sqrt().item()
        rate = lr / max(1.0, rms)
        weight = weight - rate * decay * weight - rate * m / (v.sqrt() + eps)
    return weight


def test_stable_adamw_is_the_papers():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(50, generator=g, dtype=torch.float64)
    grads = [torch.randn(50, generator=g, dtype=torch.float64) for _ in range(30)]
    grads[20] *= 100
    p = torch.nn.Parameter(weight.clone())
    optimizer = StableAdamW([p], lr=0.01, eps=1e-6, weight_decay=0.01)
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    expected = _stable_adamw_twin(weight, grads, 0.01, 1e-6, 0.01)
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-13)


def test_stable_adamw_resumes_and_with_a_clipper_survives_nan(tmp_path):
    def steps(run, first, last):
        for i in range(first, last):
            run.backward(i)
            if i == 20:
                run.model[0].weight.grad[0, 0] = math.nan
            run.clip()
            run.optimizer.step()
        return run

    make = lambda: Run(lambda optimizer: ZClip(), optimizer=StableAdamW)  # noqa: E731
    whole, first, second = steps(make(), 0, 60), steps(make(), 0, 30), make()
    torch.save([first.model.state_dict(), first.optimizer.state_dict()], tmp_path / "run.pt")
    model, optimizer = torch.load(tmp_path / "run.pt")
    second.model.load_state_dict(model)
    second.optimizer.load_state_dict(optimizer)
    second.clipper.load_state_dict(first.clipper.state_dict())
    assert torch.equal(steps(second, 30, 60).weights(), whole.weights())
    assert whole.weights().isfinite().all()


def test_stable_adamw_holds_where_adamw_jumps():
    """The second moment is out of date: gradients grow all at once, by a new kind of batch."""

    def worst(kind):
        p = torch.nn.Parameter(torch.tensor([1.0]))
        optimizer = kind([p], lr=0.05, betas=(0.9, 0.99), weight_decay=0.0)
        away = 0.0
        for t in range(220):
            optimizer.zero_grad()
            curvature = 1e-4 if t < 200 else 1.0
            (0.5 * curvature * (p - 1 - 0.3 * math.sin(t)) ** 2).sum().backward()
            optimizer.step()
            if t >= 200:
                away = max(away, abs(p.item() - 1))
        return away

    assert worst(StableAdamW) < 0.6 * worst(torch.optim.AdamW)


def test_nan_goes_through_theirs():
    for kind in (StableAdamW, TheirAdaGC, SPAM):
        run = Run(optimizer=kind).steps(0, 30)
        run.backward(30)
        run.model[0].weight.grad[0, 0] = math.nan
        run.optimizer.step()
        assert not run.weights().isfinite().all()


def test_adagc_of_theirs_hardly_trains_what_begins_with_a_gradient_of_zero():
    def train(kind, clipper=None):
        g = torch.Generator().manual_seed(0)
        down = torch.nn.Parameter(0.3 * torch.randn(2, 8, generator=g))
        up = torch.nn.Parameter(torch.zeros(8, 2))  # LoRA: the first gradient of `down` is zero
        aim = torch.randn(8, 2, generator=g) @ torch.randn(2, 8, generator=g)
        optimizer = kind([down, up])
        for _ in range(600):
            x = torch.randn(64, 8, generator=g)
            loss = (x @ (up @ down - aim).T).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clipper:
                clipper.clip_([("down", down), ("up", up)])
            optimizer.step()
        return loss.item()

    theirs = train(lambda p: TheirAdaGC(p, lr=0.01, weight_decay=0.0))
    ours = train(lambda p: torch.optim.Adam(p, lr=0.01), AdaGC())
    assert theirs > 1
    assert ours < 0.1 * theirs


def test_spam_of_theirs_never_trains_a_token_that_comes_up_late():
    def train(kind, make=None):
        torch.manual_seed(0)
        table = torch.nn.Embedding(10, 4)
        before = table.weight.detach().clone()
        optimizer = kind(table.parameters(), lr=0.01)
        clipper = make(optimizer) if make else None
        for i in range(200):
            tokens = torch.randint(0, 9, (32,))
            if i >= 30:
                tokens[0] = 9
            optimizer.zero_grad()
            (table(tokens) - 1).square().sum(1).mean().backward()
            if clipper:
                clipper.clip_(table)
            optimizer.step()
        return (table.weight.detach() - before).norm(dim=1)[9].item()

    assert train(SPAM) == 0.0
    assert train(torch.optim.Adam, SpikeAwareClip) > 1
