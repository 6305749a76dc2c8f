//! Arrow arrays as columns. Text is read where it lies.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayAccessor, ArrayRef, BinaryArray, BinaryViewArray, FixedSizeBinaryArray,
    LargeBinaryArray, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use arrow_schema::{DataType, TimeUnit};

use crate::error::{Error, Result};
use crate::leak::column::{Cell, Chunked, Column, Kind};

/// The chunks of one column, all of one type. `name` is for the messages.
///
/// # Errors
/// [`Error::Type`] for types whose values are no single numbers, texts, bytes or times;
/// [`Error::Value`] if text is no valid UTF-8 or offsets lead nowhere.
pub fn column(name: &str, chunks: &[ArrayRef]) -> Result<Chunked> {
    chunks.iter().map(|array| chunk(name, array)).collect::<Result<_>>().map(Chunked::new)
}

fn chunk(name: &str, array: &ArrayRef) -> Result<Box<dyn Column>> {
    const NANO: i128 = 1;
    const MICRO: i128 = 1_000;
    const MILLI: i128 = 1_000_000;
    const SECOND: i128 = 1_000_000_000;
    const DAY: i128 = 86_400 * SECOND;
    use DataType as D;
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};

    Ok(match array.data_type() {
        D::Utf8 => text::<StringArray>(name, array)?,
        D::LargeUtf8 => text::<LargeStringArray>(name, array)?,
        D::Utf8View => text::<StringViewArray>(name, array)?,
        D::Binary => bytes::<BinaryArray>(name, array)?,
        D::LargeBinary => bytes::<LargeBinaryArray>(name, array)?,
        D::BinaryView => bytes::<BinaryViewArray>(name, array)?,
        D::FixedSizeBinary(_) => bytes::<FixedSizeBinaryArray>(name, array)?,
        D::Null => Box::new(Nulls(array.len())),
        D::Boolean => Box::new(Values {
            array: array.as_boolean().clone(),
            kind: Kind::Other("boolean"),
            cell: |v: bool| Cell::Int(v.into()),
        }),
        D::Int8 => integers::<Int8Type>(array),
        D::Int16 => integers::<Int16Type>(array),
        D::Int32 => integers::<Int32Type>(array),
        D::Int64 => integers::<Int64Type>(array),
        D::UInt8 => integers::<UInt8Type>(array),
        D::UInt16 => integers::<UInt16Type>(array),
        D::UInt32 => integers::<UInt32Type>(array),
        D::UInt64 => integers::<UInt64Type>(array),
        D::Float16 => primitive::<Float16Type>(array, "float", |v| Cell::Float(v.to_f64())),
        D::Float32 => primitive::<Float32Type>(array, "float", |v| Cell::Float(v.into())),
        D::Float64 => primitive::<Float64Type>(array, "float", Cell::Float),
        &D::Decimal128(_, scale) => {
            primitive::<Decimal128Type>(array, "decimal", move |v| decimal(v, scale))
        }
        D::Date32 => instants::<Date32Type>(array, DAY),
        D::Date64 => instants::<Date64Type>(array, MILLI),
        D::Timestamp(Second, _) => instants::<TimestampSecondType>(array, SECOND),
        D::Timestamp(Millisecond, _) => instants::<TimestampMillisecondType>(array, MILLI),
        D::Timestamp(Microsecond, _) => instants::<TimestampMicrosecondType>(array, MICRO),
        D::Timestamp(Nanosecond, _) => instants::<TimestampNanosecondType>(array, NANO),
        D::Duration(Second) => spans::<DurationSecondType>(array, SECOND),
        D::Duration(Millisecond) => spans::<DurationMillisecondType>(array, MILLI),
        D::Duration(Microsecond) => spans::<DurationMicrosecondType>(array, MICRO),
        D::Duration(Nanosecond) => spans::<DurationNanosecondType>(array, NANO),
        D::Time32(Second) => clocks::<Time32SecondType>(array, SECOND),
        D::Time32(_) => clocks::<Time32MillisecondType>(array, MILLI),
        D::Time64(Microsecond) => clocks::<Time64MicrosecondType>(array, MICRO),
        D::Time64(_) => clocks::<Time64NanosecondType>(array, NANO),
        D::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let values = chunk(name, dictionary.values())?;
            // Keys of null rows may be anything, also when there is no value at all.
            let keys = if values.is_empty() {
                vec![None; array.len()]
            } else {
                let keys = dictionary.normalized_keys().into_iter().enumerate();
                keys.map(|(row, key)| array.is_valid(row).then_some(key)).collect()
            };
            Box::new(Dictionary { keys, values })
        }
        other => {
            return Err(Error::Type {
                parameter: "splits",
                expected: "columns of numbers, text, bytes or times".into(),
                got: format!("{name} of type {other}; flatten it, or leave it out"),
            });
        }
    })
}

