//! Time as a value.
//!
//! Owns the only read of the system clock. Everything that judges a time takes `now: UnixTime` as an argument, so a test
//! can stand anywhere on the time line.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A moment, in milliseconds since 1970-01-01T00:00:00Z. Never a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// Takes whole seconds since the epoch; saturates at the ends of the range.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Takes milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// How far two moments lie apart, whichever came first.
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }
}

/// RFC 3339, UTC, milliseconds: `2026-11-23T16:40:00.000Z`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Where the time comes from. The process has one [`SystemClock`]; tests bring their own.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> UnixTime;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    fn now(&self) -> UnixTime {
        let millis = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        UnixTime(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339_with_milliseconds() {
        assert_eq!(
            UnixTime::from_millis(1_795_435_200_007).to_string(),
            "2026-11-23T12:00:00.007Z"
        );
        assert_eq!(
            UnixTime::from_secs(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn distance_is_symmetric_and_never_overflows() {
        let (early, late) = (
            UnixTime::from_millis(i64::MIN),
            UnixTime::from_millis(i64::MAX),
        );
        assert_eq!(early.distance(late), late.distance(early));
        assert_eq!(
            UnixTime::from_secs(10).distance(UnixTime::from_secs(7)),
            Duration::from_secs(3)
        );
    }
}
