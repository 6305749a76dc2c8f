//! Time per value of the record, level by level. `GYROSTAT_FORCE_KERNEL` chooses the instructions.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gyrostat::tensor::{Level, TensorView, Values, summarize, summarize_all};

/// Values of a normal distribution with deviation 1e-3, near enough: sums of uniform ones.
fn normal(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() * 1e-3).collect()
}

fn kernels(c: &mut Criterion) {
    type Run = fn(&TensorView<'_>);

    let n = 1 << 22;
    let single = normal(n);
    let double: Vec<f64> = single.iter().copied().map(f64::from).collect();
    let brain: Vec<u16> = single.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
    let half: Vec<u16> = brain.iter().map(|bits| (bits & 0x83ff) | 0x2000).collect();
    let sparse: Vec<f32> =
        single.iter().enumerate().map(|(i, &x)| if i % 20 == 0 { x } else { 0.0 }).collect();
    let mut holed = single.clone();
    holed.iter_mut().step_by(1000).for_each(|x| *x = f32::NAN);
    let tensors = [
        ("f32", TensorView::from(&single[..])),
        ("f64", TensorView::from(&double[..])),
        ("bf16", TensorView::BFloat16(Values::Contiguous(&brain))),
        ("f16", TensorView::Float16(Values::Contiguous(&half))),
        ("f32, 95 % zeros", TensorView::from(&sparse[..])),
        ("f32, 0.1 % NaN", TensorView::from(&holed[..])),
    ];
    let runs: [(&str, Run); 3] = [
        ("norm", |tensor| drop(black_box(summarize(tensor, Level::Norm)))),
        ("moments", |tensor| drop(black_box(summarize(tensor, Level::Moments)))),
        ("full", |tensor| drop(black_box(summarize(tensor, Level::Full)))),
    ];
    for (name, run) in runs {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(n as u64)).sample_size(20);
        for (kind, tensor) in &tensors {
            group.bench_with_input(BenchmarkId::from_parameter(kind), tensor, |b, t| {
                b.iter(|| run(black_box(t)));
            });
        }
        group.finish();
    }
    let small: Vec<_> = single.chunks_exact(64).take(148).map(TensorView::from).collect();
    c.bench_function("summarize_all, 148 of 64 f32", |b| {
        b.iter(|| summarize_all(black_box(&small), Level::Full));
    });
}

criterion_group!(benches, kernels);
criterion_main!(benches);
