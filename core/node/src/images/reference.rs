//! Names of images, as containerd normalises them, and which credentials are for them.

use oci_client::{ParseError, Reference};

use super::{ImageError, RegistryCredentials};

/// Reads a name: the registry defaults to docker.io, the tag to `latest`; beside a digest a tag means nothing.
pub fn parse(reference: &str) -> Result<Reference, ImageError> {
    let invalid = |reason: String| ImageError::InvalidName { reference: reference.to_owned(), reason };
    match Reference::try_from(reference) {
        Ok(parsed) => Ok(match parsed.digest() {
            Some(digest) => parsed.clone_with_digest(digest.to_owned()),
            None => parsed,
        }),
        Err(ParseError::ReferenceInvalidFormat | ParseError::NameContainsUppercase) => {
            let path = reference.split(['@']).next().unwrap_or_default();
            let lowercase = path.to_lowercase();
            // Upstream's words, by its rule: what would be a name in lower case.
            if path.chars().any(char::is_uppercase)
                && (Reference::try_from(lowercase.as_str()).is_ok() || path.contains(' '))
            {
                let name = if path.contains('/') { path.to_owned() } else { format!("library/{path}") };
                return Err(invalid(format!("invalid reference format: repository name ({name}) must be lowercase")));
            }
            Err(invalid("invalid reference format".to_owned()))
        }
        Err(other) => Err(invalid(other.to_string())),
    }
}

/// A name by digest: `registry/repository@sha256:…`.
pub fn with_digest(reference: &Reference, digest: &str) -> String {
    reference.clone_with_digest(digest.to_owned()).whole()
}

/// The repository of a name, without tag and digest.
pub fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// The credentials for an image, the closest first, by the kubelet's rules: the host may have `*` in its parts, the
/// path is a beginning.
pub fn fitting<'a>(reference: &Reference, credentials: &'a [RegistryCredentials]) -> Vec<&'a RegistryCredentials> {
    let mut fitting: Vec<_> = credentials.iter().filter(|c| fits(&c.registry, reference)).collect();
    fitting.sort_by_key(|credentials| std::cmp::Reverse(credentials.registry.len()));
    fitting
}

fn fits(registry: &str, reference: &Reference) -> bool {
    let registry = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let path = path.trim_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let port_of = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
    if port_of(host) != port_of(reference.registry()) {
        return false;
    }
    let (host_parts, image_parts): (Vec<_>, Vec<_>) =
        (host.split('.').collect(), reference.registry().split('.').collect());
    host_parts.len() == image_parts.len()
        && host_parts.iter().zip(&image_parts).all(|(pattern, part)| matches_part(pattern, part))
        && reference.repository().starts_with(path)
}

/// One part of a host's name against a pattern with `*` for anything.
fn matches_part(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == part,
        Some((before, after)) => part.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| matches_part(after, &rest[at..]))
        }),
    }
}

/// Whether a registry is this machine, which is spoken to without TLS, as containerd does.
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
        let cases = [
            ("busybox", Ok("docker.io/library/busybox:latest".to_owned())),
            ("busybox:1", Ok("docker.io/library/busybox:1".to_owned())),
            ("docker.io/busybox", Ok("docker.io/library/busybox:latest".to_owned())),
            ("index.docker.io/a/b:c", Ok("docker.io/a/b:c".to_owned())),
            ("localhost:5000/a", Ok("localhost:5000/a:latest".to_owned())),
            ("localhost/a", Ok("localhost/a:latest".to_owned())),
            (&format!("r.io/a:1@{digest}"), Ok(format!("r.io/a@{digest}"))),
            ("UPPER CASE", Err("repository name (library/UPPER CASE) must be lowercase")),
            ("Busybox", Err("repository name (library/Busybox) must be lowercase")),
            ("a b", Err("")),
            ("", Err("")),
            ("-a", Err("")),
        ];
        for (name, expect) in cases {
            match (parse(name), expect) {
                (Ok(parsed), Ok(expect)) => assert_eq!(parsed.whole(), expect),
                (Err(ImageError::InvalidName { reason, .. }), Err(expect)) => {
                    assert!(reason.contains(expect), "{reason}")
                }
                (got, expect) => panic!("{name}: {got:?} instead of {expect:?}"),
            }
        }
    }

    #[test]
    fn repositories() {
        for (name, expect) in [("r:5/a:1", "r:5/a"), ("r:5/a@sha256:1", "r:5/a"), ("r:5/a", "r:5/a")] {
            assert_eq!(repository_of(name), expect);
        }
    }

    #[test]
    fn credentials() {
        let cases = [
            ("https://index.docker.io/v1/", "busybox", true),
            ("docker.io", "busybox", true),
            ("registry.io", "registry.io/a", true),
            ("registry.io:443", "registry.io/a", false),
            ("registry.io/a", "registry.io/a/b", true),
            ("registry.io/b", "registry.io/a/b", false),
            ("*.registry.io", "eu.registry.io/a", true),
            ("*.registry.io", "registry.io/a", false),
            ("e*.io", "eu.io/a", true),
            ("127.0.0.1:5000", "127.0.0.1:5000/a", true),
        ];
        for (registry, image, expect) in cases {
            assert_eq!(fits(registry, &parse(image).unwrap()), expect, "{registry} for {image}");
        }
    }

    #[test]
    fn loopback() {
        let cases = [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:9", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("docker.io", false),
        ];
        for (registry, expect) in cases {
            assert_eq!(is_loopback(registry), expect, "{registry}");
        }
    }
}
