//! What the server itself writes when it starts: the objects that must exist, and what services hold.

use std::collections::HashSet;
use std::net::IpAddr;

use async_trait::async_trait;
use gantry_api::error::ApiError;
use gantry_api::object::{Object, str_at};
use gantry_api::resources::Resource;
use gantry_store::{Op, Txn};

use super::options::DeleteOptions;
use super::services::{address_object, cluster_addresses, node_ports};
use super::update::Door;
use super::{Call, Registry, keys, store_error};
use crate::auth::UserInfo;
use crate::bootstrap::{self, Writer};

/// Writes as the server's own user.
pub struct SystemWriter<'a> {
    registry: &'a Registry,
    user: UserInfo,
}

impl<'a> SystemWriter<'a> {
    /// A writer on a registry.
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, user: bootstrap::user() }
    }

    fn call<'c>(
        &'c self,
        resource: &'static Resource,
        namespace: &'c str,
        name: &'c str,
        subresource: &'c str,
    ) -> Call<'c> {
        Call { resource, namespace, name, subresource, user: &self.user, dry_run: false }
    }
}

#[async_trait]
impl Writer for SystemWriter<'_> {
    async fn create(&self, resource: &'static Resource, namespace: &str, object: Object) -> Result<Object, ApiError> {
        let (entry, _) = self.registry.create(&self.call(resource, namespace, "", ""), object).await?;
        Ok(self.registry.current_of(resource, &entry.value, entry.revision)?.object)
    }

    async fn update(
        &self,
        resource: &'static Resource,
        subresource: &str,
        namespace: &str,
        name: &str,
        object: Object,
    ) -> Result<Object, ApiError> {
        let door = if subresource == "status" { Door::Status } else { Door::Main };
        let written = self.registry.replace(&self.call(resource, namespace, name, subresource), object, door).await?;
        Ok(self.registry.current_of(resource, &written.entry.value, written.entry.revision)?.object)
    }

    async fn delete(&self, resource: &'static Resource, namespace: &str, name: &str) -> Result<(), ApiError> {
        self.registry.delete(&self.call(resource, namespace, name, ""), &DeleteOptions::default()).await.map(|_| ())
    }
}

impl Registry {
    /// Makes the records of addresses and ports agree with the services: what a service has and no record says is
    /// recorded, and a record whose service is gone is dropped.
    pub async fn reconcile_services(&self) -> Result<(), ApiError> {
        let (Some(services), Some(addresses)) =
            (self.caches.named("", "services"), self.caches.named("networking.k8s.io", "ipaddresses"))
        else {
            return Ok(());
        };
        let applied = self.caches.applied.revision();
        let mut ops = Vec::new();
        let mut held: HashSet<IpAddr> = HashSet::new();
        let mut ports: HashSet<u16> = HashSet::new();
        let known_ports = self.caches.node_ports.read().clone();
        for entry in services.cache.snapshot(applied).items.values() {
            let service = entry.decode().map_err(ApiError::internal)?;
            for address in cluster_addresses(&service) {
                if held.insert(address) && addresses.cache.get(&address.to_string()).is_none() {
                    let (key, value) = address_object(address, entry.namespace(), entry.name())?;
                    ops.push(Op::put(key, value));
                }
            }
            for port in node_ports(&service) {
                if ports.insert(port) && !known_ports.contains(&port) {
                    ops.push(Op::put(keys::node_port(port), entry.key.to_string()));
                }
            }
        }
        for entry in addresses.cache.snapshot(applied).items.values() {
            let address = entry.decode().map_err(ApiError::internal)?;
            let ours = address
                .pointer("/metadata/labels/ipaddress.kubernetes.io~1managed-by")
                .is_some_and(|by| by == "ipallocator.k8s.io");
            let gone = entry.name().parse().is_ok_and(|address: IpAddr| !held.contains(&address));
            if ours && gone && str_at(&address, "spec.parentRef.resource") == "services" {
                ops.push(Op::delete(format!("{}{}", addresses.prefix, entry.key)));
            }
        }
        ops.extend(known_ports.difference(&ports).map(|port| Op::delete(keys::node_port(*port))));
        for batch in ops.chunks(64) {
            let answer =
                self.store.txn(Txn { success: batch.to_vec(), ..Txn::default() }).await.map_err(store_error)?;
            self.caches.applied.wait_for(answer.revision).await;
        }
        Ok(())
    }
}
