//! Linux capabilities of a container.

/// What containers have by default, as Docker's and containerd's do.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The capabilities after additions and removals; `ALL` comes before single names. `held` are those that the host can
/// hand on.
pub fn resolve(privileged: bool, add: &[String], drop: &[String], held: &[String]) -> Vec<String> {
    let full = |name: &String| {
        let name = name.to_uppercase();
        if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let (add, drop): (Vec<String>, Vec<String>) = (add.iter().map(full).collect(), drop.iter().map(full).collect());
    let all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let mut set: Vec<String> = if privileged || all(&add) {
        held.to_vec()
    } else if all(&drop) {
        Vec::new()
    } else {
        DEFAULT.map(str::to_owned).to_vec()
    };
    if all(&drop) && all(&add) && !privileged {
        set.clear();
    }
    if !privileged {
        for name in add.iter().filter(|name| *name != "ALL") {
            if !set.contains(name) {
                set.push(name.clone());
            }
        }
        set.retain(|name| !drop.contains(name));
    }
    set.retain(|name| held.contains(name));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(privileged: bool, add: &[&str], drop: &[&str]) -> Vec<String> {
        let mut held = DEFAULT.map(str::to_owned).to_vec();
        held.push("CAP_NET_ADMIN".to_owned());
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        resolve(privileged, &text(add), &text(drop), &held)
    }

    #[test]
    fn additions_and_removals_are_applied() {
        assert_eq!(set(false, &[], &[]).len(), 14);
        assert_eq!(set(false, &["NET_ADMIN"], &[]).len(), 15);
        assert_eq!(set(false, &["NET_ADMIN", "SYS_TIME"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(set(false, &["ALL"], &["cap_chown"]).len(), 14);
        assert_eq!(set(false, &[], &["KILL"]).len(), 13);
        assert_eq!(set(true, &[], &["ALL"]).len(), 15);
        assert!(set(false, &[], &["ALL"]).is_empty());
    }
}
