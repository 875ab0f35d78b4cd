//! What each sandbox was given, a small file each.
//!
//! A file is replaced in one step, so that a killed process leaves the old one or the new one. It isn't forced to
//! disk: what it describes is gone when the kernel is.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;
use crate::pod_network::HostPort;

/// What a sandbox was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) sandbox_id: String,
    pub(super) ips: Vec<IpAddr>,
    /// The node's end of its link.
    pub(super) link: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) host_ports: Vec<HostPort>,
    /// Grows with every attachment: the address given last is known again after a restart.
    pub(super) sequence: u64,
}

#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    pub(super) fn open(folder: PathBuf) -> Result<Self, NetworkError> {
        fs::create_dir_all(&folder).map_err(NetworkError::system("create", folder.display()))?;
        Ok(Self { folder })
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.folder.join(format!("{sandbox_id}.json"))
    }

    /// All records, in the order in which they were written first.
    pub(super) fn load(&self) -> Result<Vec<Record>, NetworkError> {
        let mut records = HashMap::new();
        let entries = fs::read_dir(&self.folder).map_err(NetworkError::system("list", self.folder.display()))?;
        for entry in entries {
            let path = entry.map_err(NetworkError::system("list", self.folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let record: Record = read(&path)?;
                records.insert(record.sandbox_id.clone(), record);
            } else {
                // The rest of an interrupted write.
                fs::remove_file(&path).map_err(NetworkError::system("remove", path.display()))?;
            }
        }
        let mut records: Vec<Record> = records.into_values().collect();
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), NetworkError> {
        let path = self.path(&record.sandbox_id);
        let fresh = path.with_extension("new");
        let failed = NetworkError::system("write", path.display());
        serde_json::to_vec(record)
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&fresh, bytes))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(failed)
    }

    pub(super) fn remove(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        let path = self.path(sandbox_id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(NetworkError::system("remove", path.display())(error))
            }
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Record, NetworkError> {
    let bytes = fs::read(path).map_err(NetworkError::system("read", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|source| NetworkError::Record { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::open(folder.path().join("attachments")).expect("a folder for records");
        let record = |id: &str, sequence| Record {
            sandbox_id: id.to_owned(),
            ips: vec!["10.244.0.2".parse().expect("an address")],
            link: "veth0af40002".to_owned(),
            host_ports: vec![HostPort {
                host_ip: None,
                host_port: 80,
                container_port: 8080,
                protocol: "TCP".to_owned(),
            }],
            sequence,
        };
        records.write(&record("b", 1)).expect("written");
        records.write(&record("a", 2)).expect("written");
        fs::write(folder.path().join("attachments/c.new"), "{\"sandb").expect("an interrupted write");
        assert_eq!(records.load().expect("loaded"), [record("b", 1), record("a", 2)]);
        records.remove("b").expect("removed");
        records.remove("b").expect("nothing there is no failure");
        assert_eq!(records.load().expect("loaded"), [record("a", 2)]);
        assert!(!folder.path().join("attachments/c.new").exists());
    }
}
