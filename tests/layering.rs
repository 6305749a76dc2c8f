//! The core's modules stand on one another in one order; this reads their `use` lines to hold it.

#![allow(clippy::unwrap_used)] // a test may panic

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A module may use those in earlier rows, and nothing else of the crate.
const LAYERS: [&[&str]; 4] =
    [&["error"], &["parallel"], &["tensor", "series", "leak", "runlog"], &["py"]];

fn layer_of(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("module {module} stands in no layer of this test"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every module of the crate that a line names by `crate::`.
fn named_modules(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| {
        line.split("crate::").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
    })
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        for named in named_modules(&fs::read_to_string(&file).unwrap()) {
            seen += 1;
            let fine = named == module || layer_of(named) < layer_of(module);
            assert!(fine, "{}: {module} must not use crate::{named}", inside.display());
        }
    }
    assert!(seen > 0, "no use line was found: the test reads the wrong place");
}

#[test]
fn only_the_bindings_know_python() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&src) {
        if file.starts_with(src.join("py")) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("pyo3"), "{} names pyo3", file.display());
    }
}
