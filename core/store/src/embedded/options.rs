//! Limits and sizes of the embedded engine.

/// Limits and sizes of the embedded engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Memory for pages of the file. Reads of the present don't touch the file, so little is enough.
    pub cache_bytes: usize,
    /// Transactions that may wait for the writer; more wait to wait.
    pub waiting_transactions_max: usize,
    /// Transactions that share one sync at most.
    pub commit_transactions_max: usize,
    /// Bytes that one commit writes at most (a larger transaction is a commit of its own).
    pub commit_bytes_max: usize,
    /// The largest transaction, all keys and values of both branches together.
    pub transaction_bytes_max: usize,
    /// Operations of one branch, and conditions, as etcd's `--max-txn-ops`.
    pub transaction_ops_max: usize,
    /// The longest key.
    pub key_bytes_max: usize,
    /// Batches that wait for a slow watcher.
    pub watch_batches_max: usize,
    /// What those may keep in memory.
    pub watch_bytes_max: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 4 << 20,
            waiting_transactions_max: 4096,
            commit_transactions_max: 512,
            commit_bytes_max: 8 << 20,
            transaction_bytes_max: 4 << 20,
            transaction_ops_max: 128,
            key_bytes_max: 32 << 10,
            watch_batches_max: 16_384,
            watch_bytes_max: 64 << 20,
        }
    }
}