/// Values of an Arrow array that turn into cells one by one.
struct Values<A, F> {
    array: A,
    kind: Kind,
    cell: F,
}

impl<A, T, F> Column for Values<A, F>
where
    A: Array + Send + Sync,
    for<'a> &'a A: ArrayAccessor<Item = T>,
    F: Fn(T) -> Cell<'static> + Send + Sync,
{
    fn len(&self) -> usize {
        self.array.len()
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        let present = row < self.array.len() && self.array.is_valid(row);
        if present { (self.cell)((&self.array).value(row)) } else { Cell::Missing }
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}

fn primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    kind: &'static str,
    cell: impl Fn(T::Native) -> Cell<'static> + Send + Sync + 'static,
) -> Box<dyn Column> {
    let array: PrimitiveArray<T> = array.as_primitive::<T>().clone();
    Box::new(Values { array, kind: Kind::Other(kind), cell })
}

fn integers<T: ArrowPrimitiveType<Native: Into<i128>>>(array: &ArrayRef) -> Box<dyn Column> {
    primitive::<T>(array, "integer", |v| Cell::Int(v.into()))
}

fn instants<T: ArrowPrimitiveType<Native: Into<i128>>>(
    array: &ArrayRef,
    tick: i128,
) -> Box<dyn Column> {
    primitive::<T>(array, "time stamp", move |v| Cell::Instant(v.into() * tick))
}

fn spans<T: ArrowPrimitiveType<Native: Into<i128>>>(
    array: &ArrayRef,
    tick: i128,
) -> Box<dyn Column> {
    primitive::<T>(array, "duration", move |v| Cell::Span(v.into() * tick))
}

fn clocks<T: ArrowPrimitiveType<Native: Into<i128>>>(
    array: &ArrayRef,
    tick: i128,
) -> Box<dyn Column> {
    primitive::<T>(array, "time of day", move |v| Cell::Clock(v.into() * tick))
}

/// A decimal of `value` times 10 to the minus `scale`: whole ones are integers, the rest the
/// nearest floats.
fn decimal(value: i128, scale: i8) -> Cell<'static> {
    let power = 10_i128.pow(scale.unsigned_abs().into());
    match scale {
        ..0 => value.checked_mul(power).map_or(Cell::Float(value as f64 * power as f64), Cell::Int),
        _ if value % power == 0 => Cell::Int(value / power),
        _ => Cell::Float(value as f64 / power as f64),
    }
}

/// Text or bytes, borrowed from the array.
struct Slices<A> {
    array: A,
    kind: Kind,
}

/// Whether the buffers of an imported array hold what their types promise: the C data interface
/// vouches for nothing.
fn checked(name: &str, array: &ArrayRef) -> Result<()> {
    array.to_data().validate_full().map_err(|error| {
        let got = format!("{name} with broken Arrow data: {error}");
        Error::value("splits", "valid UTF-8 text", got)
    })
}

macro_rules! slices {
    ($build:ident, $variant:ident, $kind:expr, $($array:ty),*) => {
        $(
            impl Column for Slices<$array> {
                fn len(&self) -> usize {
                    Array::len(&self.array)
                }

                fn cell(&self, row: usize) -> Cell<'_> {
                    let present = row < Array::len(&self.array) && self.array.is_valid(row);
                    if present { Cell::$variant(self.array.value(row)) } else { Cell::Missing }
                }

                fn kind(&self) -> Kind {
                    self.kind
                }
            }
        )*

        fn $build<A: Array + Clone + 'static>(
            name: &str,
            array: &ArrayRef,
        ) -> Result<Box<dyn Column>>
        where
            Slices<A>: Column,
        {
            checked(name, array)?;
            match array.as_any().downcast_ref::<A>() {
                Some(array) => Ok(Box::new(Slices { array: array.clone(), kind: $kind })),
                None => Err(Error::type_("splits", "an Arrow array of its type", array.data_type())),
            }
        }
    };
}

