//! Times as the API writes them: RFC 3339 in UTC, with seconds (`metav1.Time`) or microseconds (`metav1.MicroTime`).

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `2026-01-02T03:04:05Z`.
pub fn format(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// `2026-01-02T03:04:05.000006Z`.
pub fn format_micro(time: Timestamp) -> String {
    let seconds = format(time);
    let micros = time.subsec_nanosecond().rem_euclid(1_000_000_000) / 1000;
    format!("{}.{micros:06}Z", &seconds[..seconds.len() - 1])
}

/// Reads RFC 3339, as strictly as Go does.
pub fn parse(text: &str) -> Option<Timestamp> {
    is_rfc3339(text, None).then(|| text.parse().ok())?
}

/// The text that upstream would serve for this time, or Go's parse error.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, String> {
    let bytes = text.as_bytes();
    let time = parse(text).ok_or_else(|| parse_error(text, LAYOUT))?;
    if bytes.len() == 20 && bytes[19] == b'Z' { Ok(Cow::Borrowed(text)) } else { Ok(Cow::Owned(format(time))) }
}

/// The same with microseconds, which must all be there.
pub fn canonical_micro(text: &str) -> Result<Cow<'_, str>, String> {
    let bytes = text.as_bytes();
    let time = is_rfc3339(text, Some(6))
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| parse_error(text, MICRO_LAYOUT))?;
    if bytes.len() == 27 && bytes[26] == b'Z' { Ok(Cow::Borrowed(text)) } else { Ok(Cow::Owned(format_micro(time))) }
}

/// Whether the text has the form of RFC 3339, with so many digits of a second's fraction (any when `None`).
fn is_rfc3339(text: &str, fraction: Option<usize>) -> bool {
    let bytes = text.as_bytes();
    let pattern = b"dddd-dd-ddTdd:dd:dd";
    let matches = |bytes: &[u8], pattern: &[u8]| {
        bytes.len() == pattern.len()
            && bytes
                .iter()
                .zip(pattern)
                .all(|(byte, expect)| if *expect == b'd' { byte.is_ascii_digit() } else { byte == expect })
    };
    let Some((head, rest)) = bytes.split_at_checked(pattern.len()) else { return false };
    let digits = match rest.split_first() {
        Some((b'.', rest)) => rest.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    let rest = if digits > 0 { &rest[digits + 1..] } else { rest };
    let zone = match rest.split_first() {
        Some((b'Z', rest)) => rest.is_empty(),
        Some((b'+' | b'-', rest)) => matches(rest, b"dd:dd"),
        _ => false,
    };
    matches(head, pattern) && fraction.is_none_or(|fraction| fraction == digits) && zone
}

/// Go's `time.ParseError`, as far as it can be told which part of the layout failed.
fn parse_error(text: &str, layout: &str) -> String {
    let parts: [(&str, usize); 12] = [
        ("2006", 4),
        ("-", 1),
        ("01", 2),
        ("-", 1),
        ("02", 2),
        ("T", 1),
        ("15", 2),
        (":", 1),
        ("04", 2),
        (":", 1),
        ("05", 2),
        ("Z07:00", 0),
    ];
    let mut rest = text;
    for (part, width) in parts {
        let ok = match rest.get(..width) {
            Some(head) if width == 1 => head == part,
            Some(head) if width > 1 => head.bytes().all(|byte| byte.is_ascii_digit()),
            _ => false,
        };
        if width == 0 && layout == MICRO_LAYOUT && !rest.starts_with('.') {
            return format!("parsing time {} as {layout:?}: cannot parse {} as \".000000\"", quote(text), quote(rest));
        }
        if !ok {
            return format!("parsing time {} as {layout:?}: cannot parse {} as {part:?}", quote(text), quote(rest));
        }
        rest = &rest[width..];
        if part == "05" && layout == LAYOUT && rest.starts_with('.') {
            rest = rest[1..].trim_start_matches(|c: char| c.is_ascii_digit());
        }
    }
    format!("parsing time {}: out of range", quote(text))
}

fn quote(text: &str) -> String {
    crate::error::quoted(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc() {
        let cases = [
            ("2026-01-02T03:04:05Z", Ok("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05.9Z", Ok("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05+02:00", Ok("2026-01-02T01:04:05Z")),
            (
                "yesterday",
                Err(
                    "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
                ),
            ),
            (
                "2026-01-02",
                Err("parsing time \"2026-01-02\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\""),
            ),
        ];
        for (text, expect) in cases {
            assert_eq!(canonical(text).as_deref(), expect.map_err(str::to_owned).as_deref(), "{text}");
        }
        assert_eq!(canonical_micro("2026-01-02T03:04:05.000001+00:00").as_deref(), Ok("2026-01-02T03:04:05.000001Z"));
        assert!(canonical_micro("2026-01-02T03:04:05Z").is_err());
        let time: Timestamp = "2026-01-02T03:04:05.000006Z".parse().expect("a time");
        assert_eq!(
            (format(time).as_str(), format_micro(time).as_str()),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000006Z")
        );
    }
}
