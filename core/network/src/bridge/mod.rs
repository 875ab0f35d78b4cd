//! The pod network of a node: a bridge, and for each sandbox a network namespace with a link to it.
//!
//! - `addresses`: which addresses are taken
//! - `records`: what each sandbox was given, on disk
//! - `namespaces`: network namespaces with a name
//! - `links`: links, addresses and routes
//! - `rules`: host ports and masquerade

mod addresses;
pub(crate) mod links;
mod namespaces;
mod records;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::addresses::AddressPool;
use self::links::SandboxLink;
use self::namespaces::{Namespaces, write_if_there};
use self::records::{Record, Records};
use self::rules::Change;
use crate::conntrack::{Conntrack, UdpFlow};
use crate::error::NetworkError;
use crate::nftables;
use crate::pod_network::{Attachment, HostPort, PodNetwork};

/// How many sandboxes are worked on at a time. The kernel changes links one after another, so more only wait there.
const CONCURRENT_MAX: usize = 8;
/// By then the kernel has taken a namespace apart that nobody holds.
const NAMESPACE_GONE_WAIT: Duration = Duration::from_secs(2);
/// A sandbox id is a file's name: at most this many bytes, with room for an extension.
const SANDBOX_ID_BYTES_MAX: usize = 200;
/// `IFNAMSIZ` without the final zero.
const LINK_NAME_BYTES_MAX: usize = 15;

/// What a pod network is made of.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// The bridge's name; several networks of one machine differ in it.
    pub bridge: String,
    /// Where namespaces and records lie. One network at a time uses a folder.
    pub state_dir: PathBuf,
    /// The node's pod ranges, at most one of each family (`spec.podCIDRs` of its Node).
    pub pod_cidrs: Vec<IpNet>,
    /// The pod ranges of the whole cluster: what pods send there keeps its source.
    pub cluster_cidrs: Vec<IpNet>,
    /// Largest packet of the pods' links; none: that of the default route's link.
    pub mtu: Option<u32>,
}

impl BridgeConfig {
    /// A network on bridge `gantry0`.
    pub fn new(state_dir: impl Into<PathBuf>, pod_cidrs: Vec<IpNet>, cluster_cidrs: Vec<IpNet>) -> Self {
        Self { bridge: "gantry0".to_owned(), state_dir: state_dir.into(), pod_cidrs, cluster_cidrs, mtu: None }
    }
}

/// The pod network of a node; see [`PodNetwork`].
pub struct BridgeNetwork {
    bridge: String,
    bridge_index: u32,
    mtu: u32,
    netlink: rtnetlink::Handle,
    conntrack: Conntrack,
    namespaces: Namespaces,
    records: Records,
    state: Mutex<State>,
    state_dir: PathBuf,
    slots: Semaphore,
    /// Held as long as the network is open.
    _lock: Flock<fs::File>,
}

#[derive(Default)]
struct State {
    pools: Vec<AddressPool>,
    sandboxes: HashMap<String, Record>,
    /// One attach or detach of a sandbox at a time.
    busy: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
    sequence: u64,
}

impl State {
    fn release(&mut self, ips: &[IpAddr]) {
        for ip in ips {
            self.pools.iter_mut().for_each(|pool| pool.release(*ip));
        }
    }
}

impl BridgeNetwork {
    /// Makes the network, or takes over the one that an earlier process left in the state folder.
    pub async fn open(config: BridgeConfig) -> Result<Self, NetworkError> {
        check_bridge_name(&config.bridge)?;
        let mut state = State { pools: pools(&config.pod_cidrs)?, ..State::default() };
        let state_dir = config.state_dir;
        fs::create_dir_all(&state_dir).map_err(NetworkError::system("create", state_dir.display()))?;
        let lock = lock(&state_dir.join("lock"))?;
        let namespaces = Namespaces::open(state_dir.join("netns"))?;
        let records = Records::open(state_dir.join("attachments"))?;

        let netlink = links::connect_to_kernel().await?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => links::outward_mtu(&netlink).await?,
        };
        let gateways: Vec<IpNet> =
            state.pools.iter().filter_map(|pool| IpNet::new(pool.gateway(), pool.range().prefix_len()).ok()).collect();
        let bridge_index = links::ensure_bridge(&netlink, &config.bridge, &gateways, mtu).await?;
        set_kernel_parameters(&config.bridge, &config.pod_cidrs)?;

