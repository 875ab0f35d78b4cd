//! What the agent's pods leave on a machine, taken away when the node itself goes.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::cgroups::Hierarchy;

/// Unmounts what is mounted below the node's folder, removes the folders of its agent's pods, and the cgroups below
/// `cgroup_root`. Call it when no container runs any more. The first failure is told after everything was tried.
///
/// # Errors
/// The system's, with the path in it.
pub fn remove_leftovers(data_dir: &Path, agent_dir: &Path, cgroup_root: &str) -> io::Result<()> {
    let named = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut result = Ok(());
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> =
        mount_points(&table).into_iter().filter(|point| point.starts_with(data_dir)).collect();
    // What lies on top goes first.
    mounts.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in mounts {
        if let Err(error) = umount2(&point, MntFlags::MNT_DETACH)
            && error != nix::errno::Errno::EINVAL
        {
            result = result.and(Err(named(&point, error.into())));
        }
    }
    let pods = agent_dir.join("pods");
    if result.is_ok() {
        match std::fs::remove_dir_all(&pods) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(named(&pods, error)),
            _ => {}
        }
    }
    Hierarchy::detect().remove(cgroup_root);
    result
}

/// The mount points of a mount table (proc_pid_mountinfo(5)); blanks in them are written as octal numbers.
fn mount_points(table: &str) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| {
            let plain =
                point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
            PathBuf::from(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read() {
        let table =
            "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:1 / /a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_points(table), [PathBuf::from("/mnt"), PathBuf::from("/a b")]);
    }
}
