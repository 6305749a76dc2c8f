//! Data-leakage hashing: the steps on one text, and the whole check on many.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gyrostat::error::Error;
use gyrostat::leak::column::Column;
use gyrostat::leak::shingle::Shingler;
use gyrostat::leak::{Leaks, Options, TextOptions, band::Banding, hash, minhash::MinHash};

/// Text of `n` words drawn with Zipf-like frequencies, the same in every run.
fn text(n: usize, seed: u64) -> String {
    let word = |i: usize| {
        let draw = hash::mix(hash::mix(seed).wrapping_add(i as u64));
        format!("word{} ", 20_000 / (1 + draw % 20_000))
    };
    (0..n).map(word).collect()
}

fn steps(criterion: &mut Criterion) {
    let text = text(1000, 0);
    let mut group = criterion.benchmark_group("leak");
    group.throughput(Throughput::Bytes(text.len() as u64));
    let (mut shingler, mut shingles) = (Shingler::new(TextOptions::default()), Vec::new());
    group.bench_function("tokens", |b| b.iter(|| shingler.identity(black_box(&text))));
    group.bench_function("shingles", |b| {
        b.iter(|| shingler.shingles_into(black_box(&text), &mut shingles));
    });
    let (banding, mut sketch) = (Banding::for_threshold(0.8), Vec::new());
    let minhash = MinHash::new(banding.slots());
    group.bench_function("sketch", |b| {
        b.iter(|| minhash.sketch_into(black_box(&shingles), &mut sketch));
    });
    group.finish();
}

fn check(criterion: &mut Criterion) {
    // One document in ten comes back with a few words more.
    let train: Vec<String> = (0..8_000).map(|i| text(100, i)).collect();
    let test: Vec<String> = (0..2_000)
        .map(|i| text(100, if i % 10 == 0 { i } else { 10_000 + i }) + "and some more")
        .collect();
    let bytes: usize = train.iter().chain(&test).map(String::len).sum();
    let mut group = criterion.benchmark_group("leak");
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("check 10,000 documents", |b| {
        b.iter_batched(
            || [&train, &test].map(|texts| texts.iter().map(|t| Some(t.as_str())).collect()),
            |splits: [Vec<Option<&str>>; 2]| {
                let columns: Vec<&dyn Column> = splits.iter().map(|s| s as &dyn Column).collect();
                let (text, options) =
                    (TextOptions::default(), Options::new(Some(0.8), false, false)?);
                Leaks::in_texts::<Error>(&columns, text, None, options, &mut |_, _, _| Ok(()))
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, steps, check);
criterion_main!(benches);
