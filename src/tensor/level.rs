//! How much a record tells.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How much a record tells, and so what it costs. Each level tells what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Counts of values, of NaN and infinities, and the Euclidean norm.
    Norm,
    /// Extremes, sums and moments too.
    Moments,
    /// Counts of exponents, of zeros and of subnormal numbers too.
    Full,
}

impl Level {
    const NAMES: [(&'static str, Self); 3] =
        [("norm", Self::Norm), ("moments", Self::Moments), ("full", Self::Full)];

    /// The name that users know it by.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

impl std::str::FromStr for Level {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level).ok_or_else(
            || {
                let names = Self::NAMES.map(|(name, _)| format!("\"{name}\""));
                Error::value("level", format!("one of {}", names.join(", ")), format!("{name:?}"))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_by_their_names() {
        for level in [Level::Norm, Level::Moments, Level::Full] {
            assert_eq!(level.name().parse(), Ok(level));
        }
        let message = "all".parse::<Level>().unwrap_err().to_string();
        assert_eq!(message, "level: expected one of \"norm\", \"moments\", \"full\", got \"all\"");
    }
}
