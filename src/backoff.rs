//! How long to leave alone what has failed.

use std::time::Duration;

const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How long to wait after so many failures in a row: doubling, and somewhere in the upper half of that, by `random`.
pub fn pause(in_a_row: u32, most: Duration, random: u8) -> Duration {
    let whole = PAUSE_MIN
        .saturating_mul(1 << in_a_row.saturating_sub(1).min(16))
        .min(most);
    spread(whole, random)
}

fn spread(whole: Duration, random: u8) -> Duration {
    whole / 2 + (whole / 2).mul_f64(f64::from(random) / 255.0)
}

/// Pauses of a loop that tries again: doubling up to the longest, each of them spread as those of [`pause`].
pub struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// The next one is the first.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// How long to wait now.
    pub fn next_pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        spread(whole, random())
    }

    /// It went well for a while: begins anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Spreads the tries of many gateways.
pub fn random() -> u8 {
    let mut byte = [0];
    // No secret: without randomness they try at the same time.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_most_and_are_spread() {
        let most = 30 * SECOND;
        assert_eq!(pause(1, most, 0), SECOND / 2);
        assert_eq!(pause(1, most, 255), SECOND);
        assert_eq!(pause(3, most, 255), 4 * SECOND);
        assert_eq!(pause(99, most, 255), most);
        assert!(pause(99, most, 128) < most && pause(99, most, 128) > most / 2);
        assert!(pause(1, SECOND / 1000, 255) <= SECOND / 1000);
    }
}
