//! Cells as bytes: equal cells, equal bytes, and the other way round.
//!
//! Cells are compared as Python compares values, whatever their types: `True == 1 == 1.0` and
//! `-0.0 == 0.0`; a float32 is the number it holds. Null, NaN and not-a-time are one value, missing,
//! and equal each other. Text is compared byte by byte, time stamps as instants whatever their unit.
//!
//! Normalised cells: text is lower-cased (in form NFC), trimmed, and its runs of white space become
//! one space (punctuation stays: it tells categories such as `<=50K` and `>50K` apart); numbers that
//! are not whole are rounded to 6 significant digits, or numbers to the points of a grid.

use std::fmt::Write as _;

use crate::leak::column::{Cell, Column};
use crate::leak::normalise::fold_case;
use crate::leak::time;

/// Significant digits that normalised numbers keep.
pub const DIGITS: usize = 6;

const MISSING: u8 = 0;
const INTEGER: u8 = 1;
const FLOAT: u8 = 2;
const TEXT: u8 = 3;
const BYTES: u8 = 4;
const INSTANT: u8 = 5;
const SPAN: u8 = 6;
const CLOCK: u8 = 7;

/// Appends the bytes of a cell. No cell's bytes are the beginning of another's.
pub fn encode(cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Missing => out.push(MISSING),
        Cell::Int(v) => tagged(INTEGER, v, out),
        Cell::Float(v) if v.is_nan() => out.push(MISSING),
        // Every whole float below 2^127 is exactly one i128.
        Cell::Float(v) if v.fract() == 0.0 && v.abs() < 1.7e38 => tagged(INTEGER, v as i128, out),
        Cell::Float(v) => {
            out.push(FLOAT);
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
        Cell::Text(text) => sized(TEXT, text.as_bytes(), out),
        Cell::Bytes(bytes) => sized(BYTES, bytes, out),
        Cell::Instant(v) => tagged(INSTANT, v, out),
        Cell::Span(v) => tagged(SPAN, v, out),
        Cell::Clock(v) => tagged(CLOCK, v, out),
    }
}

/// Appends the bytes of the normalised cell. With a `grid`, a finite number becomes the nearest
/// multiple of that step, half-way cases the one farther from zero.
pub fn encode_normalised(cell: Cell<'_>, grid: Option<f64>, out: &mut Vec<u8>) {
    match (cell, grid) {
        (Cell::Text(text), _) => encode(Cell::Text(&plain_text(text)), out),
        // The number of the point, not its value: 3 * 0.1 is not 0.3.
        (Cell::Float(v), Some(step)) if v.is_finite() => {
            encode(Cell::Float((v / step).round()), out);
        }
        (Cell::Int(v), Some(step)) => encode(Cell::Float((v as f64 / step).round()), out),
        (Cell::Float(v), None) if v.fract() != 0.0 => encode(Cell::Float(rounded(v)), out),
        _ => encode(cell, out),
    }
}

/// The normalised cell as people read it.
pub(crate) fn show_normalised(cell: Cell<'_>) -> String {
    match cell {
        Cell::Text(text) => plain_text(text),
        Cell::Float(v) if v.fract() != 0.0 => rounded(v).to_string(),
        _ => show(cell),
    }
}

/// A cell as people read it.
pub fn show(cell: Cell<'_>) -> String {
    match cell {
        Cell::Missing => "(missing)".into(),
        Cell::Int(v) => v.to_string(),
        Cell::Float(v) => v.to_string(),
        Cell::Text(text) => text.to_owned(),
        Cell::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Cell::Instant(v) => time::iso(v),
        Cell::Span(v) => format!("{} s", v as f64 / 1e9),
        Cell::Clock(v) => time::clock(v),
    }
}

/// A row as people read it: its text, or `name=cell` for each column, in at most so many
/// `characters`.
pub fn show_row(
    names: &[String],
    columns: &[&dyn Column],
    row: usize,
    characters: usize,
) -> String {
    let mut out = String::new();
    for (name, column) in names.iter().map(String::as_str).zip(columns) {
        if !out.is_empty() {
            out.push_str(", ");
        }
        let cell = show(column.cell(row));
        if columns.len() > 1 {
            out.extend([name, "="]);
        }
        out.push_str(&cell);
        if let Some((end, _)) = out.char_indices().nth(characters) {
            out.truncate(end);
            out.push('…');
            break;
        }
    }
    out
}

