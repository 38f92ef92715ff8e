//! Numbers for people: sizes, counts and times as short text.

/// A size in bytes with a binary unit: `"512 B"`, `"64.0 MiB"`.
///
/// ```
/// assert_eq!(lunasa::status::pretty::bytes(64 << 20), "64.0 MiB");
/// ```
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be written as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count with its thousands set apart: `"1,234,567"`.
///
/// ```
/// assert_eq!(lunasa::status::pretty::count(1_234_567), "1,234,567");
/// ```
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in seconds in its two largest units: `"42 s"`, `"2 min 05 s"`, `"3 h 07 min"`, `"4 d 02 h"`.
///
/// ```
/// assert_eq!(lunasa::status::pretty::duration(125.4), "2 min 05 s");
/// ```
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {:02} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {:02} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3_600 % 24),
    }
}

/// A short time in seconds with its unit: `"0 ns"`, `"16.3 µs"`, `"1.2 ms"`, `"4.0 s"`.
///
/// ```
/// assert_eq!(lunasa::status::pretty::moment(0.000_016_34), "16.3 µs");
/// ```
pub fn moment(seconds: f64) -> String {
    match seconds.max(0.0) {
        s if s < 999.5e-9 => format!("{:.0} ns", s * 1e9),
        s if s < 999.95e-6 => format!("{:.1} µs", s * 1e6),
        s if s < 999.95e-3 => format!("{:.1} ms", s * 1e3),
        s if s < 99.95 => format!("{s:.1} s"),
        s => duration(s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_unit_where_the_number_would_not_fit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (100_000, "100,000")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn moments_change_unit_where_the_number_would_not_fit() {
        let cases =
            [(-1.0, "0 ns"), (20e-9, "20 ns"), (999.6e-9, "1.0 µs"), (0.5e-3, "500.0 µs"), (999.96e-6, "1.0 ms")];
        for (seconds, text) in cases.into_iter().chain([(1.5, "1.5 s"), (125.0, "2 min 05 s")]) {
            assert_eq!(moment(seconds), text);
        }
    }

    #[test]
    fn times_show_two_units_at_most() {
        for (seconds, text) in [
            (-1.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min 00 s"),
            (3_599.0, "59 min 59 s"),
            (3_600.0, "1 h 00 min"),
            (90_000.0, "1 d 01 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
