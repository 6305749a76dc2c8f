//! `find_spikes` over a long run, by the point.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gyrostat::series::{Series, find_spikes};

struct Run {
    loss: Vec<f64>,
    grad_norm: Option<Vec<f64>>,
}

impl Series for Run {
    fn len(&self) -> usize {
        self.loss.len()
    }

    fn loss(&self, i: usize) -> f64 {
        self.loss[i]
    }

    fn grad_norm(&self, i: usize) -> Option<f64> {
        self.grad_norm.as_ref().map(|norms| norms[i])
    }

    fn step(&self, _: usize) -> Option<f64> {
        None
    }

    fn update_rms(&self, _: usize) -> Option<f64> {
        None
    }
}

fn noise(n: usize, mut seed: u64) -> impl Iterator<Item = f64> {
    (0..n).map(move |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 40) as f64 / (1_u64 << 24) as f64 - 0.5
    })
}

fn bench(c: &mut Criterion) {
    let n = 100_000;
    let level = |i: usize| 2.0 + 5.0 * (-(i as f64) / 3000.0).exp();
    let loss: Vec<f64> = noise(n, 1).enumerate().map(|(i, v)| level(i) + 0.1 * v).collect();
    let norms: Vec<f64> = noise(n, 2).map(|v| (2.0 * v).exp()).collect();
    let mut group = c.benchmark_group("series");
    group.throughput(Throughput::Elements(n as u64));
    let mut run = Run { loss, grad_norm: None };
    group.bench_function("find_spikes", |b| b.iter(|| find_spikes(&run, 0.2)));
    run.grad_norm = Some(norms);
    group.bench_function("find_spikes with gradient norm", |b| b.iter(|| find_spikes(&run, 0.2)));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
