//! End-to-end suites over real processes.
