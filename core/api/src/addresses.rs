//! IP addresses and CIDRs as upstream checks them: what old fields took, and the strict form that new values must have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::{FieldError, FieldErrors, FieldPath};

/// Reads an address as Go once did: octets may have leading zeros, which don't make them octal.
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip);
    }
    if text.contains(':') {
        let (head, tail) = text.rsplit_once(':')?;
        let four = parse_v4_sloppy(tail)?;
        return format!("{head}:{four}").parse().ok();
    }
    parse_v4_sloppy(text).map(IpAddr::V4)
}

fn parse_v4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or(if part.bytes().all(|byte| byte == b'0') { Ok(0) } else { Err(()) })
            .ok()?;
    }
    parts.next().is_none().then_some(Ipv4Addr::from(octets))
}

/// Go's `net.IP.String`: an IPv4-mapped address is written as IPv4.
pub fn go_string(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or_else(|| six.to_string(), |four| four.to_string()),
        IpAddr::V4(four) => four.to_string(),
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}

/// Checks an address of a field that once was lenient (upstream's `IsValidIPForLegacyField` with strict validation);
/// values of the old object stay valid.
pub fn legacy_ip(path: &FieldPath, text: &str, old_values: &[&str]) -> FieldErrors {
    if old_values.contains(&text) { FieldErrors::new() } else { parse_strict(path, text).1 }
}

/// Checks an address of a new field, which must be canonical (upstream's `IsValidIP`).
pub fn ip(path: &FieldPath, text: &str) -> FieldErrors {
    let (ip, mut errors) = parse_strict(path, text);
    if let (Some(ip), true) = (ip, errors.is_empty()) {
        let canonical = go_string(ip);
        if canonical != text {
            errors.push(FieldError::invalid(path, text, format!("must be in canonical form (\"{canonical}\")")));
        }
    }
    errors
}

fn parse_strict(path: &FieldPath, text: &str) -> (Option<IpAddr>, FieldErrors) {
    let Some(ip) = parse_ip_sloppy(text) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return (None, vec![FieldError::invalid(path, text, detail)]);
    };
    let mut errors = FieldErrors::new();
    if text.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, text, "must not have leading 0s"));
    } else if is_mapped(ip) {
        errors.push(FieldError::invalid(path, text, "must not be an IPv4-mapped IPv6 address"));
    }
    (Some(ip), errors)
}

/// An address and a prefix length, the address as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address, with all its bits.
    pub ip: IpAddr,
    /// How many bits name the network.
    pub prefix: u8,
}

impl Cidr {
    /// Reads `ADDRESS/LENGTH`, leniently.
    pub fn parse_sloppy(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let ip = parse_ip_sloppy(address)?;
        if length.is_empty() || length.len() > 8 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let prefix: u32 = length.parse().ok()?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        (prefix <= max).then_some(Self { ip, prefix: prefix as u8 })
    }

    /// The network's first address.
    pub fn network(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(four) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(four) & mask))
            }
            IpAddr::V6(six) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(six) & mask))
            }
        }
    }

    /// Whether an address lies in the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4() && Self { ip, prefix: self.prefix }.network() == self.network()
    }

    /// Go's `net.IPNet.String`.
    pub fn network_string(&self) -> String {
        format!("{}/{}", self.network(), self.prefix)
    }
}

/// Checks a CIDR of a field that once was lenient (upstream's `IsValidCIDRForLegacyField` with strict validation).
pub fn legacy_cidr(path: &FieldPath, text: &str, old_values: &[&str]) -> FieldErrors {
    if old_values.contains(&text) { FieldErrors::new() } else { parse_cidr_strict(path, text).1 }
}

/// Checks a CIDR of a new field, which must be canonical (upstream's `IsValidCIDR`).
pub fn cidr(path: &FieldPath, text: &str) -> FieldErrors {
    let (cidr, mut errors) = parse_cidr_strict(path, text);
    if let (Some(cidr), true) = (cidr, errors.is_empty()) {
        let canonical = cidr.network_string();
        if canonical != text {
            errors.push(FieldError::invalid(path, text, format!("must be in canonical form (\"{canonical}\")")));
        }
    }
    errors
}

fn parse_cidr_strict(path: &FieldPath, text: &str) -> (Option<Cidr>, FieldErrors) {
    let Some(cidr) = Cidr::parse_sloppy(text) else {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return (None, vec![FieldError::invalid(path, text, detail)]);
    };
    let (address, length) = text.split_once('/').unwrap_or_default();
    let problem = if address.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        Some("must not have leading 0s in IP or prefix length")
    } else if is_mapped(cidr.ip) {
        Some("must not have an IPv4-mapped IPv6 address")
    } else if cidr.ip != cidr.network() {
        Some("must not have bits set beyond the prefix length")
    } else {
        None
    };
    (Some(cidr), problem.map(|detail| FieldError::invalid(path, text, detail)).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.into_iter().map(|error| error.detail).collect()
    }

    #[test]
    fn addresses_are_checked_strictly() {
        let path = FieldPath::new("ip");
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("10.0.0.1", &[], &[]),
            ("fe80::1", &[], &[]),
            ("FE80:0::1", &[], &["must be in canonical form (\"fe80::1\")"]),
            ("010.0.0.1", &["must not have leading 0s"], &["must not have leading 0s"]),
            (
                "::ffff:1.2.3.4",
                &["must not be an IPv4-mapped IPv6 address"],
                &["must not be an IPv4-mapped IPv6 address"],
            ),
            (
                "1.2.3",
                &["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
                &["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
            ),
        ];
        for (text, legacy, strict) in cases {
            assert_eq!(texts(legacy_ip(&path, text, &[])), *legacy, "{text}");
            assert_eq!(texts(ip(&path, text)), *strict, "{text}");
        }
        assert_eq!(legacy_ip(&path, "010.0.0.1", &["010.0.0.1"]), FieldErrors::new());
    }

    #[test]
    fn networks_are_checked_strictly() {
        let path = FieldPath::new("cidr");
        let cases: &[(&str, &[&str])] = &[
            ("10.0.0.0/8", &[]),
            ("10.0.0.1/8", &["must not have bits set beyond the prefix length"]),
            ("10.0.0.0/08", &["must not have leading 0s in IP or prefix length"]),
            ("10.0.0.0/33", &["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]),
            ("0.0.0.0/0", &[]),
            ("::/0", &[]),
        ];
        for (text, expect) in cases {
            assert_eq!(texts(cidr(&path, text)), *expect, "{text}");
        }
    }
}
