//! YAML as Go's encoder (`sigs.k8s.io/yaml`) writes it, so that what is printed can be compared byte by byte with
//! kubectl's. serde_yaml writes the same data with other quotes and folds.

use serde_json::Value;

/// The document, without a leading `---`.
pub fn render(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_list(items, 0, &mut out),
        scalar => {
            write_scalar(scalar, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth * 2));
}

fn write_map(map: &serde_json::Map<String, Value>, depth: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            indent(depth, out);
        }
        write_text(key, depth, true, out);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(depth + 1, out);
                write_map(inner, depth + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                indent(depth, out);
                // Lists stand in line with their key.
                write_list(items, depth, out);
            }
            scalar => {
                out.push(' ');
                write_scalar(scalar, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_list(items: &[Value], depth: usize, out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            indent(depth, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => write_map(inner, depth + 1, out),
            Value::Array(inner) if !inner.is_empty() => write_list(inner, depth + 1, out),
            scalar => {
                write_scalar(scalar, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_text(text, depth, false, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn write_text(text: &str, depth: usize, is_key: bool, out: &mut String) {
    if text.contains('\n') && !is_key && can_be_block(text) {
        write_block(text, depth, out);
    } else if must_be_double_quoted(text) {
        write_double_quoted(text, out);
    } else if would_be_read_otherwise(text) {
        // Go quotes what isn't a string to a reader with double quotes …
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else if is_plain(text) {
        out.push_str(text);
    } else {
        // … and what isn't plain with single ones.
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}

fn can_be_block(text: &str) -> bool {
    !text.chars().any(|character| is_special(character) && character != '\n' && character != '\t')
        && !text.split('\n').any(|line| line.ends_with(' ') && line.trim().is_empty())
        && !text.contains(" \n")
        && !text.split('\n').any(|line| line.starts_with('\t'))
}

fn write_block(text: &str, depth: usize, out: &mut String) {
    out.push('|');
    if text.starts_with(' ') || text.starts_with('\n') {
        out.push('2');
    }
    let trimmed = text.trim_end_matches('\n');
    match text.len() - trimmed.len() {
        0 => out.push('-'),
        1 if !trimmed.is_empty() => {}
        _ => out.push('+'),
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
}

fn is_special(character: char) -> bool {
    character.is_control() || matches!(character, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn must_be_double_quoted(text: &str) -> bool {
    text.chars().any(is_special) || text.contains('\n')
}

fn write_double_quoted(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            '\u{feff}' => out.push_str("\\uFEFF"),
            other if other.is_control() => out.push_str(&format!("\\x{:02X}", other as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Whether a reader of YAML 1.1 or 1.2 takes the plain text for something else than a string.
fn would_be_read_otherwise(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let words = [
        "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "y", "Y", "yes", "Yes", "YES",
        "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF", "<<", ".nan", ".NaN", ".NAN", ".inf",
        ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    words.contains(&text) || is_number(text) || is_date(text)
}

fn is_number(text: &str) -> bool {
    let plain = text.replace('_', "");
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    if unsigned.is_empty() || !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return false;
    }
    let radix = |prefix: &str, digits: fn(&char) -> bool| {
        unsigned.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|it| digits(&it)))
    };
    if radix("0x", char::is_ascii_hexdigit)
        || radix("0b", |it| "01".contains(*it))
        || radix("0o", |it| ('0'..='7').contains(it))
    {
        return true;
    }
    // Base 60, from YAML 1.1: Go's encoder quotes it.
    let parts: Vec<&str> = unsigned.split(':').collect();
    if parts.len() > 1 {
        let digits = |part: &&str| !part.is_empty() && part.chars().all(|it| it.is_ascii_digit());
        let last_fraction = parts.last().is_some_and(|last| last.chars().all(|it| it.is_ascii_digit() || it == '.'));
        return parts[..parts.len() - 1].iter().all(digits)
            && last_fraction
            && parts[1..].iter().all(|part| part.len() <= 2 || part.contains('.'));
    }
    let digits_only = unsigned.chars().all(|it| it.is_ascii_digit() || matches!(it, '.' | 'e' | 'E' | '+' | '-'));
    digits_only && unsigned.parse::<f64>().is_ok()
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    if !(digits(0..4) && bytes.get(4) == Some(&b'-')) {
        return false;
    }
    if text.len() == 10 {
        return digits(5..7) && bytes[7] == b'-' && digits(8..10);
    }
    text.parse::<jiff::Timestamp>().is_ok()
}

/// Whether a text may stand without quotes. Source: the YAML specification's plain scalars, as go-yaml's emitter
/// applies them in block context.
fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    if text.starts_with("---") || text.starts_with("...") {
        return false;
    }
    if text.starts_with(' ') || text.ends_with(' ') || text.ends_with(':') {
        return false;
    }
    if "#,[]{}&*!|>'\"%@`".contains(first) {
        return false;
    }
    let second = text.chars().nth(1);
    if matches!(first, '-' | '?' | ':') && second.is_none_or(|second| second == ' ') {
        return false;
    }
    !text.contains(": ") && !text.contains(" #")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_gos() {
        let value = json!({
            "apiVersion": "v1", "empty": {}, "none": null, "list": ["a", {"b": 1, "c": [true]}, [1, 2], []],
            "quoted": ["true", "1", "1.5", "0x1F", "", "null", "y", "1e3", "2026-01-01T00:00:00Z", "2026-01-01", "a: b", "- a",
                "#", "a #b", "@x", "*", "it's", "'", "x:", "10:30", "-"],
            "plain": ["a:b", "a#b", "-a", "10.0.0.1", "1Gi", "500m", "it's", "a\"b", "v1.36.0"],
            "text": "line 1\nline 2\n", "cut": "a\nb", "control": "a\tb", "escaped": "a\u{1b}b\r\n",
        });
        insta::assert_snapshot!(render(&value), @r#"
        apiVersion: v1
        control: "a\tb"
        cut: |-
          a
          b
        empty: {}
        escaped: "a\eb\r\n"
        list:
        - a
        - b: 1
          c:
          - true
        - - 1
          - 2
        - []
        none: null
        plain:
        - a:b
        - a#b
        - -a
        - 10.0.0.1
        - 1Gi
        - 500m
        - it's
        - a"b
        - v1.36.0
        quoted:
        - "true"
        - "1"
        - "1.5"
        - "0x1F"
        - ""
        - "null"
        - "y"
        - "1e3"
        - "2026-01-01T00:00:00Z"
        - "2026-01-01"
        - 'a: b'
        - '- a'
        - '#'
        - 'a #b'
        - '@x'
        - '*'
        - it's
        - ''''
        - 'x:'
        - "10:30"
        - '-'
        text: |
          line 1
          line 2
        "#);
    }

    proptest::proptest! {
        /// Whatever is written is read back as the same value by another reader.
        #[test]
        fn what_is_written_can_be_read(text in "[ -~\n\t]{0,40}", key in "[a-zA-Z0-9 .:#-]{1,10}") {
            let mut map = serde_json::Map::new();
            map.insert(key, Value::String(text));
            let value = json!({"outer": map});
            let read: Value = serde_yaml_ng::from_str(&render(&value)).expect("YAML");
            proptest::prop_assert_eq!(read, value);
        }
    }
}
