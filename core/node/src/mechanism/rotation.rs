//! Rotation of containers' log files, by the kubelet's rules: the newest rotated file stays as it is, older ones are
//! compressed, the oldest go.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Mechanism;
use super::container::Container;
use super::protocol::ShimCommand;

/// What to do with the rotated files of a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// `names` are those in the folder that start with the log's name and a point; `files_max` counts the current one.
fn plan(mut names: Vec<String>, files_max: usize) -> Plan {
    let mut plan = Plan::default();
    names.sort();
    // Left by a process that died over it.
    names.retain(|name| {
        let unfinished = name.ends_with(".tmp");
        if unfinished {
            plan.remove.push(name.clone());
        }
        !unfinished
    });
    // The current file and the one it is about to become are still to be counted.
    let keep = files_max.saturating_sub(2);
    let excess = names.len().saturating_sub(keep);
    plan.remove.extend(names.drain(..excess));
    plan.compress = names.into_iter().filter(|name| !name.ends_with(".gz")).collect();
    plan
}

fn compress(path: &Path) -> io::Result<()> {
    let name = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let temporary = name(".tmp");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&temporary)?, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&temporary, name(".gz"))?;
    std::fs::remove_file(path)
}

/// Makes room and moves the current file away; returns where to.
fn rotate(log: &Path, files_max: usize) -> io::Result<PathBuf> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's path"));
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let plan = plan(entries.filter(|entry| entry.starts_with(&prefix)).collect(), files_max);
    for name in plan.remove {
        std::fs::remove_file(folder.join(name))?;
    }
    for name in plan.compress {
        compress(&folder.join(name))?;
    }
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S.%6f").to_string();
    let moved = PathBuf::from(format!("{}.{now}", log.display()));
    std::fs::rename(log, &moved)?;
    Ok(moved)
}

impl Mechanism {
    /// Rotates the log of a container if it is beyond its limit.
    pub(super) async fn rotate_when_full(&self, container: &Arc<Container>) {
        let Some(config) = container.config.lock().clone() else { return };
        let Some(log) = &config.log_path else { return };
        if tokio::fs::metadata(log).await.is_ok_and(|log| log.len() >= config.log_limit_bytes.max(1)) {
            self.rotate(container).await;
        }
    }

    /// Rotates the log of a container whose shim says that it is full.
    pub(super) async fn rotate(&self, container: &Arc<Container>) {
        let Some(log) = container.config.lock().as_ref().and_then(|config| config.log_path.clone()) else { return };
        let _gate = self.inner.gates.enter(format!("log {}", container.id)).await;
        let files_max = self.inner.options.log_files_max.max(2);
        let path = log.clone();
        let moved = match tokio::task::spawn_blocking(move || rotate(&path, files_max)).await {
            Ok(Ok(moved)) => moved,
            Ok(Err(error)) => {
                tracing::warn!(container = container.id, log = %log.display(), %error, "could not rotate the log");
                return;
            }
            Err(_) => return,
        };
        if let Err(error) = container.ask(ShimCommand::ReopenLog).await {
            // The shim writes on into the moved file: it gets its name back.
            tracing::warn!(container = container.id, error = error.message, "could not reopen the log");
            let _ = tokio::fs::rename(moved, log).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], files_max: usize, remove: &[&str], compress: &[&str]) {
        let plan = plan(names.iter().map(|n| (*n).to_owned()).collect(), files_max);
        assert_eq!(plan.remove, remove);
        assert_eq!(plan.compress, compress);
    }

    #[test]
    fn what_stays() {
        check(&[], 5, &[], &[]);
        check(&["0.log.1"], 5, &[], &["0.log.1"]);
        check(&["0.log.2", "0.log.1.gz"], 5, &[], &["0.log.2"]);
        check(&["0.log.1.gz", "0.log.2.gz", "0.log.3.gz", "0.log.4"], 5, &["0.log.1.gz"], &["0.log.4"]);
        check(&["0.log.1", "0.log.2"], 2, &["0.log.1", "0.log.2"], &[]);
        check(&["0.log.1.tmp", "0.log.1"], 5, &["0.log.1.tmp"], &["0.log.1"]);
    }
}
