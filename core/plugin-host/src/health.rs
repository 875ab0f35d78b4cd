//! When a plugin that fails is left alone. Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::{Limits, PluginError};

/// The recent failures of one plugin in one place.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failures: u32,
    last: String,
    /// Set while it is paused; a call at or after it is a trial.
    until: Option<Instant>,
    pause: Duration,
}

impl Health {
    /// Whether a call may be made at `now`.
    pub fn admit(&self, plugin: &str, now: Instant) -> Result<(), PluginError> {
        match self.until {
            Some(until) if now < until => {
                Err(PluginError::Paused { plugin: plugin.to_owned(), failures: self.failures, last: self.last.clone() })
            }
            _ => Ok(()),
        }
    }

    /// A call went well, whatever its answer.
    pub fn succeeded(&mut self) {
        if self.failures > 0 {
            *self = Self::default();
        }
    }

    /// The plugin misbehaved. From the limit on each failure pauses it, twice as long as the one before.
    pub fn failed(&mut self, plugin: &str, error: &PluginError, now: Instant, limits: &Limits) {
        self.failures = self.failures.saturating_add(1);
        self.last = error.to_string();
        if self.failures < limits.failures {
            return;
        }
        let longest = Duration::from_millis(limits.pause_milliseconds_max);
        self.pause = match self.until {
            None => Duration::from_millis(limits.pause_milliseconds).min(longest),
            // Calls that had begun before the pause tell nothing new.
            Some(until) if now < until => return,
            Some(_) => self.pause.saturating_mul(2).min(longest),
        };
        self.until = Some(now + self.pause);
        tracing::warn!(
            plugin,
            failures = self.failures,
            pause_seconds = self.pause.as_secs_f64(),
            last = self.last,
            "plugin is paused"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_paused_after_failures_in_a_row_for_longer_each_time() {
        let limits =
            Limits { failures: 3, pause_milliseconds: 1_000, pause_milliseconds_max: 3_000, ..Limits::default() };
        let trap = PluginError::Trap { plugin: "p".into(), call: "c", reason: "unreachable".into() };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut health = Health::default();

        health.failed("p", &trap, at(0), &limits);
        health.failed("p", &trap, at(0), &limits);
        assert!(health.admit("p", at(0)).is_ok());
        health.succeeded();
        for _ in 0..3 {
            health.failed("p", &trap, at(0), &limits);
        }
        assert!(matches!(health.admit("p", at(0)), Err(PluginError::Paused { failures: 3, .. })));
        assert!(health.admit("p", at(1)).is_ok());
        // The trial fails: two seconds, then three at most.
        health.failed("p", &trap, at(1), &limits);
        assert!(health.admit("p", at(2)).is_err());
        assert!(health.admit("p", at(3)).is_ok());
        health.failed("p", &trap, at(3), &limits);
        assert!(health.admit("p", at(5)).is_err());
        assert!(health.admit("p", at(6)).is_ok());
        health.succeeded();
        assert!(health.admit("p", at(6)).is_ok());
        health.failed("p", &trap, at(6), &limits);
        assert!(health.admit("p", at(6)).is_ok());
    }

    #[test]
    fn failures_of_calls_that_ran_before_the_pause_do_not_lengthen_it() {
        let limits = Limits { failures: 1, pause_milliseconds: 1_000, ..Limits::default() };
        let trap = PluginError::Trap { plugin: "p".into(), call: "c", reason: "unreachable".into() };
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..10 {
            health.failed("p", &trap, now, &limits);
        }
        assert!(health.admit("p", now + Duration::from_secs(1)).is_ok());
    }
}