slices!(text, Text, Kind::Text, StringArray, LargeStringArray, StringViewArray);
slices!(
    bytes,
    Bytes,
    Kind::Other("binary"),
    BinaryArray,
    LargeBinaryArray,
    BinaryViewArray,
    FixedSizeBinaryArray
);

struct Nulls(usize);

impl Column for Nulls {
    fn len(&self) -> usize {
        self.0
    }

    fn cell(&self, _row: usize) -> Cell<'_> {
        Cell::Missing
    }

    fn kind(&self) -> Kind {
        Kind::Text // a column of nothing but nulls passes for a text column without text
    }
}

struct Dictionary {
    keys: Vec<Option<usize>>,
    values: Box<dyn Column>,
}

impl Column for Dictionary {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn cell(&self, row: usize) -> Cell<'_> {
        let key = self.keys.get(row).copied().flatten();
        key.map_or(Cell::Missing, |key| self.values.cell(key))
    }

    fn kind(&self) -> Kind {
        self.values.kind()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        BooleanArray, DictionaryArray, Int8Array, Int32Array, Int64Array, TimestampMillisecondArray,
    };
    use std::sync::Arc;

    fn cells(array: ArrayRef) -> Vec<String> {
        let column = column("c", &[array]).unwrap();
        (0..column.len()).map(|row| format!("{:?}", column.cell(row))).collect()
    }

    #[test]
    fn texts_of_every_layout_are_equal() {
        let texts = [Some("a"), None, Some("longer than twelve bytes")];
        let arrays: [ArrayRef; 4] = [
            Arc::new(StringArray::from_iter(texts)),
            Arc::new(LargeStringArray::from_iter(texts)),
            Arc::new(StringViewArray::from_iter(texts)),
            Arc::new(DictionaryArray::<Int8Type>::from_iter(texts)),
        ];
        for array in arrays {
            assert_eq!(column("c", &[Arc::clone(&array)]).unwrap().kind(), Kind::Text);
            let expected = [r#"Text("a")"#, "Missing", r#"Text("longer than twelve bytes")"#]
                .map(String::from);
            assert_eq!(cells(Arc::clone(&array)), expected);
            assert_eq!(cells(array.slice(1, 2)), expected[1..]);
        }
    }

    #[test]
    fn numbers_and_times_are_cells() {
        assert_eq!(cells(Arc::new(Int32Array::from(vec![Some(-1), None]))), ["Int(-1)", "Missing"]);
        assert_eq!(cells(Arc::new(TimestampMillisecondArray::from(vec![1]))), ["Instant(1000000)"]);
        assert_eq!(cells(Arc::new(BooleanArray::from(vec![true]))), ["Int(1)"]);
        assert_eq!(decimal(1250, 2), Cell::Float(12.5));
        assert_eq!(decimal(1200, 2), Cell::Int(12));
        assert_eq!(decimal(12, -2), Cell::Int(1200));
    }

    #[test]
    fn a_dictionary_of_nothing_is_missing() {
        let keys = Int8Array::from(vec![None, None]);
        let values = Arc::new(StringArray::from(Vec::<&str>::new()));
        assert_eq!(cells(Arc::new(DictionaryArray::new(keys, values))), ["Missing", "Missing"]);
    }

    #[test]
    fn nested_types_are_refused_by_name() {
        let values = Int64Array::from(vec![1, 2]);
        let field = Arc::new(arrow_schema::Field::new_list_field(DataType::Int64, true));
        let list = arrow_array::FixedSizeListArray::new(field, 2, Arc::new(values), None);
        let error = column("pixels", &[Arc::new(list)]).err().unwrap().to_string();
        assert!(error.contains("pixels"), "{error}");
    }
}
