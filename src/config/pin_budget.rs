//! How much a host's ranks may keep registered together: a part of its memory, a size, or whatever they like.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::{MIB, TIB, parse_size, size_text};

/// The most bytes that the value may be, written as a size.
const MOST: u64 = 1024 * TIB;

/// What the ranks of a host may keep registered, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PinBudget {
    /// That many hundredths of the host's memory, 1 to 100.
    Percent(u8),
    /// That many bytes.
    Bytes(u64),
    /// No budget.
    None,
}

impl PinBudget {
    /// What is allowed, in words.
    pub(super) fn allowed() -> String {
        let (least, most) = (size_text(MIB), size_text(MOST));
        format!("a part of memory from \"1%\" to \"100%\", a size from \"{least}\" to \"{most}\", or \"none\"")
    }

    /// Reads `75%`, `64 GiB` or `none`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(part) = text.strip_suffix('%') {
            let part = part.trim().parse().ok().filter(|part| (1..=100).contains(part));
            return part.map(Self::Percent).ok_or_else(|| "a part goes from 1% to 100%, in whole numbers".to_owned());
        }
        Self::bytes(parse_size(text)?)
    }

    /// That many bytes, if it may be so many.
    pub(super) fn bytes(bytes: u64) -> Result<Self, String> {
        match bytes {
            _ if bytes < MIB => Err("it is too small".to_owned()),
            _ if bytes > MOST => Err("it is too large".to_owned()),
            _ => Ok(Self::Bytes(bytes)),
        }
    }

    /// In bytes, on a host with so much memory; `None` for no budget.
    pub(crate) fn of(self, memory: u64) -> Option<u64> {
        match self {
            Self::Percent(part) => Some((u128::from(memory) * u128::from(part) / 100) as u64),
            Self::Bytes(bytes) => Some(bytes),
            Self::None => None,
        }
    }
}

/// As it is written in a file, without quotes.
impl fmt::Display for PinBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(part) => write!(f, "{part}%"),
            Self::Bytes(bytes) => f.write_str(&size_text(*bytes)),
            Self::None => f.write_str("none"),
        }
    }
}

impl From<PinBudget> for String {
    fn from(budget: PinBudget) -> Self {
        budget.to_string()
    }
}

impl TryFrom<String> for PinBudget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_budget_is_a_part_a_size_or_none() {
        for (text, of_1000_mib) in [("75%", Some(750 * MIB)), ("64 MiB", Some(64 * MIB)), ("none", None)] {
            let budget = PinBudget::parse(text).unwrap();
            assert_eq!((budget.to_string().as_str(), budget.of(1000 * MIB)), (text, of_1000_mib));
        }
        assert_eq!(PinBudget::Percent(100).of(u64::MAX), Some(u64::MAX));
        for text in ["", "0%", "101%", "1.5%", "-1%", "%", "half", "64", "1 KiB", "2000 TiB"] {
            assert!(PinBudget::parse(text).is_err(), "{text}");
        }
    }
}
