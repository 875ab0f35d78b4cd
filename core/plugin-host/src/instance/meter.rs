//! Processor time of a call. Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::engine::TICK;

/// The call has used its processor time.
#[derive(Debug, thiserror::Error)]
#[error("out of processor time")]
pub(crate) struct OutOfTime;

/// Counts the time in which the plugin's own code ran: not while the host works for it, nor while its turn has not come.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    used: Duration,
    limit: Duration,
    /// Since when the plugin's code runs.
    since: Option<Instant>,
}

impl Meter {
    /// A call begins.
    pub fn begin(&mut self, now: Instant, limit: Duration) {
        *self = Self { used: Duration::ZERO, limit, since: Some(now) };
    }

    /// The plugin called the host.
    pub fn pause(&mut self, now: Instant) {
        self.count(now);
        self.since = None;
    }

    /// The host has answered.
    pub fn resume(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// A tick passed; the plugin will yield. An error when it has used its time up.
    pub fn tick(&mut self, now: Instant) -> Result<(), OutOfTime> {
        self.count(now);
        self.since = Some(now);
        if self.used >= self.limit { Err(OutOfTime) } else { Ok(()) }
    }

    /// It yields at each tick, so what is longer than that was spent waiting for its turn.
    fn count(&mut self, now: Instant) {
        if let Some(since) = self.since {
            self.used += now.saturating_duration_since(since).min(TICK * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plugins_own_time_counts() {
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.begin(start, TICK * 4);
        // A long wait for the host.
        meter.pause(start + TICK);
        meter.resume(start + TICK * 1000);
        assert!(meter.tick(start + TICK * 1001).is_ok());
        // A long wait for its turn counts as two ticks.
        assert!(meter.tick(start + TICK * 5000).is_err());
    }

    #[test]
    fn each_call_starts_anew() {
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.begin(start, TICK);
        assert!(meter.tick(start + TICK).is_err());
        meter.begin(start, TICK);
        assert!(meter.tick(start + TICK / 2).is_ok());
    }
}
