//! The signed time: by grammar, and within the tolerance both ways.

use std::time::Duration;

use super::{claim::ClaimError, template::Place};
use crate::clock::UnixTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimestampPlan {
    pub(super) place: Place,
    pub(super) unit: TimeUnit,
    pub(super) tolerance: Duration,
    /// Nothing separates the time from what stands beside it, so its number of digits must not vary.
    pub(super) fixed_width: bool,
    /// The end of a token's life: it may lie ahead.
    pub(super) is_end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Seconds,
    Milliseconds,
    /// Told apart by the number of digits.
    SecondsOrMilliseconds,
    Rfc3339,
}

impl TimestampPlan {
    /// The time that `written` says, if it lies within the tolerance of `now`.
    pub(super) fn read(&self, written: &[u8], now: UnixTime) -> Result<UnixTime, ClaimError> {
        let time = parse(self.unit, self.fixed_width, written).ok_or_else(|| {
            ClaimError::TimestampMalformed {
                place: self.place.clone(),
                expected: match self.unit {
                    TimeUnit::Seconds => "a time in seconds since 1970",
                    TimeUnit::Milliseconds => "a time in milliseconds since 1970",
                    TimeUnit::SecondsOrMilliseconds => {
                        "a time in seconds or milliseconds since 1970"
                    }
                    TimeUnit::Rfc3339 => "a time as RFC 3339 writes it",
                },
            }
        })?;
        if !(self.is_end && time > now) {
            within(time, now, self.tolerance)?;
        }
        Ok(time)
    }
}

/// Whether two moments lie within the tolerance of each other.
pub(super) fn within(time: UnixTime, now: UnixTime, tolerance: Duration) -> Result<(), ClaimError> {
    let distance = time.distance(now);
    if distance <= tolerance {
        return Ok(());
    }
    let (seconds, tolerance_seconds) = (distance.as_secs(), tolerance.as_secs());
    Err(if time < now {
        ClaimError::TimestampOld {
            seconds,
            tolerance_seconds,
        }
    } else {
        ClaimError::TimestampNew {
            seconds,
            tolerance_seconds,
        }
    })
}

/// By grammar, not by library: `i64::from_str` would take `+5`.
pub(super) fn parse(unit: TimeUnit, fixed_width: bool, text: &[u8]) -> Option<UnixTime> {
    let (digits_max, digits_now) = match unit {
        TimeUnit::Seconds => (12, 10),
        TimeUnit::Milliseconds => (15, 13),
        TimeUnit::SecondsOrMilliseconds if text.len() == 13 => {
            return parse(TimeUnit::Milliseconds, true, text);
        }
        TimeUnit::SecondsOrMilliseconds => return parse(TimeUnit::Seconds, true, text),
        TimeUnit::Rfc3339 => return rfc3339(text),
    };
    let length_fits = if fixed_width {
        text.len() == digits_now
    } else {
        (1..=digits_max).contains(&text.len())
    };
    if !length_fits {
        return None;
    }
    // So many digits cannot overflow.
    let number = text.iter().try_fold(0_i64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then_some(sum.wrapping_mul(10).wrapping_add(i64::from(digit)))
    })?;
    Some(match unit {
        TimeUnit::Seconds => UnixTime::from_secs(number),
        TimeUnit::Milliseconds | TimeUnit::SecondsOrMilliseconds | TimeUnit::Rfc3339 => {
            UnixTime::from_millis(number)
        }
    })
}

/// `2026-11-23T12:00:00[.123456789](Z|±00:00)` and nothing else, so that no beginning of a time, and no time with something
/// behind it, is a time: nothing has to separate it from its neighbours.
fn rfc3339(text: &[u8]) -> Option<UnixTime> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let matches = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text.iter().zip(shape).all(|(byte, wanted)| {
                if *wanted == b'0' {
                    byte.is_ascii_digit()
                } else {
                    byte == wanted
                }
            })
    };
    let (date, mut rest) = text.split_at_checked(SHAPE.len())?;
    if !matches(date, SHAPE) {
        return None;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        rest = fraction.get(digits..)?;
    }
    if rest != b"Z" && !matches(rest, b"+00:00") && !matches(rest, b"-00:00") {
        return None;
    }
    let time: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(UnixTime::from_millis(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rfc_3339_to_the_letter() {
        let read = |text: &str| rfc3339(text.as_bytes()).map(UnixTime::millis);
        assert_eq!(read("2026-11-23T12:00:00Z"), Some(1_795_435_200_000));
        assert_eq!(read("2026-11-23T12:00:00.5Z"), Some(1_795_435_200_500));
        assert_eq!(
            read("2026-11-23T13:00:00.123456789+01:00"),
            Some(1_795_435_200_123)
        );
        for wrong in [
            "",
            "2026-11-23",
            "2026-11-23 12:00:00Z",
            "2026-11-23t12:00:00z",
            "2026-11-23T12:00:00",
            "2026-11-23T12:00:00Z ",
            "+002026-11-23T12:00:00Z",
            "2026-11-23T12:00:00.Z",
            "2026-11-23T12:00:00.1234567890Z",
            "2026-11-23T12:00:00+01",
            "2026-11-23T12:00:00+01:00[Europe/Berlin]",
            "2026-13-23T12:00:00Z",
            "2026-11-23T12:00Z",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
