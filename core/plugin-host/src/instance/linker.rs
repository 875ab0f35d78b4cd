//! What a component can reach: only granted interfaces are linked, and it is told at once which one it lacks.

use wasmtime::{
    Engine, StoreContextMut,
    component::{Component, HasSelf, InstancePre, Linker, types::ComponentItem},
};

use super::InstanceState;
use crate::{
    Grant, Kind, PluginError,
    bindings::runtime::gantry::host::{folder, log, mounts, namespaces, oci_bundle, process, rootfs, types},
};

/// Prefix of the interfaces that the host offers.
const HOST: &str = "gantry:host/";

/// Checks a component against its kind and its grant and links it.
pub(crate) fn link(
    engine: &Engine,
    component: &Component,
    plugin: &str,
    kind: Kind,
    grant: &Grant,
) -> Result<InstancePre<InstanceState>, PluginError> {
    let broken = |reason: String| PluginError::Component { plugin: plugin.to_owned(), reason };
    check(engine, component, plugin, kind, grant)?;
    let linker = match kind {
        Kind::Scheduler => sync_linker(engine),
        Kind::Runtime | Kind::Volume => async_linker(engine, grant),
    }
    .map_err(|error| broken(format!("{error:#}")))?;
    linker.instantiate_pre(component).map_err(|error| broken(format!("{error:#}")))
}

fn check(engine: &Engine, component: &Component, plugin: &str, kind: Kind, grant: &Grant) -> Result<(), PluginError> {
    let broken = |reason: String| PluginError::Component { plugin: plugin.to_owned(), reason };
    let of_kind = format!("gantry:{kind}/");
    for (import, item) in component.component_type().imports(engine) {
        if import.starts_with(&of_kind) && is_only_types(engine, &item.ty) {
            continue;
        }
        let Some(interface) = import.strip_prefix(HOST) else {
            return Err(broken(format!("it imports {import}, which is no part of the contract")));
        };
        let name = interface.split('@').next().unwrap_or_default();
        if !grant.opens(name) {
            return Err(PluginError::NotGranted { plugin: plugin.to_owned(), import: import.to_owned() });
        }
    }
    if component.get_export_index(None, kind.export()).is_none() {
        return Err(broken(format!("it does not export {}", kind.export())));
    }
    Ok(())
}

fn is_only_types(engine: &Engine, item: &ComponentItem) -> bool {
    match item {
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(engine).all(|(_, item)| matches!(item.ty, ComponentItem::Type(_)))
        }
        _ => false,
    }
}

fn sync_linker(engine: &Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    linker.instance("gantry:host/log@0.1.0")?.func_wrap(
        "write",
        |mut store: StoreContextMut<'_, InstanceState>, (level, message): (log::Level, String)| {
            let state = store.data_mut();
            state.log.write(&state.plugin, level, &message);
            Ok(())
        },
    )?;
    Ok(linker)
}

fn async_linker(engine: &Engine, grant: &Grant) -> wasmtime::Result<Linker<InstanceState>> {
    type State = HasSelf<InstanceState>;
    let mut linker = Linker::new(engine);
    types::add_to_linker::<_, State>(&mut linker, |state| state)?;
    log::add_to_linker::<_, State>(&mut linker, |state| state)?;
    if grant.opens("oci-bundle") {
        oci_bundle::add_to_linker::<_, State>(&mut linker, |state| state)?;
    }
    if grant.opens("rootfs") {
        rootfs::add_to_linker::<_, State>(&mut linker, |state| state)?;
    }
    if grant.opens("namespaces") {
        namespaces::add_to_linker::<_, State>(&mut linker, |state| state)?;
    }
    if grant.opens("mounts") {
        mounts::add_to_linker::<_, State>(&mut linker, |state| state)?;
    }
    if grant.opens("folder") {
        folder::add_to_linker::<_, State>(&mut linker, |state| state)?;
    }
    if grant.opens("process") {
        process::add_to_linker::<_, State>(&mut linker, |state| state)?;
    }
    Ok(linker)
}
