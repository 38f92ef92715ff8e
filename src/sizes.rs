//! A number of bytes for people.

/// `64 MiB`, or `1.5 GiB` with one digit when it is not whole.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() as usize / 10).min(units.len() - 1);
    let value = count as f64 / 1024f64.powi(power as i32);
    let digits = usize::from(value.fract() != 0.0);
    format!("{value:.digits$} {}", units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_exactly_or_with_a_digit() {
        let said: Vec<String> = [0, 1023, 1024, 65_537, 3 << 29, 1 << 62].map(bytes).into();
        assert_eq!(said, ["0 B", "1023 B", "1 KiB", "64.0 KiB", "1.5 GiB", "4194304 TiB"]);
    }
}
