//! What kind of value a key takes: what is allowed, in words, and the check that holds a value to it.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use toml::Value;

use super::{
    nearest,
    pin_budget::PinBudget,
    units::{duration_text, parse_duration, parse_size, size_text},
};

/// The kind of value a key takes.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// One of these names.
    Choice(&'static [&'static str]),
    /// A list of some of these names, each at most once.
    Choices(&'static [&'static str]),
    /// Bytes.
    Size(RangeInclusive<u64>),
    /// A time.
    Duration(RangeInclusive<Duration>),
    /// A whole number.
    Integer(RangeInclusive<i64>),
    /// Yes or no.
    Flag,
    /// An IP address.
    Address,
    /// The path of a directory, or nothing.
    Directory,
    /// The path of a file, or nothing.
    File,
    /// The name of a device, or nothing.
    Device,
    /// A pin budget.
    Budget,
    /// A list of names, which may be empty.
    Names,
}

impl Kind {
    /// What is allowed, in words.
    pub fn allowed(&self) -> String {
        match self {
            Self::Choice(names) => match quoted(names).as_slice() {
                [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
                one => one.concat(),
            },
            Self::Choices(names) => {
                let all = quoted(names).join(", ");
                format!("a list of one or more of {all}, each once")
            }
            Self::Size(range) => {
                let (least, most) = (size_text(*range.start()), size_text(*range.end()));
                format!("a size from \"{least}\" to \"{most}\", or that many bytes as a number")
            }
            Self::Duration(range) => {
                format!("a time from \"{}\" to \"{}\"", duration_text(*range.start()), duration_text(*range.end()))
            }
            Self::Integer(range) => format!("a whole number from {} to {}", range.start(), range.end()),
            Self::Flag => "true or false".to_owned(),
            Self::Address => "an IP address such as \"127.0.0.1\" or \"::\"".to_owned(),
            Self::Directory => "the path of a directory, or \"\"".to_owned(),
            Self::File => "the path of a file, or \"\"".to_owned(),
            Self::Device => "the name of a device such as \"mlx5_0\", or \"\"".to_owned(),
            Self::Budget => PinBudget::allowed(),
            Self::Names => "a list of names, or []".to_owned(),
        }
    }

    /// The value in its one canonical form (a size of `65536` becomes `"64 KiB"`), or why it is not allowed.
    pub fn accept(&self, value: &Value) -> Result<Value, String> {
        match (self, value) {
            (Self::Choice(names), Value::String(name)) => known(names, name)?,
            (Self::Choices(names), Value::Array(list)) => list_of(names, list)?,
            (Self::Size(range), Value::Integer(bytes)) => {
                let bytes = u64::try_from(*bytes).map_err(|_| "it is negative")?;
                return Ok(size_text(within(range, bytes)?).into());
            }
            (Self::Size(range), Value::String(text)) => {
                return Ok(size_text(within(range, parse_size(text)?)?).into());
            }
            (Self::Budget, Value::String(text)) => return Ok(PinBudget::parse(text)?.to_string().into()),
            (Self::Budget, Value::Integer(bytes)) => {
                let bytes = u64::try_from(*bytes).map_err(|_| "it is negative")?;
                return Ok(PinBudget::bytes(bytes)?.to_string().into());
            }
            (Self::Duration(range), Value::String(text)) => {
                return Ok(duration_text(within(range, parse_duration(text)?)?).into());
            }
            (Self::Duration(_), Value::Integer(_)) => return Err("a time needs its unit, as in \"500 us\"".to_owned()),
            (Self::Integer(range), Value::Integer(number)) => {
                within(range, *number)?;
            }
            (Self::Flag, Value::Boolean(_)) | (Self::Directory | Self::Device | Self::File, Value::String(_)) => {}
            (Self::Names, Value::Array(list)) => {
                if let Some(other) = list.iter().find(|item| item.as_str().is_none_or(str::is_empty)) {
                    return Err(format!("{other} in it is no name"));
                }
            }
            (Self::Address, Value::String(text)) => {
                let address =
                    text.parse::<IpAddr>().map_err(|_| "it is no IP address (host names are not looked up)")?;
                return Ok(address.to_string().into());
            }
            (_, other) => return Err(format!("it is of the wrong type ({})", other.type_str())),
        }
        Ok(value.clone())
    }
}

fn within<T: PartialOrd>(range: &RangeInclusive<T>, amount: T) -> Result<T, String> {
    if amount < *range.start() {
        Err("it is too small".to_owned())
    } else if amount > *range.end() {
        Err("it is too large".to_owned())
    } else {
        Ok(amount)
    }
}

fn known(names: &[&str], name: &str) -> Result<(), String> {
    if names.contains(&name) {
        return Ok(());
    }
    let near = nearest(name, names.iter().copied());
    Err(format!("{name:?} is not known, did you mean {near:?}?"))
}

fn list_of(names: &[&str], list: &[Value]) -> Result<(), String> {
    if list.is_empty() {
        return Err("the list is empty".to_owned());
    }
    for (at, item) in list.iter().enumerate() {
        let name = item.as_str().ok_or_else(|| format!("{item} in it is of the wrong type ({})", item.type_str()))?;
        known(names, name)?;
        if list[..at].contains(item) {
            return Err(format!("{name:?} is in it twice"));
        }
    }
    Ok(())
}

fn quoted(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("\"{name}\"")).collect()
}
