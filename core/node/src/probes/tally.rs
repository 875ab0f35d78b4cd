//! Counting a probe's outcomes against its thresholds. Pure.

use super::Outcome;
use crate::actions::ProbeResult;

/// The last outcomes of a probe.
#[derive(Debug)]
pub struct Tally {
    successes_needed: u32,
    failures_needed: u32,
    last: ProbeResult,
    run: u32,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(successes_needed: u32, failures_needed: u32) -> Self {
        Self { successes_needed, failures_needed, last: ProbeResult::Unknown, run: 0 }
    }

    /// Counts an outcome; the result once a threshold is reached.
    pub fn count(&mut self, outcome: &Outcome) -> Option<ProbeResult> {
        let result = match outcome {
            Outcome::Success { .. } => ProbeResult::Success,
            Outcome::Failure(_) => ProbeResult::Failure,
            Outcome::Error(_) => return None,
        };
        if self.last == result {
            self.run = self.run.saturating_add(1);
        } else {
            (self.last, self.run) = (result, 1);
        }
        let needed = if result == ProbeResult::Success { self.successes_needed } else { self.failures_needed };
        (self.run >= needed).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_runs_and_errors_count_nothing() {
        let mut tally = Tally::new(2, 3);
        let (good, bad) = (Outcome::Success { output: String::new(), warning: None }, Outcome::Failure(String::new()));
        let error = Outcome::Error(String::new());
        let (s, f) = (Some(ProbeResult::Success), Some(ProbeResult::Failure));
        let steps = [
            (&good, None),
            (&good, s),
            (&bad, None),
            (&bad, None),
            (&error, None),
            (&bad, f),
            (&good, None),
            (&good, s),
        ];
        for (index, (outcome, expect)) in steps.into_iter().enumerate() {
            assert_eq!(tally.count(outcome), expect, "step {index}");
        }
    }
}
