//! Write plugins for Gantry in Rust.
//!
//! A plugin is a crate of type `cdylib` that implements the trait of one contract and exports it:
//!
//! | contract | trait | macro |
//! | --- | --- | --- |
//! | a scheduler policy | [`scheduler::Guest`] | [`export_policy!`] |
//! | a runtime | [`runtime::Guest`] | [`export_runtime!`] |
//! | a volume driver | [`volume::Guest`] | [`export_volume_driver!`] |
//!
//! It is compiled for `wasm32-unknown-unknown` and made a component. The host's interfaces that it calls must be among
//! the capabilities of its `plugin.toml`. The meaning of every call is in the contracts: `plugins/wit`.

pub use serde;
pub use serde_json;

/// Scheduler policies.
pub mod scheduler {
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            path: ["../wit/host", "../wit/scheduler"],
            world: "gantry:scheduler/scheduler@0.1.0",
            generate_all,
            pub_export_macro: true,
            export_macro_name: "export",
            default_bindings_module: "gantry_plugin_sdk::scheduler::bindings",
        });
    }
    pub use bindings::exports::gantry::scheduler::policy::Guest;
    pub use bindings::gantry::host::log;
    pub use bindings::gantry::scheduler::types::*;
}

/// Runtimes.
pub mod runtime {
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            path: ["../wit/host", "../wit/runtime"],
            world: "gantry:runtime/runtime-plugin@0.1.0",
            generate_all,
            pub_export_macro: true,
            export_macro_name: "export",
            default_bindings_module: "gantry_plugin_sdk::runtime::bindings",
            additional_derives: [PartialEq],
        });
    }
    pub use bindings::exports::gantry::runtime::runtime::Guest;
    pub use bindings::gantry::host;
    pub use bindings::gantry::host::types::{Error, ErrorCode};
    pub use bindings::gantry::runtime::types::*;
}

/// Volume drivers.
pub mod volume {
    #[doc(hidden)]
    pub mod bindings {
        wit_bindgen::generate!({
            path: ["../wit/host", "../wit/volume"],
            world: "gantry:volume/volume-plugin@0.1.0",
            generate_all,
            pub_export_macro: true,
            export_macro_name: "export",
            default_bindings_module: "gantry_plugin_sdk::volume::bindings",
            additional_derives: [PartialEq],
        });
    }
    pub use bindings::exports::gantry::volume::driver::Guest;
    pub use bindings::gantry::host;
    pub use bindings::gantry::host::types::{Error, ErrorCode};
    pub use bindings::gantry::volume::types::*;
}

/// Exports a type as the plugin's scheduler policy.
#[macro_export]
macro_rules! export_policy {
    ($type:ident) => {
        $crate::scheduler::bindings::export!($type with_types_in $crate::scheduler::bindings);
    };
}

/// Exports a type as the plugin's runtime.
#[macro_export]
macro_rules! export_runtime {
    ($type:ident) => {
        $crate::runtime::bindings::export!($type with_types_in $crate::runtime::bindings);
    };
}

/// Exports a type as the plugin's volume driver.
#[macro_export]
macro_rules! export_volume_driver {
    ($type:ident) => {
        $crate::volume::bindings::export!($type with_types_in $crate::volume::bindings);
    };
}
