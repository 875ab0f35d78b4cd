//! Ranges of user ids for pods with a user namespace of their own (`hostUsers: false`, KEP-127): 65,536 ids a pod, none
//! shared by two. A pod's range is kept in its folder.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use gantry_plugin_host::contract::runtime::IdMapping;
use parking_lot::Mutex;

/// Ids of a pod; what an image expects to have.
const LENGTH: u32 = 65_536;
/// The last range that fits in 32 bits.
const LAST: u32 = u32::MAX / LENGTH - 1;
/// The file in a pod's folder.
const FILE: &str = "userns";

static ALLOCATING: Mutex<()> = Mutex::new(());

/// The mapping of a pod; the range it has, or the first that no other pod has.
///
/// # Errors
/// When the pods' folder can't be read or written, or no range is left.
pub fn mapping(pods_dir: &Path, uid: &str) -> io::Result<Vec<IdMapping>> {
    // Two pods that start at the same time must not find the same range free.
    let _one_at_a_time = ALLOCATING.lock();
    let own = pods_dir.join(uid).join(FILE);
    let index = match read(&own) {
        Some(index) => index,
        None => {
            let taken: BTreeSet<u32> =
                fs::read_dir(pods_dir)?.flatten().filter_map(|entry| read(&entry.path().join(FILE))).collect();
            let free = (1..=LAST).find(|index| !taken.contains(index));
            let index = free.ok_or_else(|| io::Error::other("no range of user ids is free"))?;
            fs::write(&own, index.to_string())?;
            index
        }
    };
    Ok(vec![IdMapping { container_id: 0, host_id: index * LENGTH, size: LENGTH }])
}

fn read(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|index| (1..=LAST).contains(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept_and_not_shared() {
        let pods = tempfile::tempdir().expect("a folder");
        for uid in ["a", "b"] {
            fs::create_dir(pods.path().join(uid)).expect("a folder");
        }
        let host = |uid: &str| mapping(pods.path(), uid).expect("a range")[0].host_id;
        assert_eq!((host("a"), host("b"), host("a")), (65_536, 131_072, 65_536));
        fs::remove_dir_all(pods.path().join("a")).expect("removed");
        fs::create_dir(pods.path().join("c")).expect("a folder");
        assert_eq!(host("c"), 65_536);
    }
}
