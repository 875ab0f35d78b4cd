//! Keys and ranges of keys, in etcd's terms.
//!
//! A range is a key and a range end. An empty end means that one key; an end of one zero byte means all
//! keys from the key on; anything else is a half-open interval.

use bytes::Bytes;

/// The range end that means "to the last key".
pub const RANGE_END_ALL: &[u8] = b"\0";

/// The end of the range of all keys that start with `prefix`.
///
/// An empty prefix means all keys (then the range's key is [`RANGE_END_ALL`], too).
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end.into();
        }
        end.pop();
    }
    Bytes::from_static(RANGE_END_ALL)
}

/// The range of all keys that start with `prefix`, as (key, range end).
pub fn prefix_range(prefix: impl Into<Bytes>) -> (Bytes, Bytes) {
    let prefix = prefix.into();
    let end = prefix_end(&prefix);
    if prefix.is_empty() { (Bytes::from_static(b"\0"), end) } else { (prefix, end) }
}

/// Whether `key` lies in the range.
pub fn contains(start: &[u8], range_end: &[u8], key: &[u8]) -> bool {
    match range_end {
        b"" => key == start,
        RANGE_END_ALL => key >= start,
        end => key >= start && key < end,
    }
}

/// A range for people to read.
pub(crate) fn display(start: &[u8], range_end: &[u8]) -> String {
    let start = start.escape_ascii();
    match range_end {
        b"" => format!("{start}"),
        RANGE_END_ALL => format!("[{start}, )"),
        end => format!("[{start}, {})", end.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        for (prefix, end) in
            [(&b"/a/"[..], &b"/a0"[..]), (b"a\xff", b"b"), (b"\xff\xff", RANGE_END_ALL), (b"", RANGE_END_ALL)]
        {
            assert_eq!(prefix_end(prefix), end, "{}", prefix.escape_ascii());
        }
    }

    #[test]
    fn membership() {
        for (start, end, key, inside) in [
            ("a", "", "a", true),
            ("a", "", "ab", false),
            ("a", "\0", "zz", true),
            ("b", "\0", "a", false),
            ("a", "c", "b", true),
            ("a", "c", "c", false),
            ("c", "a", "b", false),
        ] {
            assert_eq!(contains(start.as_bytes(), end.as_bytes(), key.as_bytes()), inside, "{key} in [{start}, {end})");
        }
    }
}
