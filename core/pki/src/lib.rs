//! Keys, certificates, tokens and kubeconfigs.
