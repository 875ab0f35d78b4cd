//! The state store: revisions, transactions, watches.
