//! An OCI `linux.resources` object as files of a control group.
//!
//! Conversions between versions are those of the runtime specification's reference, runc: shares 2…262144 to weights
//! 1…10000, and swap counted with memory (version 1) or beside it (version 2).

use oci_spec::runtime::LinuxResources;

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whose hierarchy.
    pub controller: &'static str,
    /// Name in the group's folder.
    pub file: String,
    /// Its content.
    pub value: String,
}

/// What to write, in an order that the kernel accepts. `memory_limit_now` is the limit in force (version 1).
pub fn plan(resources: &LinuxResources, version: u8, memory_limit_now: Option<i64>) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut put =
        |controller, file: &str, value: String| writes.push(Write { controller, file: file.to_owned(), value });
    let v2 = version == 2;
    if let Some(cpu) = resources.cpu() {
        match cpu.shares().filter(|&s| s > 0) {
            Some(shares) if v2 => put("cpu", "cpu.weight", weight(shares).to_string()),
            Some(shares) => put("cpu", "cpu.shares", shares.to_string()),
            None => {}
        }
        if v2 {
            if cpu.quota().is_some() || cpu.period().is_some() {
                let quota = cpu.quota().filter(|&q| q > 0).map_or("max".to_owned(), |q| q.to_string());
                put("cpu", "cpu.max", format!("{quota} {}", cpu.period().filter(|&p| p > 0).unwrap_or(100_000)));
            }
        } else {
            if let Some(period) = cpu.period().filter(|&p| p > 0) {
                put("cpu", "cpu.cfs_period_us", period.to_string());
            }
            if let Some(quota) = cpu.quota().filter(|&q| q != 0) {
                put("cpu", "cpu.cfs_quota_us", quota.to_string());
            }
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
            put("cpuset", "cpuset.cpus", cpus.clone());
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|m| !m.is_empty()) {
            put("cpuset", "cpuset.mems", mems.clone());
        }
    }
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|&l| l != 0);
        let swap = memory.swap().filter(|&s| s != 0);
        if v2 {
            let or_max = |n: i64| if n < 0 { "max".to_owned() } else { n.to_string() };
            if let Some(swap) = swap {
                let beside = if swap < 0 { -1 } else { (swap - limit.unwrap_or(0).max(0)).max(0) };
                put("memory", "memory.swap.max", or_max(beside));
            }
            if let Some(limit) = limit {
                put("memory", "memory.max", or_max(limit));
            }
            if let Some(reservation) = memory.reservation().filter(|&r| r != 0) {
                put("memory", "memory.low", or_max(reservation));
            }
        } else {
            let limit = limit.map(|l| ("memory.limit_in_bytes", l));
            let swap = swap.map(|s| ("memory.memsw.limit_in_bytes", s));
            // Memory with swap may never be less than memory alone: when it grows, it goes first.
            let grows = match (limit, memory_limit_now) {
                (Some((_, limit)), Some(now)) => limit < 0 || limit > now,
                _ => false,
            };
            let order = if grows { [swap, limit] } else { [limit, swap] };
            for (file, value) in order.into_iter().flatten() {
                put("memory", file, value.to_string());
            }
            if let Some(reservation) = memory.reservation().filter(|&r| r != 0) {
                put("memory", "memory.soft_limit_in_bytes", reservation.to_string());
            }
        }
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        put("pids", "pids.max", if limit <= 0 { "max".to_owned() } else { limit.to_string() });
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.{}", page.page_size(), if v2 { "max" } else { "limit_in_bytes" });
        put("hugetlb", &file, page.limit().to_string());
    }
    if v2 && let Some(unified) = resources.unified() {
        let mut unified: Vec<_> = unified.iter().filter(|(file, _)| !file.contains('/')).collect();
        unified.sort();
        for (file, value) in unified {
            put("", file, value.clone());
        }
    }
    writes
}

fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: &str, version: u8, now: Option<i64>, expect: &[&str]) {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let writes: Vec<_> = plan(&resources, version, now).iter().map(|w| format!("{} {}", w.file, w.value)).collect();
        assert_eq!(writes, expect);
    }

    #[test]
    fn version_1() {
        check("{}", 1, None, &[]);
        check(
            r#"{"cpu":{"shares":512,"quota":50000,"period":100000}}"#,
            1,
            None,
            &["cpu.shares 512", "cpu.cfs_period_us 100000", "cpu.cfs_quota_us 50000"],
        );
        check(r#"{"cpu":{"quota":-1}}"#, 1, None, &["cpu.cfs_quota_us -1"]);
        let memory = r#"{"memory":{"limit":200,"swap":200}}"#;
        check(memory, 1, Some(100), &["memory.memsw.limit_in_bytes 200", "memory.limit_in_bytes 200"]);
        check(memory, 1, Some(300), &["memory.limit_in_bytes 200", "memory.memsw.limit_in_bytes 200"]);
        check(r#"{"pids":{"limit":-1}}"#, 1, None, &["pids.max max"]);
        check(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4}]}"#, 1, None, &["hugetlb.2MB.limit_in_bytes 4"]);
    }

    #[test]
    fn version_2() {
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"}}"#,
            2,
            None,
            &["cpu.weight 39", "cpu.max 50000 100000", "cpuset.cpus 0-1"],
        );
        check(r#"{"cpu":{"shares":2}}"#, 2, None, &["cpu.weight 1"]);
        check(r#"{"cpu":{"shares":262144}}"#, 2, None, &["cpu.weight 10000"]);
        check(r#"{"cpu":{"quota":-1}}"#, 2, None, &["cpu.max max 100000"]);
        check(r#"{"memory":{"limit":200,"swap":250}}"#, 2, None, &["memory.swap.max 50", "memory.max 200"]);
        check(r#"{"memory":{"limit":-1}}"#, 2, None, &["memory.max max"]);
        check(r#"{"unified":{"memory.high":"5","../x":"1"}}"#, 2, None, &["memory.high 5"]);
    }
}
