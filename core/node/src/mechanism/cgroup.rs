//! Control groups of containers: versions 1, 2 and the hybrid of both.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the kernel is asked again to remove a group whose last process it hasn't let go of yet.
const REMOVE_ATTEMPTS_MAX: u32 = 12;

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// Version 1: controllers (or `name=…`) and the mount point.
    legacy: Vec<(Vec<String>, PathBuf)>,
    /// Version 2; in a hybrid it has no controllers.
    unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Of this host.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// From the text of proc_pid_mountinfo(5).
    pub fn parse(mountinfo: &str) -> Self {
        let mut found = Self { legacy: Vec::new(), unified: None };
        for line in mountinfo.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut fields = file_system.split(' ');
            match fields.next() {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(PathBuf::from(point)),
                Some("cgroup") => {
                    let options = fields.nth(1).unwrap_or_default().split(',');
                    let controllers: Vec<_> =
                        options.filter(|o| !matches!(*o, "rw" | "ro")).map(str::to_owned).collect();
                    if !found.legacy.iter().any(|(known, _)| *known == controllers) {
                        found.legacy.push((controllers, PathBuf::from(point)));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// 1 when a controller is in a version 1 hierarchy, else 2.
    pub fn version(&self) -> u8 {
        if self.legacy.iter().any(|(controllers, _)| controllers.iter().any(|c| !c.starts_with("name="))) {
            1
        } else {
            2
        }
    }

    /// The mount point of a controller.
    fn mount_of(&self, controller: &str) -> Option<&Path> {
        if self.version() == 2 {
            return self.unified.as_deref();
        }
        self.legacy.iter().find(|(known, _)| known.iter().any(|c| c == controller)).map(|(_, at)| at.as_path())
    }
}

/// The `cgroup.procs` files that put a process where another one is.
pub fn files_to_join(pid: u32) -> io::Result<Vec<PathBuf>> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(join_files(&Hierarchies::read()?, &groups))
}

fn join_files(hierarchies: &Hierarchies, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mount = match controllers {
            "" => hierarchies.unified.as_deref(),
            _ => hierarchies
                .legacy
                .iter()
                .find(|(known, _)| controllers.split(',').all(|c| known.iter().any(|k| k == c)))
                .map(|(_, at)| at.as_path()),
        };
        if let Some(mount) = mount {
            files.push(mount.join(path.trim_start_matches('/')).join("cgroup.procs"));
        }
    }
    files
}

/// One group, in all hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: PathBuf,
}

