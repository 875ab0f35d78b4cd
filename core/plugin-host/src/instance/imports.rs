//! The interfaces of `gantry:host` as an asynchronous component calls them. What was not granted isn't linked; the
//! checks here are the second lock.

use std::{future::Future, path::Path, sync::Arc, time::Instant};

use wasmtime::Result;

use super::InstanceState;
use crate::{
    bindings::runtime::gantry::host::{folder, log, mounts, namespaces, oci_bundle, process, rootfs, types},
    capability::{
        self, BundleState, BundleStats, CapabilityError, CapabilityResult, ErrorCode, KeyValue, MountOptions,
        Namespace, NamespaceKind, RootfsOptions, RootfsUsage, Stdio, folder::Folders,
    },
};

impl InstanceState {
    /// Works for the plugin; its clock stands still meanwhile.
    async fn work<T>(&mut self, work: impl Future<Output = CapabilityResult<T>> + Send) -> Result<CapabilityResult<T>> {
        self.meter.pause(Instant::now());
        self.running = None;
        let outcome = work.await;
        self.running = Some(self.machine.running());
        self.meter.resume(Instant::now());
        Ok(outcome)
    }

    /// The same for work with files, on a thread that may block.
    async fn work_with_files<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Folders) -> CapabilityResult<T> + Send + 'static,
    ) -> Result<CapabilityResult<T>> {
        let folders = self.powers.folders.clone();
        self.work(async move {
            tokio::task::spawn_blocking(move || work(&folders)).await.unwrap_or_else(|error| {
                Err(CapabilityError::new(ErrorCode::Internal, format!("the operation on files broke off: {error}")))
            })
        })
        .await
    }

    fn check_mount(&self, source: Option<&str>, target: &str) -> CapabilityResult<()> {
        self.powers.check_mount_target(target, &self.call_paths)?;
        source.map_or(Ok(()), |source| self.powers.check_mount_source(source, &self.call_paths))
    }
}

fn granted<T: ?Sized>(power: &Option<Arc<T>>, name: &str) -> CapabilityResult<Arc<T>> {
    power.clone().ok_or_else(|| CapabilityError::new(ErrorCode::Denied, format!("{name} is not granted")))
}

/// An id names a folder: it must be a single, plain part of a path.
fn check_id(id: &str) -> CapabilityResult<()> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !id.is_empty() && id.len() <= 253 && plain && !id.starts_with('.') {
        return Ok(());
    }
    Err(CapabilityError::new(ErrorCode::Invalid, format!("id {id:?}: up to 253 letters, digits, `-`, `_` and `.`")))
}

impl types::Host for InstanceState {}

impl log::Host for InstanceState {
    async fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        self.log.write(&self.plugin, level, &message);
        Ok(())
    }
}

/// A function that is handed on to the trait of the same name, for the object with an id.
macro_rules! hand_on {
    ($power:ident, $interface:literal, $name:ident($id:ident $(, $argument:ident: $type:ty)*) -> $answer:ty) => {
        hand_on!($power, $interface, $name = $name($id $(, $argument: $type as $argument)*) -> $answer);
    };
    ($power:ident, $interface:literal, $name:ident = $method:ident(
        $id:ident $(, $argument:ident: $type:ty as $passed:expr)*) -> $answer:ty) => {
        async fn $name(&mut self, $id: String $(, $argument: $type)*) -> Result<CapabilityResult<$answer>> {
            let power = granted(&self.powers.$power, $interface);
            self.work(async move {
                check_id(&$id)?;
                power?.$method(&$id $(, $passed)*).await
            })
            .await
        }
    };
}

impl oci_bundle::Host for InstanceState {
    hand_on!(bundles, "oci-bundle", write = write(id, config: String as &config) -> ());
    hand_on!(bundles, "oci-bundle", read(id) -> String);
    hand_on!(bundles, "oci-bundle", create = create(id, stdio: Stdio as &stdio) -> u32);
    hand_on!(bundles, "oci-bundle", start(id) -> ());
    hand_on!(bundles, "oci-bundle", kill(id, signal: u32, all: bool) -> ());
    hand_on!(bundles, "oci-bundle", wait(id, timeout_ms: u32) -> Option<i32>);
    hand_on!(bundles, "oci-bundle", delete(id, force: bool) -> ());
    hand_on!(bundles, "oci-bundle", state(id) -> BundleState);
    hand_on!(bundles, "oci-bundle", update = update(id, resources: String as &resources) -> ());
    hand_on!(bundles, "oci-bundle", stats(id) -> BundleStats);

    async fn list(&mut self) -> Result<CapabilityResult<Vec<BundleState>>> {
        let bundles = granted(&self.powers.bundles, "oci-bundle");
        self.work(async move { bundles?.list().await }).await
    }
}

impl rootfs::Host for InstanceState {
    hand_on!(rootfs, "rootfs",
        prepare = prepare(id, snapshot_key: String as &snapshot_key, options: RootfsOptions as &options) -> String);
    hand_on!(rootfs, "rootfs", remove(id) -> ());
    hand_on!(rootfs, "rootfs", read_file = read_file(id, path: String as &path, limit: u32 as limit) -> Vec<u8>);
    hand_on!(rootfs, "rootfs", usage(id) -> RootfsUsage);
}

