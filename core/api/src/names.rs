//! The rules for names, keys and other short texts, with the messages of upstream's `apimachinery/pkg/util/validation`.
//! Each check answers with what is wrong, nothing when all is well.

/// What is wrong with a text, in words.
pub type Problems = Vec<String>;

/// Longest RFC 1123 or 1035 label, in bytes.
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest RFC 1123 subdomain, in bytes.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Upstream's `RegexError`: the message with examples and the form.
pub fn form_error(message: &str, form: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{form}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{form}')", examples.join(" or "))
}

/// `must be no more than N characters`.
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be between LOW and HIGH, inclusive`.
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether the text starts and ends with `edge` bytes and has only `inner` ones between.
fn has_form(text: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => first(*only),
        [head, middle @ .., tail] => first(*head) && last(*tail) && middle.iter().all(|byte| inner(*byte)),
    }
}

fn is_label_form(text: &str) -> bool {
    has_form(text, lower_or_digit, |byte| lower_or_digit(byte) || byte == b'-', lower_or_digit)
}

fn is_subdomain_form(text: &str) -> bool {
    text.split('.').all(is_label_form)
}

fn is_key_form(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_alphanumeric();
    has_form(text, edge, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'), edge)
}

/// RFC 1123 label.
pub fn dns1123_label(text: &str) -> Problems {
    let mut problems = too_long(text, LABEL_BYTES_MAX);
    if !is_label_form(text) {
        problems.push(if is_subdomain_form(text) {
            "must not contain dots".to_owned()
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            form_error(message, LABEL_FORM, &["my-name", "123-abc"])
        });
    }
    problems
}

/// RFC 1123 subdomain.
pub fn dns1123_subdomain(text: &str) -> Problems {
    let mut problems = too_long(text, SUBDOMAIN_BYTES_MAX);
    if !is_subdomain_form(text) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        problems.push(form_error(message, SUBDOMAIN_FORM, &["example.com"]));
    }
    problems
}

/// RFC 1123 subdomain whose labels may hold underscores.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Problems {
    let mut problems = too_long(text, SUBDOMAIN_BYTES_MAX);
    let label = |label: &str| {
        let inner = |byte| lower_or_digit(byte) || matches!(byte, b'-' | b'_');
        has_form(label.strip_prefix('_').unwrap_or(label), lower_or_digit, inner, lower_or_digit)
    };
    if !text.split('.').all(label) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        let form = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        problems.push(form_error(message, form, &["example.com"]));
    }
    problems
}

/// RFC 1035 label.
pub fn dns1035_label(text: &str) -> Problems {
    let mut problems = too_long(text, LABEL_BYTES_MAX);
    if !has_form(text, |byte| byte.is_ascii_lowercase(), |byte| lower_or_digit(byte) || byte == b'-', lower_or_digit) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        problems.push(form_error(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    problems
}

/// `*.` and an RFC 1123 subdomain.
pub fn wildcard_dns1123_subdomain(text: &str) -> Problems {
    let mut problems = too_long(text, SUBDOMAIN_BYTES_MAX);
    if !text.strip_prefix("*.").is_some_and(is_subdomain_form) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        problems.push(form_error(message, &format!("\\*\\.{SUBDOMAIN_FORM}"), &["*.example.com"]));
    }
    problems
}

/// A label's or annotation's key: an optional subdomain, `/`, a name (upstream's `IsQualifiedName`).
pub fn qualified_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                // Here upstream counts bytes in its message, elsewhere characters.
                let told =
                    dns1123_subdomain(prefix).into_iter().map(|text| text.replace("253 characters", "253 bytes"));
                problems.extend(told.map(|problem| format!("prefix part {problem}")));
            }
            name
        }
        _ => {
            let text = form_error(KEY_TEXT, KEY_FORM, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a valid label key {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        problems.push(format!("name part must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !is_key_form(name) {
        problems.push(format!("name part {}", form_error(KEY_TEXT, KEY_FORM, &["MyName", "my.name", "123-abc"])));
    }
    problems
}

/// A label's value.
pub fn label_value(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_BYTES_MAX {
        problems.push(format!("must be no more than {LABEL_BYTES_MAX} bytes"));
    }
    if !text.is_empty() && !is_key_form(text) {
        let message =
            format!("a valid label must be an empty string or consist of {}", &KEY_TEXT["must consist of ".len()..]);
        problems.push(form_error(&message, &format!("({KEY_FORM})?"), &["MyValue", "my_value", "12345"]));
    }
    problems
}

/// An identifier of C.
pub fn c_identifier(text: &str) -> Problems {
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if has_form(text, first, inner, inner) {
        return Problems::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![form_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A port's number.
pub fn port_number(port: i64) -> Problems {
    in_range(port, 1, 65535)
}

/// A number between two others.
pub fn in_range(value: i64, low: i64, high: i64) -> Problems {
    if (low..=high).contains(&value) { Problems::new() } else { vec![range_error(low, high)] }
}

/// A user's or group's number.
pub fn user_or_group_id(id: i64) -> Problems {
    in_range(id, 0, i64::from(i32::MAX))
}

/// A port's name (RFC 6335 service name).
pub fn port_name(text: &str) -> Problems {
    let mut problems = too_long(text, 15);
    let bytes = text.as_bytes();
    if bytes.is_empty() || !bytes.iter().all(|byte| lower_or_digit(*byte) || *byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// `25%`.
pub fn percent(text: &str) -> Problems {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Problems::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![form_error(message, "[0-9]+%", &["1%", "93%"])]
}

/// The name of an HTTP header.
pub fn http_header_name(text: &str) -> Problems {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Problems::new();
    }
    vec![form_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The name of an environment variable, as upstream has accepted it for long.
pub fn env_var_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    let first = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'.' | b'_');
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if !has_form(text, first, inner, inner) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        problems.push(form_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    problems.extend(parent_dir(text));
    problems
}

/// The name of an environment variable, as upstream accepts it since 1.32: any printable ASCII but `=`.
pub fn relaxed_env_var_name(text: &str) -> Problems {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Problems::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Problems {
    let mut problems = too_long(text, SUBDOMAIN_BYTES_MAX);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        problems.push(form_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    problems.extend(parent_dir(text));
    problems
}

/// A segment of a URL's path (upstream's `IsValidPathSegmentName`).
pub fn path_segment(text: &str) -> Problems {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

/// What a segment of a URL's path may start with.
pub fn path_segment_prefix(text: &str) -> Problems {
    ["/", "%"].iter().filter(|part| text.contains(**part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// A `generateName`: a trailing dash counts as what will stand there.
pub fn masked_prefix(name: &str) -> String {
    match name.strip_suffix('-') {
        // Upstream cuts one character more than the dash; the outcome is the same but for one byte of length.
        Some(head) if !head.is_empty() => format!("{}a", head.strip_suffix(|_: char| true).unwrap_or_default()),
        _ => name.to_owned(),
    }
}

fn too_long(text: &str, max: usize) -> Problems {
    if text.len() > max { vec![max_len_error(max)] } else { Problems::new() }
}

fn parent_dir(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Problems;

    #[test]
    fn names_that_are_well() {
        let long = "a".repeat(63);
        let cases: &[(Check, &[&str])] = &[
            (dns1123_label, &["a", "a-1", "1", &long]),
            (dns1123_subdomain, &["a", "a.b-1", "1.2"]),
            (dns1035_label, &["a", "a-1"]),
            (wildcard_dns1123_subdomain, &["*.a.b"]),
            (qualified_name, &["a", "A.b_c", "a.org/B"]),
            (label_value, &["", "a", "A.b_c"]),
            (c_identifier, &["_a1", "A"]),
            (port_name, &["http", "a-1", "1a"]),
            (percent, &["0%", "100%"]),
            (env_var_name, &["A", "a.b-c_1", "-"]),
            (relaxed_env_var_name, &["1 a!"]),
            (config_map_key, &["a.b", "_", "..a".trim_start_matches('.')]),
            (path_segment, &["system:a b", "..."]),
        ];
        for (check, texts) in cases {
            for text in *texts {
                assert_eq!(check(text), Problems::new(), "{text}");
            }
        }
    }

    #[test]
    fn problems_are_told_in_upstreams_words() {
        let long = "a".repeat(64);
        let cases: &[(Check, &str, &[&str])] = &[
            (dns1123_label, "a.b", &["must not contain dots"]),
            (
                dns1123_label,
                "A",
                &[
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (dns1123_label, &long, &["must be no more than 63 characters"]),
            (
                dns1123_subdomain,
                "a..b",
                &[
                    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                label_value,
                "-",
                &[
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (label_value, &long, &["must be no more than 63 bytes"]),
            (
                qualified_name,
                "/",
                &[
                    "prefix part must be non-empty",
                    "name part must be non-empty",
                    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (config_map_key, "..", &["must not be '..'"]),
            (
                port_name,
                "--",
                &[
                    "must contain at least one letter (a-z)",
                    "must not contain consecutive hyphens",
                    "must not begin or end with a hyphen",
                ],
            ),
            (path_segment, "a/b%", &["may not contain '/'", "may not contain '%'"]),
        ];
        for (check, text, expect) in cases {
            assert_eq!(check(text), *expect, "{text}");
        }
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(masked_prefix("gen-"), "gea");
    }
}