fn tagged(tag: u8, value: i128, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&value.to_le_bytes());
}

fn sized(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn plain_text(text: &str) -> String {
    let folded = fold_case(text);
    let mut out = String::with_capacity(folded.len());
    for word in folded.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// `value` at [`DIGITS`] significant digits, by way of decimal text: exact, and the same everywhere.
fn rounded(value: f64) -> f64 {
    let mut text = String::with_capacity(16);
    let written = write!(text, "{value:.*e}", DIGITS - 1);
    written.ok().and_then(|()| text.parse().ok()).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(cell: Cell<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode(cell, &mut out);
        out
    }

    fn normal(cell: Cell<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode_normalised(cell, None, &mut out);
        out
    }

    #[test]
    fn numbers_compare_by_value() {
        assert_eq!(exact(Cell::Float(-0.0)), exact(Cell::Int(0)));
        assert_eq!(exact(Cell::Float(1.0)), exact(Cell::Int(1)));
        assert_eq!(exact(Cell::Float(f64::NAN)), exact(Cell::Missing));
        assert_ne!(exact(Cell::Float(f64::INFINITY)), exact(Cell::Float(f64::NEG_INFINITY)));
        assert_ne!(exact(Cell::Int(1)), exact(Cell::Text("1")));
        assert_ne!(exact(Cell::Int(1)), exact(Cell::Instant(1)));
    }

    #[test]
    fn normalised_cells_forgive_case_space_and_rounding() {
        assert_eq!(normal(Cell::Text(" Never  Married\n")), normal(Cell::Text("never married")));
        assert_ne!(normal(Cell::Text("<=50K")), normal(Cell::Text(">50K")));
        assert_eq!(normal(Cell::Float(0.1_f32.into())), normal(Cell::Float(0.1)));
        assert_eq!(normal(Cell::Float(2.999_999_999)), normal(Cell::Int(3)));
        assert_ne!(normal(Cell::Float(1.000_01)), normal(Cell::Float(1.000_02)));
        assert_ne!(normal(Cell::Int(1_234_567)), normal(Cell::Int(1_234_568)));
    }

    #[test]
    fn numbers_on_one_point_of_the_grid_are_equal() {
        let on = |cell, step| {
            let mut out = Vec::new();
            encode_normalised(cell, Some(step), &mut out);
            out
        };
        assert_eq!(on(Cell::Float(0.1 + 0.2), 0.1), on(Cell::Float(0.3), 0.1));
        assert_eq!(on(Cell::Float(9.6), 5.0), on(Cell::Int(10), 5.0));
        assert_ne!(on(Cell::Float(0.34), 0.1), on(Cell::Float(0.36), 0.1));
        assert_eq!(on(Cell::Float(f64::NAN), 0.1), exact(Cell::Missing));
        assert_eq!(on(Cell::Float(f64::INFINITY), 0.1), exact(Cell::Float(f64::INFINITY)));
        assert_eq!(on(Cell::Float(-0.01), 0.1), on(Cell::Int(0), 0.1));
    }

    #[test]
    fn rows_are_shown_up_to_a_length() {
        let (a, b): (Vec<Option<&str>>, Vec<Option<&str>>) = (vec![Some("été")], vec![None]);
        let names = ["a".to_owned(), "b".to_owned()];
        let columns: [&dyn Column; 2] = [&a, &b];
        assert_eq!(show_row(&names, &columns, 0, 99), "a=été, b=(missing)");
        assert_eq!(show_row(&names[..1], &columns[..1], 0, 2), "ét…");
    }

    proptest! {
        #[test]
        fn equal_bytes_mean_equal_cells(a in any::<f64>(), b in any::<i64>(), text in any::<String>()) {
            prop_assume!(a.is_finite());
            prop_assert_eq!(exact(Cell::Float(a)) == exact(Cell::Int(b.into())), a == b as f64 && a as i128 == i128::from(b));
            prop_assert_ne!(exact(Cell::Text(&text)), exact(Cell::Bytes(text.as_bytes())));
        }

        #[test]
        fn rounding_keeps_six_digits(a in any::<f64>()) {
            prop_assume!(a.is_normal());
            prop_assert!((rounded(a) - a).abs() <= a.abs() * 5.1e-6);
            prop_assert_eq!(rounded(rounded(a)), rounded(a));
        }
    }
}
