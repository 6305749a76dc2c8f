//! Times: ISO 8601 text as instants, and the order of splits in time.

use crate::error::{Error, Result};
use crate::leak::column::{Cell, Column};

const SECOND: i128 = 1_000_000_000;

/// A point on a time axis, in one of the two units that a column of times can have.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Time {
    /// A number (a year, an index, seconds) as its floor and the rest, so that large integers
    /// keep all their digits.
    Number(i128, f64),
    /// Nanoseconds since 1970-01-01 UTC.
    Instant(i128),
}

/// The time in a cell, `None` if it is missing or NaN.
fn time(cell: Cell<'_>) -> Result<Option<Time>> {
    let other = |got: String| {
        Err(Error::type_("time", "numbers, dates, time stamps or ISO 8601 text", got))
    };
    match cell {
        Cell::Missing => Ok(None),
        Cell::Int(v) => Ok(Some(Time::Number(v, 0.0))),
        Cell::Float(v) if v.is_nan() => Ok(None),
        Cell::Float(v) if v.is_infinite() => Ok(Some(Time::Number(v as i128, 0.0))),
        Cell::Float(v) => Ok(Some(Time::Number(v.floor() as i128, v - v.floor()))),
        Cell::Instant(v) => Ok(Some(Time::Instant(v))),
        Cell::Text(text) => match parse_iso(text) {
            Some(nanoseconds) => Ok(Some(Time::Instant(nanoseconds))),
            None => other(format!("{text:?}")),
        },
        Cell::Bytes(_) => other("bytes".into()),
        Cell::Span(_) | Cell::Clock(_) => other("a duration or time of day".into()),
    }
}

/// Rows of a later split that are older than the newest row of an earlier split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disorder {
    /// Index of the earlier split.
    pub earlier: usize,
    /// Index of the later split.
    pub later: usize,
    /// Row of the earlier split with the newest time.
    pub newest_row: usize,
    /// Row of the later split with the oldest time.
    pub oldest_row: usize,
    /// How many rows of the later split are older than the newest of the earlier one.
    pub older_rows: usize,
}

/// Every pair of splits that overlap in time.
///
/// # Errors
/// [`Error::Type`] if a cell holds no time; [`Error::Value`] if numbers and dates are mixed.
pub fn disorder(splits: &[&dyn Column]) -> Result<Vec<Disorder>> {
    let mut times: Vec<Vec<(Time, usize)>> = Vec::new();
    for column in splits {
        let mut present = Vec::new();
        for row in 0..column.len() {
            present.extend(time(column.cell(row))?.map(|time| (time, row)));
        }
        times.push(present);
    }
    let mut all = times.iter().flatten();
    if let Some((first, _)) = all.next() {
        let same =
            |(t, _): &(Time, usize)| std::mem::discriminant(t) == std::mem::discriminant(first);
        if !all.all(same) {
            return Err(Error::value("time", "numbers alone or dates alone", "both"));
        }
    }
    let mut out = Vec::new();
    for later in 0..times.len() {
        for earlier in 0..later {
            out.extend(between(&times[earlier], &times[later]).map(|(newest, oldest, older)| {
                Disorder {
                    earlier,
                    later,
                    newest_row: newest,
                    oldest_row: oldest,
                    older_rows: older,
                }
            }));
        }
    }
    Ok(out)
}

/// Newest row of `earlier`, oldest row of `later`, and how many of `later` are older than the former.
fn between(earlier: &[(Time, usize)], later: &[(Time, usize)]) -> Option<(usize, usize, usize)> {
    // The first of equals, so that the answer does not depend on anything but the data.
    let newest = earlier.iter().copied().reduce(|a, b| if b.0 > a.0 { b } else { a })?;
    let oldest = later.iter().copied().reduce(|a, b| if b.0 < a.0 { b } else { a })?;
    let older = later.iter().filter(|(t, _)| *t < newest.0).count();
    (older > 0).then_some((newest.1, oldest.1, older))
}

