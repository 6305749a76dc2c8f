//! What the rules on the curve of a loss ask of the core, by the point and by the look.

use criterion::{Criterion, criterion_group, criterion_main};
use gyrostat::series::{Blocks, Window, trend};

fn bench(c: &mut Criterion) {
    let loss: Vec<f64> =
        (0..4096_u32).map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 12) * 1e-6).collect();
    let mut window = Window::new(256).expect("256 is in range");
    for &value in &loss {
        window.push(value);
    }
    let mut group = c.benchmark_group("curve");
    group.bench_function("blocks, 4,096 points", |b| {
        b.iter(|| {
            let mut blocks = Blocks::new(64).expect("64 is in range");
            loss.iter().filter(|&&value| blocks.push(value, 0.0)).count()
        });
    });
    group.bench_function("trend of 64", |b| b.iter(|| trend(&loss[..64], 2.0)));
    group.bench_function("shift in 256", |b| b.iter(|| window.shift(24)));
    group.bench_function("autocorrelation of 256", |b| b.iter(|| window.autocorrelation(127)));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