/// What a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu_ns: u64,
    /// Memory, page cache included.
    pub memory_bytes: u64,
    /// Of that, file pages not used lately.
    pub inactive_file_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Page faults.
    pub faults: u64,
    /// Those that needed the disk.
    pub major_faults: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Cgroup {
    /// The group at a path relative to the root of each hierarchy.
    pub fn new(hierarchies: &Hierarchies, path: &str) -> Self {
        Self { hierarchies: hierarchies.clone(), path: PathBuf::from(path.trim_start_matches('/')) }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mounts = self.hierarchies.legacy.iter().map(|(_, at)| at);
        mounts.chain(&self.hierarchies.unified).map(|at| at.join(&self.path)).collect()
    }

    fn file(&self, controller: &str, name: &str) -> io::Result<PathBuf> {
        match self.hierarchies.mount_of(controller) {
            Some(mount) => Ok(mount.join(&self.path).join(name)),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup hierarchy has {controller}"))),
        }
    }

    fn read(&self, controller: &str, name: &str) -> io::Result<String> {
        std::fs::read_to_string(self.file(controller, name)?)
    }

    fn is_v2(&self) -> bool {
        self.hierarchies.version() == 2
    }

    /// Its processes, those of groups below it included.
    pub fn pids(&self) -> Vec<u32> {
        let controller = if self.is_v2() { "" } else { "devices" };
        let folder = self.hierarchies.mount_of(controller).map(|at| at.join(&self.path));
        let mut pids = Vec::new();
        for folder in folder.map(|f| with_below(&f)).unwrap_or_default() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|&pid| pid > 0));
        }
        pids
    }

    /// Sends a signal to all its processes. SIGKILL reaches also those that are born meanwhile.
    pub fn signal_all(&self, signal: Signal) {
        if signal == Signal::SIGKILL
            && self.is_v2()
            && self.file("", "cgroup.kill").is_ok_and(|file| std::fs::write(file, "1").is_ok())
        {
            return;
        }
        let mut seen = Vec::new();
        loop {
            let new: Vec<u32> = self.pids().into_iter().filter(|pid| !seen.contains(pid)).collect();
            if new.is_empty() {
                return;
            }
            for pid in &new {
                let _ = kill(Pid::from_raw(*pid as i32), signal);
            }
            seen.extend(new);
            if signal != Signal::SIGKILL {
                return;
            }
        }
    }

    /// Removes the group and those below it; what doesn't exist is no failure. Blocks a few milliseconds when the
    /// kernel is not done with the last process.
    pub fn remove(&self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root cgroup can't be removed"));
        }
        for folder in self.folders() {
            for group in with_below(&folder).into_iter().rev() {
                remove_folder(&group)?;
            }
        }
        Ok(())
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let text = self.read("memory", file).unwrap_or_default();
        keyed(&text).get("oom_kill").copied().unwrap_or(0)
    }

    /// What it uses.
    pub fn usage(&self) -> io::Result<Usage> {
        let pids = self.read("pids", "pids.current").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        let text = self.read("memory", "memory.stat")?;
        let memory = keyed(&text);
        let of = |name: &str| memory.get(name).copied().unwrap_or(0);
        let number = |text: io::Result<String>| -> io::Result<u64> {
            text?.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        };
        if self.is_v2() {
            let cpu = self.read("cpu", "cpu.stat")?;
            return Ok(Usage {
                cpu_ns: keyed(&cpu).get("usage_usec").copied().unwrap_or(0) * 1000,
                memory_bytes: number(self.read("memory", "memory.current"))?,
                inactive_file_bytes: of("inactive_file"),
                rss_bytes: of("anon"),
                faults: of("pgfault"),
                major_faults: of("pgmajfault"),
                pids,
            });
        }
        Ok(Usage {
            cpu_ns: number(self.read("cpuacct", "cpuacct.usage"))?,
            memory_bytes: number(self.read("memory", "memory.usage_in_bytes"))?,
            inactive_file_bytes: of("total_inactive_file"),
            rss_bytes: of("total_rss"),
            faults: of("total_pgfault"),
            major_faults: of("total_pgmajfault"),
            pids,
        })
    }

    /// Applies new limits.
    pub fn update(&self, resources: &oci_spec::runtime::LinuxResources) -> io::Result<()> {
        let memory_now = self.read("memory", "memory.limit_in_bytes").ok().and_then(|t| t.trim().parse().ok());
        for write in super::limits::plan(resources, self.hierarchies.version(), memory_now) {
            let file = self.file(write.controller, &write.file)?;
            match std::fs::write(&file, &write.value) {
                Ok(()) => {}
                // A kernel that doesn't account swap has no such file, and no swap for containers either.
                Err(error) if error.kind() == io::ErrorKind::NotFound && write.file.contains("sw") => {}
                Err(error) => {
                    let text = format!("writing {} to {}: {error}", write.value, file.display());
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(())
    }
}

/// A folder and those below it, parents first.
fn with_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        if let Ok(entries) = std::fs::read_dir(&folder) {
            open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
            found.push(folder);
        }
    }
    found
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    let mut pause = Duration::from_micros(250);
    for _ in 0..REMOVE_ATTEMPTS_MAX {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                for line in std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                    if let Ok(pid @ 1..) = line.parse() {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("cgroup {} still has processes", folder.display())))
}

/// Lines of a name and a number.
fn keyed(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k, v.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn versions() {
        assert_eq!(Hierarchies::parse(HYBRID).version(), 1);
        assert_eq!(Hierarchies::parse(UNIFIED).version(), 2);
    }

    #[test]
    fn joining() {
        let cases = [
            (
                HYBRID,
                "4:memory:/pod/c\n2:cpu,cpuacct:/pod/c\n1:name=systemd:/\n0::/\n",
                vec![
                    "/sys/fs/cgroup/memory/pod/c/cgroup.procs",
                    "/sys/fs/cgroup/cpu,cpuacct/pod/c/cgroup.procs",
                    "/sys/fs/cgroup/systemd/cgroup.procs",
                    "/sys/fs/cgroup/unified/cgroup.procs",
                ],
            ),
            (UNIFIED, "0::/pod/c\n", vec!["/sys/fs/cgroup/pod/c/cgroup.procs"]),
        ];
        for (mounts, groups, expect) in cases {
            let expect: Vec<PathBuf> = expect.into_iter().map(PathBuf::from).collect();
            assert_eq!(join_files(&Hierarchies::parse(mounts), groups), expect);
        }
    }
}