impl namespaces::Host for InstanceState {
    hand_on!(namespaces, "namespaces", create = create(owner, kinds: Vec<NamespaceKind> as &kinds,
        hostname: String as &hostname, sysctls: Vec<KeyValue> as &sysctls) -> Vec<Namespace>);
    hand_on!(namespaces, "namespaces", get(owner) -> Vec<Namespace>);
    hand_on!(namespaces, "namespaces", remove(owner) -> ());

    async fn set_network_sysctls(&mut self, path: String, sysctls: Vec<KeyValue>) -> Result<CapabilityResult<()>> {
        let namespaces = granted(&self.powers.namespaces, "namespaces");
        let known = self.call_paths.iter().any(|known| known == Path::new(&path));
        self.work(async move {
            if !known {
                let message = format!("{path} is not the network namespace of this call");
                return Err(CapabilityError::new(ErrorCode::Denied, message));
            }
            if let Some(sysctl) = sysctls.iter().find(|sysctl| !sysctl.key.starts_with("net.")) {
                let message = format!("sysctl {} does not belong to a network namespace", sysctl.key);
                return Err(CapabilityError::new(ErrorCode::Denied, message));
            }
            namespaces?.set_network_sysctls(&path, &sysctls).await
        })
        .await
    }
}

impl mounts::Host for InstanceState {
    async fn bind(&mut self, source: String, target: String, options: MountOptions) -> Result<CapabilityResult<()>> {
        let mounts = granted(&self.powers.mounts, "mounts");
        let checked = self.check_mount(Some(&source), &target);
        self.work(async move {
            checked?;
            mounts?.bind(&source, &target, &options).await
        })
        .await
    }

    async fn mount(
        &mut self,
        source: String,
        target: String,
        file_system: String,
        options: MountOptions,
    ) -> Result<CapabilityResult<()>> {
        let mounts = granted(&self.powers.mounts, "mounts");
        let checked = self
            .check_mount(None, &target)
            .and_then(|()| self.powers.check_file_system(&file_system, &source, &self.call_paths));
        self.work(async move {
            checked?;
            mounts?.mount(&source, &target, &file_system, &options).await
        })
        .await
    }

    async fn unmount(&mut self, target: String) -> Result<CapabilityResult<()>> {
        let mounts = granted(&self.powers.mounts, "mounts");
        let checked = self.check_mount(None, &target);
        self.work(async move {
            checked?;
            mounts?.unmount(&target).await
        })
        .await
    }

    async fn is_mounted(&mut self, target: String) -> Result<CapabilityResult<bool>> {
        let mounts = granted(&self.powers.mounts, "mounts");
        let checked = self.check_mount(None, &target);
        self.work(async move {
            checked?;
            mounts?.is_mounted(&target).await
        })
        .await
    }
}

impl folder::Host for InstanceState {
    async fn path(&mut self, folder: String, path: String) -> Result<CapabilityResult<String>> {
        Ok(self.powers.folders.path(&folder, &path))
    }

    async fn read(&mut self, folder: String, path: String) -> Result<CapabilityResult<Vec<u8>>> {
        self.work_with_files(move |folders| folders.read(&folder, &path)).await
    }

    async fn write(&mut self, folder: String, path: String, content: Vec<u8>) -> Result<CapabilityResult<()>> {
        self.work_with_files(move |folders| folders.write(&folder, &path, &content)).await
    }

    async fn list(&mut self, folder: String, path: String) -> Result<CapabilityResult<Vec<folder::Entry>>> {
        self.work_with_files(move |folders| folders.list(&folder, &path)).await
    }

    async fn make(&mut self, folder: String, path: String, mode: u32) -> Result<CapabilityResult<()>> {
        self.work_with_files(move |folders| folders.make(&folder, &path, mode)).await
    }

    async fn remove(&mut self, folder: String, path: String) -> Result<CapabilityResult<()>> {
        self.work_with_files(move |folders| folders.remove(&folder, &path)).await
    }

    async fn rename(&mut self, folder: String, from: String, to: String) -> Result<CapabilityResult<()>> {
        self.work_with_files(move |folders| folders.rename(&folder, &from, &to)).await
    }

    async fn exists(&mut self, folder: String, path: String) -> Result<CapabilityResult<bool>> {
        self.work_with_files(move |folders| folders.exists(&folder, &path)).await
    }

    async fn copy(&mut self, folder: String, from: String, to: String) -> Result<CapabilityResult<()>> {
        self.work_with_files(move |folders| folders.copy(&folder, &from, &to)).await
    }

    async fn usage(&mut self, folder: String) -> Result<CapabilityResult<folder::Space>> {
        self.work_with_files(move |folders| folders.usage(&folder)).await
    }

    async fn size(&mut self, folder: String, path: String) -> Result<CapabilityResult<folder::TreeSize>> {
        self.work_with_files(move |folders| folders.size(&folder, &path)).await
    }
}

impl process::Host for InstanceState {
    async fn run(&mut self, request: process::Request) -> Result<CapabilityResult<process::Output>> {
        let powers = self.powers.clone();
        self.work(async move { capability::process::run(&powers.programs, request).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_single_parts_of_a_path() {
        for id in ["a", "3f2c-9_x.y"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", ".a", "a/b", "a\0", "ä", &"a".repeat(254)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
