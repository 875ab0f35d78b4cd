//! What can go wrong with the network.

/// Every failure names the operation and the object.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The system refused an operation.
    #[error("{operation} {object}: {source}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// All addresses of the node's range are taken.
    #[error("no free pod address left in {range}")]
    AddressesExhausted {
        /// The node's range.
        range: String,
    },
}
