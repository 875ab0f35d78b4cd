//! What of Debian's packages the build and the suites need. Only what is missing is installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run_to_end;

/// A package, and a file that shows that it is there (from the package or from elsewhere).
pub struct Package {
    name: &'static str,
    shows: &'static [&'static str],
}

const fn package(name: &'static str, shows: &'static [&'static str]) -> Package {
    Package { name, shows }
}

/// To build.
pub const BUILD: &[&[Package]] = &[BUILD_PACKAGES];
/// To build and run a node.
pub const RUN: &[&[Package]] = &[BUILD_PACKAGES, RUN_PACKAGES];
/// To compile the plugins where rustup can't bring their target.
pub const GUEST: &[&[Package]] = &[GUEST_PACKAGES];
/// To run every suite.
pub const TEST: &[&[Package]] = &[BUILD_PACKAGES, RUN_PACKAGES, TEST_PACKAGES];

const BUILD_PACKAGES: &[Package] = &[
    package("gcc", &["/usr/bin/cc"]),
    package("libc6-dev", &["/usr/include/stdio.h"]),
    package("pkg-config", &["/usr/bin/pkg-config"]),
    package("libseccomp-dev", &["/usr/include/seccomp.h"]),
    package("protobuf-compiler", &["/usr/bin/protoc"]),
    // The well-known types that etcd's definitions import: only recommended by protobuf-compiler.
    package("libprotobuf-dev", &["/usr/include/google/protobuf/descriptor.proto"]),
];

const GUEST_PACKAGES: &[Package] = &[
    package("rustc-web", &["/usr/share/doc/rustc-web"]),
    package("cargo-web", &["/usr/share/doc/cargo-web"]),
    package("rust-web-src", &["/usr/share/doc/rust-web-src"]),
    package("libstd-rust-web-dev", &["/usr/share/doc/libstd-rust-web-dev"]),
    package("lld-22", &["/usr/bin/wasm-ld-22"]),
];

const RUN_PACKAGES: &[Package] = &[
    package("nftables", &["/usr/sbin/nft"]),
    package("iproute2", &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"]),
    package("conntrack", &["/usr/sbin/conntrack"]),
];

const TEST_PACKAGES: &[Package] = &[
    package("etcd-server", &["/usr/bin/etcd"]),
    package("docker-registry", &["/usr/bin/docker-registry"]),
    package("skopeo", &["/usr/bin/skopeo"]),
    package("busybox-static", &["/bin/busybox", "/usr/bin/busybox"]),
    package("python3", &["/usr/bin/python3"]),
    package("python3-venv", &["/usr/share/doc/python3-venv"]),
    package("curl", &["/usr/bin/curl"]),
    package("kubernetes-client", &["/usr/bin/kubectl", "/usr/local/bin/kubectl"]),
];

/// Installs the packages of these sets that are missing.
pub fn install(sets: &[&[Package]]) -> Result<()> {
    let missing: Vec<&str> = sets
        .iter()
        .copied()
        .flatten()
        .filter(|package| !package.shows.iter().any(|file| Path::new(file).exists()))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("these are missing and there is no apt-get to install them with: {}", missing.join(" "));
    }
    run_to_end(Command::new("apt-get").args(["update", "--quiet"]))?;
    run_to_end(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(missing),
    )
}
