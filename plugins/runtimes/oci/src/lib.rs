//! Linux containers by the OCI runtime specification.
//!
//! A sandbox has no process: its namespaces belong to the host, its record to the folder `state`, its /dev/shm is a
//! tmpfs there. A container is a bundle, whose annotations say all that CRI wants to know of it.
//!
//! - `sandboxes`, `containers`: the calls, with the host's help
//! - `spec`: config.json, a function of what was asked for
//! - `user`, `capabilities`, `seccomp`, `signal`: its harder parts
//! - `record`: what is written down

mod capabilities;
mod containers;
mod record;
mod sandboxes;
mod seccomp;
mod signal;
mod spec;
#[cfg(test)]
mod spec_tests;
mod user;

use std::sync::OnceLock;

use gantry_plugin_sdk::{
    export_runtime,
    runtime::{
        ContainerConfig, ContainerStats, ContainerStatus, Error, ErrorCode, ExecPlan, ExecRequest, Guest, HostFacts,
        Resources, SandboxConfig, SandboxStatus,
    },
};

static FACTS: OnceLock<HostFacts> = OnceLock::new();

fn facts() -> Result<&'static HostFacts, Error> {
    FACTS.get().ok_or_else(|| error(ErrorCode::Internal, "init was not called"))
}

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error { code, message: message.into() }
}

struct Oci;

impl Guest for Oci {
    fn init(_settings: String, facts: HostFacts) -> Result<(), Error> {
        FACTS.get_or_init(|| facts);
        Ok(())
    }

    fn run_sandbox(id: String, config: SandboxConfig) -> Result<(), Error> {
        sandboxes::run(&id, &config)
    }

    fn stop_sandbox(id: String) -> Result<(), Error> {
        sandboxes::stop(&id)
    }

    fn remove_sandbox(id: String) -> Result<(), Error> {
        sandboxes::remove(&id)
    }

    fn inspect_sandbox(id: String) -> Result<SandboxStatus, Error> {
        sandboxes::inspect(&id)
    }

    fn list_sandboxes() -> Result<Vec<SandboxStatus>, Error> {
        sandboxes::list()
    }

    fn create_container(sandbox_id: String, id: String, config: ContainerConfig) -> Result<(), Error> {
        containers::create(facts()?, &sandbox_id, &id, &config)
    }

    fn start_container(id: String) -> Result<(), Error> {
        gantry_plugin_sdk::runtime::host::oci_bundle::start(&id)
    }

    fn stop_container(id: String, grace_milliseconds: u32) -> Result<(), Error> {
        containers::stop(&id, grace_milliseconds)
    }

    fn remove_container(id: String) -> Result<(), Error> {
        containers::remove(&id)
    }

    fn inspect_container(id: String) -> Result<ContainerStatus, Error> {
        containers::inspect(&id)
    }

    fn list_containers() -> Result<Vec<ContainerStatus>, Error> {
        containers::list()
    }

    fn exec_spec(id: String, request: ExecRequest) -> Result<ExecPlan, Error> {
        containers::exec(&id, &request)
    }

    fn update_resources(id: String, resources: Resources) -> Result<(), Error> {
        containers::update(&id, &resources)
    }

    fn stats(id: String) -> Result<ContainerStats, Error> {
        containers::stats(&id)
    }
}

export_runtime!(Oci);
