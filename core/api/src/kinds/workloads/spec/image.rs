//! References to images, as far as the default pull policy depends on them.

use super::super::read::text;
use serde_json::Value;

/// Whether an image is the newest of its name: no tag and no digest, or the tag `latest`. What can't be read as a
/// reference is not.
pub(super) fn is_latest(image: &str) -> bool {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path_start..].split_once(':') {
        Some((last, tag)) => (&rest[..path_start + last.len()], Some(tag)),
        None => (rest, None),
    };
    let valid = is_name(name) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    valid && (tag == Some("latest") || (tag.is_none() && digest.is_none()))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len()) && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, sum)) = digest.split_once(':') else { return false };
    algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && sum.len() >= 32
        && sum.chars().all(|c| c.is_ascii_hexdigit())
}

/// A host, if the first part can be one, and a path of lower-case parts.
fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host.contains(char::is_uppercase) => {
            let host = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or(host, |(host, _)| host);
            if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c)) {
                return false;
            }
            path
        }
        _ => name,
    };
    let is_identifier = name.len() == 64 && name.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    !is_identifier && path.len() <= 255 && path.split('/').all(is_part)
}

/// Letters and digits, between them a dot, one or two underscores, or dashes.
fn is_part(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alphanumeric)
        && part.ends_with(alphanumeric)
        && part.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-'))
        && part
            .split(alphanumeric)
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.chars().all(|c| c == '-'))
}

/// The pull policy of what names this image and no policy.
pub(super) fn pull_policy(owner: &Value, field: &str) -> &'static str {
    if is_latest(text(owner, field)) { "Always" } else { "IfNotPresent" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_is_pulled_always() {
        let digest = "0123456789012345678901234567890123456789012345678901234567890123";
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("example.org:5000/nginx", true),
            ("example.org:5000/a/nginx:1", false),
            (&format!("nginx@sha256:{digest}"), false),
            (&format!("nginx:latest@sha256:{digest}"), true),
            ("Nginx Of Ours", false),
            ("", false),
            (digest, false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
