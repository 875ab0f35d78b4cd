//! Types and calls generated from the contracts in `plugins/wit`.
//!
//! The scheduler contract is not here: its types are written by hand in `contract::scheduler`,
//! where they borrow from the caller, as its calls must take microseconds.
#![allow(missing_docs)]

/// The runtime contract and the host capabilities.
pub mod runtime {
    wasmtime::component::bindgen!({
        path: ["../../plugins/wit/host", "../../plugins/wit/runtime"],
        world: "gantry:runtime/runtime-plugin@0.1.0",
        imports: { default: async | trappable },
        exports: { default: async },
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

/// The volume contract.
pub mod volume {
    wasmtime::component::bindgen!({
        path: ["../../plugins/wit/host", "../../plugins/wit/volume"],
        world: "gantry:volume/volume-plugin@0.1.0",
        imports: { default: async | trappable },
        exports: { default: async },
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: { "gantry:host": crate::bindings::runtime::gantry::host },
    });
}
