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
    /// A setting makes no sense.
    #[error("invalid network setting {setting}: {reason}")]
    Setting {
        /// Which one, with its value.
        setting: String,
        /// Why.
        reason: &'static str,
    },
    /// A file of the state folder doesn't hold what was written to it.
    #[error("read {path}: {source}; remove the file to give up what it describes")]
    Record {
        /// The file.
        path: String,
        /// What was wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// nftables refused a set of rules.
    #[error("nftables rules of {subject} refused: {complaint}")]
    Ruleset {
        /// Whose rules.
        subject: String,
        /// What `nft` said.
        complaint: String,
    },
    /// The cluster refused a request.
    #[error("{operation} {object}: {source}")]
    Cluster {
        /// What was being done.
        operation: &'static str,
        /// To which object.
        object: String,
        /// The API's word.
        #[source]
        source: Box<kube::Error>,
    },
    /// The node has no pod range yet.
    #[error("the pod network isn't ready: the node has no pod range yet")]
    NotReady,
}

impl NetworkError {
    /// A failure of the system, for use with `map_err`.
    pub(crate) fn system<E: Into<std::io::Error>>(
        operation: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(E) -> Self {
        let object = object.to_string();
        move |source| Self::System { operation, object, source: source.into() }
    }

    /// A failure that netlink reported, for use with `map_err`.
    pub(crate) fn netlink(operation: &'static str, object: impl ToString) -> impl FnOnce(rtnetlink::Error) -> Self {
        let object = object.to_string();
        move |error| {
            let source = match error {
                rtnetlink::Error::NetlinkError(message) => message.to_io(),
                other => std::io::Error::other(other),
            };
            Self::System { operation, object, source }
        }
    }
}
