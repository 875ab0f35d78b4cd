//! What a client wants of a log: the query of `/containerLogs/…`, which is that of PodLogOptions.

use jiff::{SignedDuration, Timestamp};

use super::cri::Line;
use crate::server::request::Query;

/// The wish, with what was relative to the present made absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as the log grows, until the container has exited.
    pub follow: bool,
    /// The instance before the newest.
    pub previous: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// The last lines only.
    pub tail_lines: Option<usize>,
    /// No more bytes than this.
    pub limit_bytes: Option<usize>,
    /// Each line starts with its time.
    pub timestamps: bool,
    /// Standard output is wanted.
    pub stdout: bool,
    /// Standard error is wanted.
    pub stderr: bool,
}

impl LogOptions {
    /// Reads the query. The error is a message for the client.
    pub fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str, least: i64| -> Result<Option<i64>, String> {
            let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
            match text.parse::<i64>() {
                Ok(value) if value >= least => Ok(Some(value)),
                _ => Err(format!("{name}: Invalid value: {text:?}: must be a number of at least {least}")),
            }
        };
        let count = |value: i64| usize::try_from(value).unwrap_or(usize::MAX);
        let seconds = number("sinceSeconds", 1)?;
        let time = match query.get("sinceTime").filter(|text| !text.is_empty()) {
            Some(text) => Some(
                text.parse::<Timestamp>().map_err(|error| format!("sinceTime: Invalid value: {text:?}: {error}"))?,
            ),
            None => None,
        };
        let since = match (seconds, time) {
            (Some(_), Some(_)) => return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into()),
            (Some(seconds), None) => {
                Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, time) => time,
        };
        let (stdout, stderr) = match query.get("stream").unwrap_or_default() {
            "" | "All" => (true, true),
            "Stdout" => (true, false),
            "Stderr" => (false, true),
            other => {
                return Err(format!(
                    "stream: Unsupported value: {other:?}: supported values: \"All\", \"Stderr\", \"Stdout\""
                ));
            }
        };
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            since,
            tail_lines: number("tailLines", 0)?.map(count),
            limit_bytes: number("limitBytes", 1)?.map(count),
            timestamps: query.flag("timestamps"),
            stdout,
            stderr,
        })
    }
}

/// Turns lines of log files into what the client gets.
#[derive(Debug)]
pub struct Printer {
    options: LogOptions,
    left: usize,
    /// The stream's last line was a partial one: standard output's and standard error's.
    continued: [bool; 2],
}

impl Printer {
    /// A printer at the start of a log.
    pub fn new(options: LogOptions) -> Self {
        Self { left: options.limit_bytes.unwrap_or(usize::MAX), options, continued: [false; 2] }
    }

    /// Whether the limit is reached.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Appends what the client gets of a line.
    pub fn print(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        let wanted = if line.stderr { self.options.stderr } else { self.options.stdout };
        if !wanted || self.options.since.is_some_and(|since| line.time < since) {
            return;
        }
        let continued = &mut self.continued[usize::from(line.stderr)];
        if self.options.timestamps && !*continued {
            let prefix = format!("{:.9} ", line.time);
            append(&mut self.left, prefix.as_bytes(), out);
        }
        *continued = line.partial;
        append(&mut self.left, line.text, out);
        if !line.partial {
            append(&mut self.left, b"\n", out);
        }
    }
}

fn append(left: &mut usize, bytes: &[u8], out: &mut Vec<u8>) {
    let taken = bytes.len().min(*left);
    out.extend_from_slice(&bytes[..taken]);
    *left -= taken;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::logs::cri;

    fn printed(query: &str) -> String {
        let now = "2026-01-01T00:00:10Z".parse().expect("a time");
        let options = LogOptions::parse(&Query::parse(Some(query)), now).expect("sound options");
        let mut printer = Printer::new(options);
        let mut out = Vec::new();
        for line in [
            "2026-01-01T00:00:01.5Z stdout F one",
            "2026-01-01T00:00:02Z stdout P tw",
            "2026-01-01T00:00:03Z stderr F oh",
            "2026-01-01T00:00:04Z stdout F o",
        ] {
            printer.print(&cri::parse(line.as_bytes()).expect("a line"), &mut out);
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_is_printed() {
        let cases = [
            ("", "one\ntwoh\no\n"),
            ("stream=Stdout", "one\ntwo\n"),
            ("stream=Stderr&timestamps=true", "2026-01-01T00:00:03.000000000Z oh\n"),
            (
                "stream=Stdout&timestamps=true",
                "2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:02.000000000Z two\n",
            ),
            ("limitBytes=5", "one\nt"),
            ("sinceSeconds=7", "oh\no\n"),
            ("sinceTime=2026-01-01T00:00:04Z", "o\n"),
        ];
        for (query, expected) in cases {
            assert_eq!(printed(query), expected, "{query}");
        }
    }

    #[test]
    fn refused_queries() {
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=x",
            "stream=x",
            "sinceTime=x",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:04Z",
        ] {
            assert!(LogOptions::parse(&Query::parse(Some(query)), Timestamp::UNIX_EPOCH).is_err(), "{query}");
        }
    }
}
