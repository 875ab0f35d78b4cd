//! `interface log`: lines of a plugin in the host's log, within limits.

use crate::bindings::runtime::gantry::host::log::Level;

/// Longest line, in bytes; the rest is cut.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Most lines of one call.
const CALL_LINES_MAX: u32 = 256;
/// How much of the last error goes into a trap's reason.
const LAST_ERROR_BYTES_MAX: usize = 512;

/// What the running call has written.
#[derive(Debug, Default)]
pub(crate) struct LogBudget {
    lines: u32,
    last_error: Option<String>,
}

impl LogBudget {
    /// A call begins.
    pub fn renew(&mut self) {
        self.lines = 0;
        self.last_error = None;
    }

    /// The last line of level error: what a panic says before it traps.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// A line, cut to its limit; none when the call has written enough.
    fn admit<'a>(&mut self, level: Level, message: &'a str) -> Option<&'a str> {
        if level == Level::Error {
            self.last_error = Some(cut(message, LAST_ERROR_BYTES_MAX).to_owned());
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= CALL_LINES_MAX).then(|| cut(message, LINE_BYTES_MAX))
    }

    /// Writes a line.
    pub fn write(&mut self, plugin: &str, level: Level, message: &str) {
        let Some(message) = self.admit(level, message) else { return };
        match level {
            Level::Debug => tracing::debug!(target: "gantry::plugin", plugin, "{message}"),
            Level::Info => tracing::info!(target: "gantry::plugin", plugin, "{message}"),
            Level::Warn => tracing::warn!(target: "gantry::plugin", plugin, "{message}"),
            Level::Error => tracing::error!(target: "gantry::plugin", plugin, "{message}"),
        }
        if self.lines == CALL_LINES_MAX {
            tracing::warn!(target: "gantry::plugin", plugin, "further lines of this call are dropped");
        }
    }
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_counted() {
        let mut budget = LogBudget::default();
        let long = "é".repeat(LINE_BYTES_MAX);
        assert_eq!(budget.admit(Level::Info, &long).map(str::len), Some(LINE_BYTES_MAX));
        for _ in 1..CALL_LINES_MAX {
            assert!(budget.admit(Level::Info, "x").is_some());
        }
        assert!(budget.admit(Level::Error, "why").is_none());
        assert_eq!(budget.last_error(), Some("why"));
        budget.renew();
        assert!(budget.admit(Level::Info, "x").is_some());
        assert_eq!(budget.last_error(), None);
    }
}
