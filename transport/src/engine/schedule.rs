//! The schedule: the next instant at which each kind of timer is due.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

/// Pause between two scans of all calls, and so the latest that a deadline is noticed.
const CALLS_PAUSE: Duration = Duration::from_millis(5);

/// Smallest part of the configured age that a connection lives; the largest is as far above 1.
pub const MIN_AGE_FACTOR: f64 = 0.9;

/// Instants of the next scans, and the instant for which the timer is armed.
pub struct Schedule {
    /// The instant for which the poller's timer is armed.
    pub armed_for: Option<Instant>,
    /// The next scan of all calls.
    pub calls_at: Option<Instant>,
    /// The last scan of all calls.
    pub calls_seen: Instant,
    /// The next scan of all connections.
    pub connections_at: Option<Instant>,
    /// The instant at which stopped listeners accept again.
    pub accept_at: Option<Instant>,
}

impl Schedule {
    /// An empty schedule.
    pub fn new(now: Instant) -> Self {
        Self {
            armed_for: None,
            calls_at: None,
            calls_seen: now,
            connections_at: None,
            accept_at: None,
        }
    }

    /// Record that the timer has fired, which disarms it.
    pub fn clear_armed(&mut self) {
        self.armed_for = None;
    }

    /// Schedule a scan of all calls for a deadline, or a pause after the last scan if later.
    pub fn add_deadline(&mut self, deadline: Instant) {
        set_earliest(&mut self.calls_at, deadline.max(self.calls_seen + CALLS_PAUSE));
    }

    /// Return the earliest scheduled instant.
    pub fn next(&self) -> Option<Instant> {
        [self.calls_at, self.connections_at, self.accept_at].into_iter().flatten().min()
    }
}

/// Lower a scheduled instant to `at` if it is unset or later.
pub fn set_earliest(slot: &mut Option<Instant>, at: Instant) {
    if slot.is_none_or(|there| at < there) {
        *slot = Some(at);
    }
}

/// Draw the factor of one connection's age, so that connections accepted together spread out.
pub fn random_age_factor() -> f64 {
    // The standard library seeds each hasher from the system's randomness.
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    MIN_AGE_FACTOR + 2.0 * (1.0 - MIN_AGE_FACTOR) * random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_of_connections_accepted_together_spread_out() {
        let factors: Vec<f64> = (0..1000).map(|_| random_age_factor()).collect();
        assert!(factors.iter().all(|factor| (0.9..=1.1).contains(factor)));
        for tenth in 0..10 {
            let begin = 0.9 + 0.02 * f64::from(tenth);
            let count = factors.iter().filter(|&&f| (begin..begin + 0.02).contains(&f)).count();
            assert!(count > 50, "{count} of 1000 near {begin}");
        }
    }
}
