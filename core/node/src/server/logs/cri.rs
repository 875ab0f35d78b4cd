//! Lines of CRI log files: `TIME STREAM TAGS TEXT`.

use jiff::Timestamp;

/// A line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written.
    pub time: Timestamp,
    /// Standard error rather than standard output.
    pub stderr: bool,
    /// The container's line goes on in the stream's next one.
    pub partial: bool,
    /// The container's bytes, without the line end.
    pub text: &'a [u8],
}

/// Reads a line, given without its line end; none when it is not in CRI's format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // More tags may follow the first one after a colon.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// What the reader's way through the file is held against: where the last `lines` lines of a content start; an unfinished last line counts as one.
#[cfg(test)]
pub fn tail_start(content: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return content.len();
    }
    let ends = content.strip_suffix(b"\n").unwrap_or(content);
    let mut found = ends.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    found.nth(lines - 1).map_or(0, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_and_out_of_the_format() {
        let time = "2026-01-02T03:04:05.000000006Z";
        let cases = [
            ("stdout F hello world", Some((false, false, "hello world"))),
            ("stderr P part", Some((true, true, "part"))),
            ("stdout F:x more", Some((false, false, "more"))),
            ("stdout F ", Some((false, false, ""))),
            ("stdout F", Some((false, false, ""))),
            ("stdout F  indented", Some((false, false, " indented"))),
            ("stdin F x", None),
            ("stdout X x", None),
            ("", None),
        ];
        for (rest, expected) in cases {
            let line = format!("{time} {rest}");
            let found = parse(line.as_bytes());
            let found = found.map(|line| (line.stderr, line.partial, std::str::from_utf8(line.text).expect("text")));
            assert_eq!(found, expected, "{rest:?}");
        }
        assert_eq!(parse(b"yesterday stdout F x"), None);
    }

    #[test]
    fn tails() {
        let cases =
            [("", 3, 0), ("a\nb\n", 0, 4), ("a\nb\n", 1, 2), ("a\nb\n", 2, 0), ("a\nb\n", 9, 0), ("a\nb", 1, 2)];
        for (content, lines, expected) in cases {
            assert_eq!(tail_start(content.as_bytes(), lines), expected, "{content:?} {lines}");
        }
    }
}
