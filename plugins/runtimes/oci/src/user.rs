//! Whom a container runs as: the pod's wishes, the image's, and its /etc/passwd and /etc/group. Pure.

use gantry_plugin_sdk::runtime::{Error, ErrorCode, Security};

use crate::error;

/// A resolved user.
#[derive(Debug, Default, PartialEq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some(Account { name, uid, gid: fields.next()?.parse().ok()? })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        Some(Group { name, gid: fields.nth(1)?.parse().ok()?, members: fields.next().unwrap_or_default() })
    })
}

/// Resolves the user. `image_user` is `user[:group]`, names or numbers.
pub fn resolve(image_user: &str, security: &Security, passwd: &str, group: &str) -> Result<User, Error> {
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let wanted = match security.run_as_user {
        Some(uid) => uid.to_string(),
        None if image_name.is_empty() => "0".to_owned(),
        None => image_name.to_owned(),
    };
    // A name goes before a number that happens to be one.
    let number = wanted.parse::<u32>().ok();
    let account = accounts(passwd)
        .find(|account| account.name == wanted && security.run_as_user.is_none())
        .or_else(|| accounts(passwd).find(|account| Some(account.uid) == number));
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            let message = format!("unable to find user {wanted}: no matching entries in passwd file");
            return Err(error(ErrorCode::Invalid, message));
        }
    };
    let gid = match security.run_as_group {
        Some(gid) => gid,
        None if security.run_as_user.is_none() && !image_group.is_empty() => group_id(image_group, group)?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let mut all: Vec<u32> = security.supplemental_groups.clone();
    all.push(gid);
    if let (Some(account), false) = (&account, security.strict_groups) {
        let member = |group: &Group<'_>| group.members.split(',').any(|member| member == account.name);
        all.extend(groups(group).filter(member).map(|group| group.gid));
    }
    all.sort_unstable();
    all.dedup();
    Ok(User { uid, gid, groups: all })
}

fn group_id(wanted: &str, group: &str) -> Result<u32, Error> {
    if let Some(found) = groups(group).find(|group| group.name == wanted) {
        return Ok(found.gid);
    }
    wanted.parse().map_err(|_| {
        error(ErrorCode::Invalid, format!("unable to find group {wanted}: no matching entries in group file"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_plugin_sdk::runtime::Seccomp;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/:/bin/sh\n12:x:77:78::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\nmail:x:41:root\n";

    fn security(user: Option<u32>, group: Option<u32>, extra: &[u32], strict_groups: bool) -> Security {
        Security {
            privileged: false,
            run_as_user: user,
            run_as_group: group,
            supplemental_groups: extra.to_vec(),
            strict_groups,
            add_capabilities: vec![],
            drop_capabilities: vec![],
            read_only_rootfs: false,
            no_new_privileges: false,
            seccomp: Seccomp::Unconfined,
            apparmor: String::new(),
            unmasked_proc: false,
        }
    }

    #[test]
    fn users_are_looked_up_in_the_image() {
        for (image, security, expect) in [
            ("", security(None, None, &[], false), (0, 0, vec![0, 41])),
            ("web", security(None, None, &[], false), (33, 34, vec![34, 40])),
            ("web:mail", security(None, None, &[], false), (33, 41, vec![40, 41])),
            ("web:9", security(None, None, &[], false), (33, 9, vec![9, 40])),
            ("12", security(None, None, &[], false), (77, 78, vec![78])),
            ("web", security(None, None, &[7], true), (33, 34, vec![7, 34])),
            ("web", security(Some(1000), None, &[], false), (1000, 0, vec![0])),
            ("root", security(Some(33), None, &[], false), (33, 34, vec![34, 40])),
            ("web", security(Some(33), Some(5), &[6], false), (33, 5, vec![5, 6, 40])),
        ] {
            let user = resolve(image, &security, PASSWD, GROUP).unwrap();
            assert_eq!((user.uid, user.gid, user.groups), expect, "{image} {security:?}");
        }
        for image in ["nobody", "web:none"] {
            assert!(resolve(image, &security(None, None, &[], false), PASSWD, GROUP).is_err(), "{image}");
        }
        assert_eq!(resolve("7", &security(None, None, &[], false), "", "").unwrap().uid, 7);
    }
}
