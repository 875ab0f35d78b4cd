//! Making and stopping a pod's sandbox, and the files that belong to it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use gantry_network::HostPort;
use gantry_plugin_host::ErrorCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::PodWorker;
use crate::dns::{self, ClusterDns};
use crate::observed::SandboxRecord;
use crate::pod;
use crate::sandbox_config::{SandboxInputs, sandbox_config};

/// 64 hexadecimal digits, as OCI runtimes' custom is.
pub fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let all = pod::init_containers(pod).iter().chain(pod::containers(pod));
    all.flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
            Some(HostPort {
                host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
                host_port: u16::try_from(port.host_port.filter(|number| *number > 0)?).ok()?,
                container_port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            })
        })
        .collect()
}

fn write(path: &Path, content: &str) -> Result<(), String> {
    // In place: running containers have this very file mounted.
    fs::write(path, content).map_err(|error| format!("write {}: {error}", path.display()))
}

impl PodWorker {
    /// Makes the pod's sandbox.
    ///
    /// # Errors
    /// Why not, after the words of upstream's event.
    pub(super) async fn create_sandbox(&mut self, attempt: u32) -> Result<(), String> {
        let context = self.context.clone();
        let runtime = self.runtime()?;
        let pod = self.pod.clone();
        let id = new_id();
        let (host, domain) = dns::names(&pod, &context.config.hostname, &context.config.cluster_domain);
        let hostname = dns::kernel_hostname(&pod, &host, &domain)?;
        let attachment = if pod::host_network(&pod) {
            None
        } else {
            let attached = context.parts.network.attach(&id, &host_ports(&pod)).await;
            Some(attached.map_err(|error| format!("failed to setup network for sandbox {id:?}: {error}"))?)
        };
        let made = async {
            let ips = attachment.as_ref().map(|attachment| attachment.ips.clone()).unwrap_or_default();
            self.write_names(&ips)?;
            let log_dir = context.pod_log_dir(&pod);
            fs::create_dir_all(&log_dir).map_err(|error| format!("make {}: {error}", log_dir.display()))?;
            let netns = attachment.as_ref().map(|attachment| attachment.netns_path.to_string_lossy().into_owned());
            let now = Timestamp::now();
            let inputs = SandboxInputs {
                attempt,
                hostname: &hostname,
                netns_path: netns.as_deref(),
                cgroup: context.cgroups.path(&pod),
                log_dir: log_dir.to_string_lossy().into_owned(),
                user_mapping: self.user_mapping()?,
                now,
            };
            runtime.run_sandbox(&id, &sandbox_config(&pod, inputs)).await.map_err(|error| error.to_string())?;
            Ok(SandboxRecord {
                id: id.clone(),
                attempt,
                ready: true,
                created_at: Some(now),
                ips,
                netns_path: attachment.as_ref().map(|attachment| attachment.netns_path.clone()),
            })
        }
        .await;
        match made {
            Ok(record) => {
                self.observed.put_sandbox(record);
                Ok(())
            }
            Err(why) => {
                // Leave nothing behind: the next try has an id of its own.
                let _ = runtime.remove_sandbox(&id).await;
                let _ = context.parts.network.detach(&id).await;
                Err(why)
            }
        }
    }

    /// Writes the pod's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub(super) fn write_names(&self, ips: &[IpAddr]) -> Result<(), String> {
        let config = &self.context.config;
        let pod = &*self.pod;
        let folder = self.context.pod_dir(pod::uid(pod));
        fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
        let (host, domain) = dns::names(pod, &config.hostname, &config.cluster_domain);
        let node_hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        write(&folder.join("etc-hosts"), &dns::hosts(pod, ips, &host, &domain, &node_hosts))?;
        write(&folder.join("hostname"), &format!("{}\n", dns::kernel_hostname(pod, &host, &domain)?))?;
        let node = fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let cluster = ClusterDns { servers: &config.cluster_dns, domain: &config.cluster_domain, node: &node };
        write(&folder.join("resolv.conf"), &dns::resolv_conf(pod, cluster))
    }

    /// Stops all sandboxes of the pod and gives their network back.
    pub(super) async fn stop_sandboxes(&mut self) -> Result<(), String> {
        let runtime = self.runtime()?;
        let mut first = Ok(());
        for sandbox in &mut self.observed.sandboxes {
            let stopped = runtime.stop_sandbox(&sandbox.id).await;
            match stopped {
                Err(error) if error.code() != ErrorCode::NotFound => {
                    first = first.and(Err(format!("failed to stop sandbox {:?}: {error}", sandbox.id)));
                    continue;
                }
                _ => {}
            }
            if let Err(error) = self.context.parts.network.detach(&sandbox.id).await {
                first = first.and(Err(format!("failed to destroy network for sandbox {:?}: {error}", sandbox.id)));
            }
            sandbox.ready = false;
        }
        first
    }
}