        let mut script = rules::ruleset(&config.bridge, &config.pod_cidrs, &config.cluster_cidrs);
        for record in records.load()? {
            state.sequence = state.sequence.max(record.sequence);
            if namespaces.exists(&record.sandbox_id) {
                for ip in &record.ips {
                    state.pools.iter_mut().for_each(|pool| pool.adopt(*ip));
                }
                script += &rules::host_port_elements(Change::Add, &config.bridge, &record.ips, &record.host_ports)?;
                state.sandboxes.insert(record.sandbox_id.clone(), record);
            } else {
                // The machine was started anew, or the process died while it took the sandbox apart.
                links::remove(&netlink, &record.link).await?;
                namespaces.remove(&record.sandbox_id)?;
                records.remove(&record.sandbox_id)?;
            }
        }
        nftables::apply(&config.bridge, &script).await?;

        // What belongs to no record was being made when the process died.
        for name in namespaces.names()? {
            if !state.sandboxes.contains_key(&name) {
                namespaces.remove(&name)?;
            }
        }
        for port in links::ports(&netlink, bridge_index).await? {
            if !state.sandboxes.values().any(|record| record.link == port) {
                links::remove(&netlink, &port).await?;
            }
        }
        Ok(Self {
            bridge: config.bridge,
            bridge_index,
            mtu,
            netlink,
            conntrack: Conntrack::default(),
            namespaces,
            records,
            state: Mutex::new(state),
            state_dir,
            slots: Semaphore::new(CONCURRENT_MAX),
            _lock: lock,
        })
    }

    /// The bridge's addresses: what pods know the node by, one of each family.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.state.lock().pools.iter().map(AddressPool::gateway).collect()
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Ends the network; it is of no use afterwards. With `remove_everything` nothing of it is left: sandboxes, bridge,
    /// rules, files (kernel parameters of the whole host, such as `ip_forward`, stay on); else all stays for the next
    /// [`BridgeNetwork::open`].
    pub async fn close(&self, remove_everything: bool) -> Result<(), NetworkError> {
        if !remove_everything {
            return Ok(());
        }
        let sandboxes: Vec<String> = self.state.lock().sandboxes.keys().cloned().collect();
        for sandbox in sandboxes {
            self.detach(&sandbox).await?;
        }
        links::remove_all(&self.netlink, self.bridge_index).await?;
        links::remove(&self.netlink, &self.bridge).await?;
        nftables::remove_table(&rules::table(&self.bridge)).await?;
        for folder in ["netns", "attachments"] {
            let path = self.state_dir.join(folder);
            fs::remove_dir_all(&path).map_err(NetworkError::system("remove", path.display()))?;
        }
        let lock = self.state_dir.join("lock");
        fs::remove_file(&lock).map_err(NetworkError::system("remove", lock.display()))?;
        // The folder itself may hold more than the network's.
        let _ = fs::remove_dir(&self.state_dir);
        Ok(())
    }

    fn turn(&self, sandbox_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.state.lock().busy.entry(sandbox_id.to_owned()).or_default().clone()
    }

    /// Forgets a sandbox's turn once nobody else waits for it.
    fn end_turn(&self, sandbox_id: &str) {
        let mut state = self.state.lock();
        // One reference is the map's, one the caller's.
        if state.busy.get(sandbox_id).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            state.busy.remove(sandbox_id);
        }
    }

    fn attachment(&self, record: &Record) -> Attachment {
        Attachment { netns_path: self.namespaces.path(&record.sandbox_id), ips: record.ips.clone() }
    }

    async fn attach_new(&self, sandbox_id: &str, host_ports: &[HostPort]) -> Result<Attachment, NetworkError> {
        let (record, addresses) = self.allocate(sandbox_id, host_ports)?;
        let made = self.make(&record, &addresses).await;
        let mut state = self.state.lock();
        match made {
            Ok(()) => {
                let attachment = self.attachment(&record);
                state.sandboxes.insert(sandbox_id.to_owned(), record);
                Ok(attachment)
            }
            Err(error) => {
                state.release(&record.ips);
                Err(error)
            }
        }
    }

    /// Takes an address of each range; with each comes its gateway.
    fn allocate(
        &self,
        sandbox_id: &str,
        host_ports: &[HostPort],
    ) -> Result<(Record, Vec<(IpAddr, IpAddr)>), NetworkError> {
        let mut state = self.state.lock();
        let mut addresses = Vec::with_capacity(state.pools.len());
        let mut failure = None;
        for pool in &mut state.pools {
            match pool.allocate() {
                Ok(ip) => addresses.push((ip, pool.gateway())),
                Err(error) => failure = Some(error),
            }
        }
        let ips: Vec<IpAddr> = addresses.iter().map(|(ip, _)| *ip).collect();
        if let Some(error) = failure {
            state.release(&ips);
            return Err(error);
        }
        state.sequence += 1;
        let record = Record {
            sandbox_id: sandbox_id.to_owned(),
            link: ips.first().map(|ip| links::host_link(*ip)).unwrap_or_default(),
            ips,
            host_ports: host_ports.to_vec(),
            sequence: state.sequence,
        };
        Ok((record, addresses))
    }

    async fn make(&self, record: &Record, addresses: &[(IpAddr, IpAddr)]) -> Result<(), NetworkError> {
        let elements = rules::host_port_elements(Change::Add, &self.bridge, &record.ips, &record.host_ports)?;
        // A namespace of that name that no record knows is the rest of a failed attempt.
        self.namespaces.remove(&record.sandbox_id)?;
        let made = async {
            let namespace = self.namespaces.create(&record.sandbox_id).await?;
            let link = SandboxLink { host_link: &record.link, bridge: self.bridge_index, addresses, mtu: self.mtu };
            links::connect(&self.netlink, &namespace, &link).await?;
            if !elements.is_empty() {
                nftables::apply(&self.bridge, &elements).await?;
            }
            self.records.write(record)?;
            // Clients that asked before there was a pod go on asking nobody.
            self.forget_udp(record, true).await;
            Ok(())
        };
        let result = made.await;
        if result.is_err() {
            // The first failure says more than those of tidying up.
            let _ = links::remove(&self.netlink, &record.link).await;
            let _ = self.namespaces.remove(&record.sandbox_id);
        }
        result
    }

    /// Forgets UDP flows to a sandbox's host ports that lead elsewhere (`arrives`), or into the sandbox itself.
    async fn forget_udp(&self, record: &Record, arrives: bool) {
        let ports: HashSet<u16> =
            record.host_ports.iter().filter(|port| port.protocol == "UDP").map(|port| port.host_port).collect();
        if ports.is_empty() {
            return;
        }
        let forgotten = async {
            let local = if arrives { links::local_addresses(&self.netlink).await? } else { HashSet::new() };
            for ip in record.ips.iter().copied() {
                let (ports, local) = (ports.clone(), local.clone());
                let is_stale = move |flow: &UdpFlow| {
                    let (to, port) = flow.destination;
                    let leads_in = flow.answering.0 == ip;
                    ports.contains(&port) && if arrives { !leads_in && local.contains(&to) } else { leads_in }
                };
                self.conntrack.forget(ip.is_ipv4(), is_stale).await?;
            }
            Ok::<(), NetworkError>(())
        };
        if let Err(error) = forgotten.await {
            tracing::warn!(sandbox = record.sandbox_id, %error, "UDP flows to host ports may go astray for a while");
        }
    }

    async fn detach_known(&self, record: &Record) -> Result<(), NetworkError> {
        let elements = rules::host_port_elements(Change::Remove, &self.bridge, &record.ips, &record.host_ports)?;
        if !elements.is_empty() {
            nftables::apply(&self.bridge, &elements).await?;
            self.forget_udp(record, false).await;
        }
        // The link goes with its namespace: the kernel takes many of those apart at the price of one, while removing a
        // link by itself holds up all others for a good while. Should something keep the namespace, the link is
        // removed a little later; and at once when its address, and so its name, is given again.
        let link = links::index_of(&self.netlink, &record.link).await?;
        self.namespaces.remove(&record.sandbox_id)?;
        self.records.remove(&record.sandbox_id)?;
        {
            let mut state = self.state.lock();
            state.sandboxes.remove(&record.sandbox_id);
            state.release(&record.ips);
        }
        if let Some(index) = link {
            let netlink = self.netlink.clone();
            tokio::spawn(async move {
                tokio::time::sleep(NAMESPACE_GONE_WAIT).await;
                if let Err(error) = links::remove_index(&netlink, index).await {
                    tracing::warn!(%error, "the link of a sandbox that is gone stays");
                }
            });
        }
        Ok(())
    }
}

