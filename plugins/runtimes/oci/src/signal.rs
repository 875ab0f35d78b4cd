//! Names of signals.

pub const SIGTERM: u32 = 15;

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`.
pub fn number(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse::<u32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u32::try_from(index + 1).ok();
    }
    let number = match name.strip_prefix("RTMIN") {
        Some("") => 34,
        Some(more) => more.strip_prefix('+')?.parse::<u32>().ok()?.checked_add(34)?,
        None => match name.strip_prefix("RTMAX")? {
            "" => 64,
            less => 64_u32.checked_sub(less.strip_prefix('-')?.parse::<u32>().ok()?)?,
        },
    };
    (34..=64).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_numbers() {
        for (name, expect) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("SIGSYS", Some(31)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("", None),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
        ] {
            assert_eq!(number(name), expect, "{name}");
        }
    }
}
