//! Scripts for the `nft` command: each is one transaction of the kernel.
//!
//! The command's own cost grows with the number of chains on the machine but not with what sets and maps hold, so
//! what changes often is kept in sets and maps.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::NetworkError;

/// A script that the kernel needs longer for than this has met a lock that nobody gives back.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(30);
/// How much of what `nft` complains about is kept, in bytes.
const COMPLAINT_BYTES_MAX: usize = 2000;

/// Applies a script as one transaction: all of it or nothing. `subject` names what it is for.
pub(crate) async fn apply(subject: &str, script: &str) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::System { operation: "run nft for", object: subject.to_owned(), source };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A script that is refused half-way breaks the pipe; the complaint says more than that.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = tokio::time::timeout(SCRIPT_TIME_MAX, child.wait_with_output())
        .await
        .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = &output.stderr[..output.stderr.len().min(COMPLAINT_BYTES_MAX)];
    Err(NetworkError::Ruleset {
        subject: subject.to_owned(),
        complaint: String::from_utf8_lossy(complaint).trim().to_owned(),
    })
}

/// Removes a table (`inet NAME`, say) with all that is in it; one that isn't there is no failure.
pub(crate) async fn remove_table(table: &str) -> Result<(), NetworkError> {
    apply(table, &format!("add table {table}\ndelete table {table}\n")).await
}