#[async_trait]
impl PodNetwork for BridgeNetwork {
    async fn attach(&self, sandbox_id: &str, host_ports: &[HostPort]) -> Result<Attachment, NetworkError> {
        check_sandbox_id(sandbox_id)?;
        let turn = self.turn(sandbox_id);
        let result = {
            let _held = turn.lock().await;
            match self.get(sandbox_id).await? {
                Some(attachment) => Ok(attachment),
                None => {
                    let _slot = self.slots.acquire().await;
                    self.attach_new(sandbox_id, host_ports).await
                }
            }
        };
        self.end_turn(sandbox_id);
        result
    }

    async fn get(&self, sandbox_id: &str) -> Result<Option<Attachment>, NetworkError> {
        Ok(self.state.lock().sandboxes.get(sandbox_id).map(|record| self.attachment(record)))
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        let turn = self.turn(sandbox_id);
        let result = {
            let _held = turn.lock().await;
            let record = self.state.lock().sandboxes.get(sandbox_id).cloned();
            match record {
                Some(record) => {
                    let _slot = self.slots.acquire().await;
                    self.detach_known(&record).await
                }
                None => Ok(()),
            }
        };
        self.end_turn(sandbox_id);
        result
    }

    async fn list(&self) -> Result<Vec<String>, NetworkError> {
        Ok(self.state.lock().sandboxes.keys().cloned().collect())
    }
}

