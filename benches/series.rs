//! `find_spikes` over a long run, by the point.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gyrostat::series::find_spikes;

fn noisy_loss(n: usize) -> Vec<f64> {
    let mut seed = 1_u64;
    (0..n)
        .map(|i| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let noise = (seed >> 40) as f64 / (1_u64 << 24) as f64 - 0.5;
            2.0 + 5.0 * (-(i as f64) / 3000.0).exp() + 0.1 * noise
        })
        .collect()
}

fn bench(c: &mut Criterion) {
    let loss = noisy_loss(100_000);
    let mut group = c.benchmark_group("series");
    group.throughput(Throughput::Elements(loss.len() as u64));
    group.bench_function("find_spikes", |b| b.iter(|| find_spikes(&loss, None, None, 0.2)));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
