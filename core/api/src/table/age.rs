//! How long ago something was, in as few letters as upstream prints (`duration.HumanDuration`).

use jiff::Timestamp;

use crate::timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A number of seconds with two or three significant figures: `45s`, `3m20s`, `5h`, `7d3h`, `2y40d`. Up to a second in the
/// future counts as now, what is later is `<invalid>`.
pub fn human(seconds: i64) -> String {
    let pair = |whole: i64, unit: &str, part: i64, part_unit: &str| match part {
        0 => format!("{whole}{unit}"),
        _ => format!("{whole}{unit}{part}{part_unit}"),
    };
    let (minutes, hours, days) = (seconds / MINUTE, seconds / HOUR, seconds / DAY);
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % MINUTE, "s"),
        _ if minutes < 3 * 60 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, "d", hours % 24, "h"),
        _ if days < 2 * 365 => format!("{days}d"),
        _ if days < 8 * 365 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// How long before `now` a time was that the API wrote; `<unknown>` when there is none.
pub fn since(time: &str, now: Timestamp) -> String {
    match timestamp::parse(time) {
        Some(time) => human(seconds_between(time, now)),
        None => "<unknown>".to_owned(),
    }
}

/// Whole seconds from one time to another, cut towards zero.
pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    i64::try_from((to.as_nanosecond() - from.as_nanosecond()) / 1_000_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 61, "3h1m"),
            (8 * HOUR + MINUTE, "8h"),
            (47 * HOUR, "47h"),
            (48 * HOUR, "2d"),
            (49 * HOUR, "2d1h"),
            (8 * DAY + HOUR, "8d"),
            (2 * 365 * DAY - 1, "729d"),
            (2 * 365 * DAY, "2y"),
            (2 * 365 * DAY + DAY, "2y1d"),
            (8 * 365 * DAY + DAY, "8y"),
        ];
        for (seconds, expect) in cases {
            assert_eq!(human(seconds), expect, "{seconds}");
        }
        let now: Timestamp = "2026-01-01T00:00:10.9Z".parse().expect("a time");
        assert_eq!(since("2026-01-01T00:00:00Z", now), "10s");
        assert_eq!(since("2026-01-01T00:00:00.950000Z", now), "9s");
        assert_eq!(since("", now), "<unknown>");
    }
}
