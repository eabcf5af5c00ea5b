//! Sizes and rates as people write them.

use std::time::Duration;

pub(super) const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Reads `64MiB`, `512B`, `4GB`: one whole number and one unit; `0` needs none.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    if number == 0 && unit.is_empty() {
        return Some(0);
    }
    let (_, factor) = UNITS.iter().find(|(known, _)| *known == unit)?;
    number.checked_mul(*factor)
}

/// Reads `1KiB/s`, in bytes per second; `0` needs no unit.
pub(super) fn parse_rate(text: &str) -> Option<u64> {
    match text.strip_suffix("/s") {
        Some(size) => parse_size(size),
        None => (text == "0").then_some(0),
    }
}

/// Reads `100/s`, `10/m` or `5/h`: how long from one to the next, and how many come in a second, at least one.
pub(super) fn parse_frequency(text: &str) -> Option<(Duration, u32)> {
    let (number, unit) = text.split_once('/')?;
    let secs = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u32 = number.parse().ok().filter(|number| *number > 0)?;
    let a_second = (number / secs).clamp(1, 1_000_000);
    Some((Duration::from_secs(secs.into()) / number, a_second))
}

/// Writes a size in the largest binary unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, factor) in UNITS[4..].iter().rev() {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("0B", Some(0)),
            ("512B", Some(512)),
            ("2KB", Some(2000)),
            ("2KiB", Some(2048)),
            ("64MiB", Some(64 << 20)),
            ("4GiB", Some(4 << 30)),
            ("", None),
            ("1", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1MiB", None),
            ("1 MiB", None),
            ("1mib", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }

    #[test]
    fn reads_rates() {
        for (text, want) in [
            ("0", Some(0)),
            ("1KiB/s", Some(1024)),
            ("0/s", Some(0)),
            ("1KiB", None),
            ("1KiB/m", None),
        ] {
            assert_eq!(parse_rate(text), want, "{text}");
        }
    }

    #[test]
    fn reads_frequencies() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("100/s", Some((ms(10), 100))),
            ("1/s", Some((ms(1000), 1))),
            ("600/m", Some((ms(100), 10))),
            ("10/m", Some((ms(6000), 1))),
            ("5/h", Some((ms(720_000), 1))),
            ("0/s", None),
            ("+1/s", None),
            ("/s", None),
            ("10", None),
            ("10/d", None),
            ("1.5/s", None),
            ("99999999999/s", None),
        ] {
            assert_eq!(parse_frequency(text), want, "{text}");
        }
    }

    #[test]
    fn shows_sizes_in_the_largest_whole_unit() {
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_size(1536), "1536B");
        assert_eq!(show_size(4 << 30), "4GiB");
        assert_eq!(show_size(0), "0B");
    }
}