/// Nanoseconds since 1970-01-01 UTC of `YYYY-MM-DD`, optionally followed by `T` or a space and
/// `HH:MM[:SS[.fraction]]`, optionally followed by `Z` or `+HH:MM` (without it: UTC).
pub fn parse_iso(text: &str) -> Option<i128> {
    let text = text.trim();
    let (date, clock) = match text.split_once(['T', ' ', 't']) {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 4 {
        return None;
    }
    let days = days_since_1970(digits(year)?, two_digits(month)?, two_digits(day)?)?;
    let within = clock.map_or(Some(0), parse_clock)?;
    Some(days * 86_400 * SECOND + within)
}

fn parse_clock(text: &str) -> Option<i128> {
    let (clock, offset) = match text.find(['Z', 'z', '+', '-']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let mut parts = clock.split(':');
    let (hour, minute) = (two_digits(parts.next()?)?, two_digits(parts.next()?)?);
    let (second, fraction) = match parts.next() {
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once(['.', ',']).unwrap_or((seconds, "0"));
            (two_digits(whole)?, fraction)
        }
        None => (0, "0"),
    };
    if parts.next().is_some() || hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let kept = fraction.get(..fraction.len().min(9))?; // finer than nanoseconds is dropped
    let nanoseconds = digits(kept)? * 10_i128.pow(9 - kept.len() as u32);
    let shift = match offset.as_bytes() {
        [] | [b'Z' | b'z'] => 0,
        [sign, rest @ ..] => {
            let rest = std::str::from_utf8(rest).ok()?.replace(':', "");
            let minutes = match rest.len() {
                2 => two_digits(&rest)? * 60,
                4 => two_digits(rest.get(..2)?)? * 60 + two_digits(rest.get(2..)?)?,
                _ => return None,
            };
            if *sign == b'-' { -minutes } else { minutes }
        }
    };
    Some(((hour * 60 + minute - shift) * 60 + second) * SECOND + nanoseconds)
}

fn digits(text: &str) -> Option<i128> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn two_digits(text: &str) -> Option<i128> {
    if text.len() == 2 { digits(text) } else { None }
}

/// Days between 1970-01-01 and a date of the Gregorian calendar (Hinnant, "chrono-compatible
/// low-level date algorithms").
fn days_since_1970(year: i128, month: i128, day: i128) -> Option<i128> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let year = year - i128::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// ISO 8601 text of an instant in UTC, as short as it can be.
pub(crate) fn iso(nanoseconds: i128) -> String {
    let (days, within) =
        (nanoseconds.div_euclid(86_400 * SECOND), nanoseconds.rem_euclid(86_400 * SECOND));
    let (year, month, day) = date(days);
    let date = format!("{year:04}-{month:02}-{day:02}");
    if within == 0 { date } else { format!("{date}T{}", clock(within)) }
}

/// `HH:MM:SS` of nanoseconds since midnight, with a fraction if there is one.
pub(crate) fn clock(nanoseconds: i128) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND));
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let whole = format!("{hours:02}:{minutes:02}:{seconds:02}");
    if fraction == 0 {
        return whole;
    }
    let fraction = format!("{fraction:09}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// The inverse of [`days_since_1970`].
fn date(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i128::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::column::Strided;
    use proptest::prelude::*;

    #[test]
    fn iso_text_is_an_instant() {
        assert_eq!(parse_iso("1970-01-01"), Some(0));
        assert_eq!(parse_iso("2000-03-01"), Some(951_868_800 * SECOND));
        assert_eq!(parse_iso("1969-12-31T23:59:59Z"), Some(-SECOND));
        assert_eq!(parse_iso("1970-01-01 01:00:00.5+01:00"), Some(SECOND / 2));
        assert_eq!(parse_iso("1970-01-01T00:00-0130"), Some(5_400 * SECOND));
        for bad in ["", "yesterday", "2000-02-30", "2000-13-01", "1970-01-01T25", "01/02/2000"] {
            assert_eq!(parse_iso(bad), None, "{bad}");
        }
    }

    #[test]
    fn rows_before_the_newest_training_row_are_counted() {
        let train: Vec<Option<&str>> = vec![Some("2020-01-01"), Some("2020-06-01"), None];
        let test: Vec<Option<&str>> =
            vec![Some("2020-06-01"), Some("2020-03-01T12:00"), Some("2021-01-01")];
        let found = disorder(&[&train, &test]).unwrap();
        let expected =
            Disorder { earlier: 0, later: 1, newest_row: 1, oldest_row: 1, older_rows: 1 };
        assert_eq!(found, [expected]);
        assert_eq!(disorder(&[&test, &Vec::<Option<&str>>::new()]).unwrap(), []);
    }

    #[test]
    fn what_is_no_time_is_named() {
        let column: Vec<Option<&str>> = vec![Some("soon")];
        assert!(disorder(&[&column]).unwrap_err().to_string().contains("soon"));
        let dates: Vec<Option<&str>> = vec![Some("2020-01-01")];
        let years = ndarray::arr1(&[2020_i64]);
        let years = Strided::new(years.view(), "int64", |v: i64| Cell::Int(v.into()));
        assert!(disorder(&[&dates, &years]).unwrap_err().to_string().contains("both"));
    }

    proptest! {
        #[test]
        fn instants_are_written_as_they_are_read(seconds in -60_000_000_000_i128..250_000_000_000, fraction in 0..SECOND) {
            let instant = seconds * SECOND + fraction;
            prop_assert_eq!(parse_iso(&iso(instant)), Some(instant));
        }

        #[test]
        fn any_text_parses_or_not(text in any::<String>()) {
            let _ = parse_iso(&text);
        }

        #[test]
        fn close_calls_do_not_panic(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.,Z+é-]{0,16}") {
            let _ = parse_iso(&text);
        }
    }
}
