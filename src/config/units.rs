//! Sizes and durations as people write them: `64 MiB`, `500 us`.

use std::time::Duration;

/// Bytes of 1 KiB.
pub(super) const KIB: u64 = 1 << 10;
/// Bytes of 1 MiB.
pub(super) const MIB: u64 = 1 << 20;
/// Bytes of 1 GiB.
pub(super) const GIB: u64 = 1 << 30;
/// Bytes of 1 TiB.
pub(super) const TIB: u64 = 1 << 40;

/// Units by name with what one of them holds, the largest first.
type Units = &'static [(&'static str, u64)];

const BYTES: Units = &[
    ("TiB", TIB),
    ("TB", 1_000_000_000_000),
    ("GiB", GIB),
    ("GB", 1_000_000_000),
    ("MiB", MIB),
    ("MB", 1_000_000),
    ("KiB", KIB),
    ("kB", 1_000),
    ("B", 1),
];

const NANOSECONDS: Units = &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

/// Reads a size such as `64 MiB`, in bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, BYTES)
}

/// Writes a size exactly, in the largest unit that allows it.
pub(super) fn size_text(bytes: u64) -> String {
    text(bytes, BYTES)
}

/// Reads a duration such as `500 us`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, NANOSECONDS).map(Duration::from_nanos)
}

/// Writes a duration exactly, in the largest unit that allows it. Beyond 584 years it saturates.
pub(super) fn duration_text(duration: Duration) -> String {
    text(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), NANOSECONDS)
}

fn parse(text: &str, units: Units) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = unit.trim();
    let names = || units.iter().rev().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if digits.is_empty() {
        return Err(format!("it does not begin with a whole number, as in \"1 {}\"", units[0].0));
    }
    if unit.is_empty() {
        return Err(format!("it has no unit (one of {})", names()));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("{unit:?} is no unit (one of {})", names()));
    };
    let number = digits.parse::<u64>().ok();
    number.and_then(|number| number.checked_mul(*factor)).ok_or_else(|| "it is too large".to_owned())
}

fn text(amount: u64, units: Units) -> String {
    let exact = units.iter().find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor));
    // Nothing is in every unit: there, the smallest one is written.
    let (name, factor) = exact.unwrap_or(&units[units.len() - 1]);
    format!("{} {name}", amount / factor)
}

/// How a size field of `Settings` is serialized: as its text.
pub(super) mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::size_text(*bytes as u64))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        let bytes = super::parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        usize::try_from(bytes).map_err(|_| D::Error::custom("a size beyond this machine's addresses"))
    }
}

/// How a duration field of `Settings` is serialized: as its text.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::duration_text(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// How a path field of `Settings` that may be empty is serialized: as its text, "" for none.
pub(super) mod path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().unwrap_or(Path::new("")).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
        let path = PathBuf::deserialize(d)?;
        Ok(if path.as_os_str().is_empty() { None } else { Some(path) })
    }
}