fn check_bridge_name(name: &str) -> Result<(), NetworkError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > LINK_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(NetworkError::Setting {
            setting: format!("bridge {name:?}"),
            reason: "is not 1 to 15 letters, digits, '-' and '_'",
        });
    }
    Ok(())
}

fn check_sandbox_id(id: &str) -> Result<(), NetworkError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > SANDBOX_ID_BYTES_MAX || id.starts_with('.') || !id.bytes().all(allowed) {
        return Err(NetworkError::Setting {
            setting: format!("sandbox id {id:?}"),
            reason: "is not 1 to 200 letters, digits, '-', '_' and '.'",
        });
    }
    Ok(())
}

fn pools(ranges: &[IpNet]) -> Result<Vec<AddressPool>, NetworkError> {
    let setting = || format!("pod ranges {ranges:?}");
    if ranges.is_empty() {
        return Err(NetworkError::Setting { setting: setting(), reason: "there is none" });
    }
    if ranges.iter().filter(|range| range.addr().is_ipv4()).count() > 1
        || ranges.iter().filter(|range| range.addr().is_ipv6()).count() > 1
    {
        return Err(NetworkError::Setting { setting: setting(), reason: "there are two of one family" });
    }
    ranges.iter().map(|range| AddressPool::new(*range)).collect()
}

fn lock(path: &Path) -> Result<Flock<fs::File>, NetworkError> {
    let file = fs::File::create(path).map_err(NetworkError::system("create", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        NetworkError::system("lock (is another agent running on this state folder?)", path.display())(errno)
    })
}

fn set_kernel_parameters(bridge: &str, ranges: &[IpNet]) -> Result<(), NetworkError> {
    let mut parameters: Vec<(String, &str)> = Vec::new();
    if ranges.iter().any(|range| range.addr().is_ipv4()) {
        parameters.push(("net/ipv4/ip_forward".to_owned(), "1"));
        // A node's 127.0.0.1 reaches host ports of its pods.
        parameters.push((format!("net/ipv4/conf/{bridge}/route_localnet"), "1"));
        // Pods reach each other through the gateway by design; it must not tell them of a shorter way.
        parameters.push((format!("net/ipv4/conf/{bridge}/send_redirects"), "0"));
        parameters.push(("net/ipv4/conf/all/send_redirects".to_owned(), "0"));
    }
    if ranges.iter().any(|range| range.addr().is_ipv6()) {
        parameters.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    // Where the kernel filters bridges, it's to do so as all of Kubernetes expects.
    parameters.push(("net/bridge/bridge-nf-call-iptables".to_owned(), "1"));
    parameters.push(("net/bridge/bridge-nf-call-ip6tables".to_owned(), "1"));
    for (name, value) in parameters {
        let path = format!("/proc/sys/{name}");
        if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
            continue;
        }
        write_if_there(&path, value).map_err(NetworkError::system("set", &name))?;
    }
    Ok(())
}
