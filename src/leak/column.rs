//! One column of a split, whatever holds it, read cell by cell.

use ndarray::ArrayView1;

/// The value of one cell, borrowed from its column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// Null, None or not-a-time. A float NaN is a [`Cell::Float`] and means the same.
    Missing,
    /// An integer; `false` is 0 and `true` is 1.
    Int(i128),
    /// A floating-point number of any width.
    Float(f64),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A date or a time stamp: nanoseconds since 1970-01-01 UTC.
    Instant(i128),
    /// A duration in nanoseconds.
    Span(i128),
    /// A time of day: nanoseconds since midnight.
    Clock(i128),
}

impl Cell<'_> {
    /// The instant `ticks` of so many `nanoseconds` after 1970; the least `i64` is not-a-time.
    pub fn instant(ticks: i64, nanoseconds: i128) -> Self {
        if ticks == i64::MIN {
            Self::Missing
        } else {
            Self::Instant(i128::from(ticks) * nanoseconds)
        }
    }

    /// The duration of `ticks` of so many `nanoseconds`; the least `i64` is not-a-time.
    pub fn span(ticks: i64, nanoseconds: i128) -> Self {
        if ticks == i64::MIN { Self::Missing } else { Self::Span(i128::from(ticks) * nanoseconds) }
    }
}

/// What a column holds, in a word for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text alone (and missing cells).
    Text,
    /// Anything else, named by its type.
    Other(&'static str),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Other(name) => name,
        })
    }
}

/// A column of cells.
pub trait Column: Send + Sync {
    /// Number of rows.
    fn len(&self) -> usize;

    /// The cell of `row`; [`Cell::Missing`] beyond the end.
    fn cell(&self, row: usize) -> Cell<'_>;

    /// What the column holds.
    fn kind(&self) -> Kind;

    /// Whether there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<C: Column + ?Sized> Column for &C {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        (**self).cell(row)
    }

    fn kind(&self) -> Kind {
        (**self).kind()
    }
}

/// A column of texts; `None` is missing.
impl Column for Vec<Option<&str>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        self.get(row).copied().flatten().map_or(Cell::Missing, Cell::Text)
    }

    fn kind(&self) -> Kind {
        Kind::Text
    }
}

/// A strided run of values and what they mean.
pub struct Strided<'a, T, F> {
    values: ArrayView1<'a, T>,
    kind: &'static str,
    cell: F,
}

impl<'a, T, F> Strided<'a, T, F> {
    /// `cell` turns a value into a cell.
    #[allow(clippy::needless_pass_by_value)] // a view is a reference
    pub fn new(values: ArrayView1<'a, T>, kind: &'static str, cell: F) -> Self {
        Self { values, kind, cell }
    }
}

impl<T, F> Column for Strided<'_, T, F>
where
    T: Copy + Send + Sync,
    F: Fn(T) -> Cell<'static> + Send + Sync,
{
    fn len(&self) -> usize {
        self.values.len()
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        self.values.get(row).map_or(Cell::Missing, |&value| (self.cell)(value))
    }

    fn kind(&self) -> Kind {
        Kind::Other(self.kind)
    }
}

/// Columns of one type, one after the other.
pub struct Chunked {
    chunks: Vec<Box<dyn Column>>,
    /// Row after the last one of each chunk.
    ends: Vec<usize>,
}

impl Chunked {
    /// The rows of `chunks` in order.
    pub fn new(chunks: Vec<Box<dyn Column>>) -> Self {
        let ends = chunks
            .iter()
            .scan(0, |end, chunk| {
                *end += chunk.len();
                Some(*end)
            })
            .collect();
        Self { chunks, ends }
    }
}

impl Column for Chunked {
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        let at = self.ends.partition_point(|&end| end <= row);
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        self.chunks.get(at).map_or(Cell::Missing, |chunk| chunk.cell(row - start))
    }

    fn kind(&self) -> Kind {
        self.chunks.first().map_or(Kind::Text, |chunk| chunk.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_one_column() {
        let a: Vec<Option<&str>> = vec![Some("a"), None];
        let b: Vec<Option<&str>> = vec![];
        let c: Vec<Option<&str>> = vec![Some("c")];
        // Chunked wants 'static; the literals are.
        let column = Chunked::new(vec![Box::new(a), Box::new(b), Box::new(c)]);
        assert_eq!(column.len(), 3);
        assert_eq!(column.cell(0), Cell::Text("a"));
        assert_eq!(column.cell(1), Cell::Missing);
        assert_eq!(column.cell(2), Cell::Text("c"));
        assert_eq!(column.cell(3), Cell::Missing);
        assert!(Chunked::new(vec![]).is_empty());
    }

    #[test]
    fn strides_are_followed() {
        let values = [1_i64, 2, 3, 4];
        let view = ArrayView1::from(&values);
        let column =
            Strided::new(view.slice(ndarray::s![..;-2]), "int64", |v: i64| Cell::Int(v.into()));
        assert_eq!((column.cell(0), column.cell(1)), (Cell::Int(4), Cell::Int(2)));
        assert_eq!(column.len(), 2);
    }
}
