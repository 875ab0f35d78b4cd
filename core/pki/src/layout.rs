//! The files of a cluster's PKI under kubeadm's names, made on first start and renewed when due.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use time::{Duration, OffsetDateTime};

use crate::authority::{Authority, ClientProfile, Identity, ServerProfile};
use crate::error::Error;
use crate::files::{PUBLIC, SECRET, make_folder, read_if_exists, write_atomically};
use crate::inspect::inspect;
use crate::keys::ServiceAccountKeys;
use crate::kubeconfig::Kubeconfig;

/// A certificate with less time than this before it expires is renewed on start.
const RENEW_BEFORE: Duration = Duration::days(90);

/// The group of administrators, bound to `cluster-admin` by the role binding of the same name (kubeadm's since 1.29).
pub const CLUSTER_ADMINS: &str = "kubeadm:cluster-admins";
/// The group that no role can take rights from.
const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";

/// What the certificates must say.
#[derive(Clone, Debug)]
pub struct PkiOptions {
    /// The name of this host's node.
    pub node_name: String,
    /// The address at which other hosts reach the API server.
    pub advertise_address: IpAddr,
    /// The first address of the service network, the one of the service `kubernetes`.
    pub service_address: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// More names for the API server's certificate.
    pub extra_names: Vec<String>,
    /// More addresses for the API server's certificate and the node agent's.
    pub extra_addresses: Vec<IpAddr>,
}

/// A cluster's keys and certificates, loaded.
pub struct Pki {
    folder: PathBuf,
    /// Signs servers and clients.
    pub ca: Authority,
    /// Signs the front proxy, which vouches for users by headers.
    pub front_proxy_ca: Authority,
    /// The API server's.
    pub apiserver: Identity,
    /// The API server's as a client of node agents.
    pub apiserver_kubelet_client: Identity,
    /// The API server's as a client of extension servers.
    pub front_proxy_client: Identity,
    /// The node agent's server.
    pub kubelet: Identity,
    /// The node agent as a client.
    pub kubelet_client: Identity,
    /// `system:kube-controller-manager`.
    pub controller_manager: Identity,
    /// `system:kube-scheduler`.
    pub scheduler: Identity,
    /// `system:kube-proxy`.
    pub proxy: Identity,
    /// `kubernetes-admin` of the group [`CLUSTER_ADMINS`].
    pub admin: Identity,
    /// `kubernetes-super-admin` of `system:masters`: rights that no role can take away.
    pub super_admin: Identity,
    /// Sign and verify service account tokens.
    pub service_account_keys: ServiceAccountKeys,
}

impl Pki {
    /// Loads the PKI in a folder (`DATA/pki`), makes what is missing and renews what is due.
    pub fn open(folder: &Path, options: &PkiOptions, now: SystemTime) -> Result<Self, Error> {
        let now = OffsetDateTime::from(now);
        make_folder(folder)?;
        let ca = authority(folder, "ca", "kubernetes", now)?;
        let front_proxy_ca = authority(folder, "front-proxy-ca", "front-proxy-ca", now)?;

        let client = |name: &str, common_name: &str, organization: Option<&str>| {
            client(folder, name, &ca, &ClientProfile { common_name, organization }, now)
        };
        let node_user = format!("system:node:{}", options.node_name);
        let pki = Self {
            apiserver: server(folder, "apiserver", &ca, &apiserver_profile(options), now)?,
            apiserver_kubelet_client: client(
                "apiserver-kubelet-client",
                "kube-apiserver-kubelet-client",
                Some(CLUSTER_ADMINS),
            )?,
            kubelet: server(folder, "kubelet", &ca, &kubelet_profile(options, &node_user), now)?,
            kubelet_client: client("kubelet-client", &node_user, Some(NODES))?,
            controller_manager: client("controller-manager", "system:kube-controller-manager", None)?,
            scheduler: client("scheduler", "system:kube-scheduler", None)?,
            proxy: client("proxy", "system:kube-proxy", None)?,
            admin: client("admin", "kubernetes-admin", Some(CLUSTER_ADMINS))?,
            super_admin: client("super-admin", "kubernetes-super-admin", Some(MASTERS))?,
            front_proxy_client: self::client(
                folder,
                "front-proxy-client",
                &front_proxy_ca,
                &ClientProfile { common_name: "front-proxy-client", organization: None },
                now,
            )?,
            service_account_keys: service_account_keys(folder)?,
            folder: folder.to_owned(),
            ca,
            front_proxy_ca,
        };
        Ok(pki)
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A kubeconfig for one of the identities, with everything in it: it works on any host that reaches `server`.
    pub fn kubeconfig(&self, server: &str, cluster: &str, user: &str, identity: &Identity) -> Kubeconfig {
        Kubeconfig::for_identity(cluster, server, self.ca.certificate_pem(), user, identity)
    }
}

/// The names and addresses under which clients know the API server.
fn apiserver_profile(options: &PkiOptions) -> ServerProfile<'static> {
    let mut dns_names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    dns_names.push(format!("kubernetes.default.svc.{}", options.cluster_domain));
    dns_names.push("localhost".to_owned());
    dns_names.push(options.node_name.clone());
    dns_names.extend(options.extra_names.iter().cloned());
    let mut addresses = vec![options.service_address, options.advertise_address, IpAddr::from([127, 0, 0, 1])];
    addresses.extend(&options.extra_addresses);
    ServerProfile {
        common_name: "kube-apiserver",
        organization: None,
        dns_names: unique(dns_names),
        addresses: unique(addresses),
    }
}

fn kubelet_profile<'a>(options: &PkiOptions, node_user: &'a str) -> ServerProfile<'a> {
    let mut addresses = vec![options.advertise_address, IpAddr::from([127, 0, 0, 1])];
    addresses.extend(&options.extra_addresses);
    let dns_names = unique(vec![options.node_name.clone(), "localhost".to_owned()]);
    ServerProfile { common_name: node_user, organization: Some(NODES), dns_names, addresses: unique(addresses) }
}

/// The items without repetitions, in their order.
fn unique<T: PartialEq>(items: Vec<T>) -> Vec<T> {
    let mut seen = Vec::with_capacity(items.len());
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

fn authority(folder: &Path, name: &str, common_name: &str, now: OffsetDateTime) -> Result<Authority, Error> {
    match load(folder, name)? {
        Some(identity) => Authority::from_pem(identity),
        None => {
            let authority = Authority::generate(common_name, now)?;
            save(folder, name, authority.identity())?;
            Ok(authority)
        }
    }
}

fn client(
    folder: &Path,
    name: &str,
    ca: &Authority,
    profile: &ClientProfile<'_>,
    now: OffsetDateTime,
) -> Result<Identity, Error> {
    if let Some(identity) = load(folder, name)?
        && inspect(name, &identity.certificate_pem, ca.certificate_pem()).is_ok_and(|seen| {
            belongs(&seen.public_key, &identity)
                && seen.common_name == profile.common_name
                && seen.organizations.iter().map(String::as_str).eq(profile.organization)
                && seen.not_after - now > RENEW_BEFORE
        })
    {
        return Ok(identity);
    }
    let identity = ca.issue_client(profile, now)?;
    save(folder, name, &identity)?;
    Ok(identity)
}

fn server(
    folder: &Path,
    name: &str,
    ca: &Authority,
    profile: &ServerProfile<'_>,
    now: OffsetDateTime,
) -> Result<Identity, Error> {
    if let Some(identity) = load(folder, name)?
        && inspect(name, &identity.certificate_pem, ca.certificate_pem()).is_ok_and(|seen| {
            belongs(&seen.public_key, &identity)
                && seen.common_name == profile.common_name
                && seen.dns_names == profile.dns_names.iter().cloned().collect()
                && seen.addresses == profile.addresses.iter().copied().collect()
                && seen.not_after - now > RENEW_BEFORE
        })
    {
        return Ok(identity);
    }
    let identity = ca.issue_server(profile, now)?;
    save(folder, name, &identity)?;
    Ok(identity)
}

fn service_account_keys(folder: &Path) -> Result<ServiceAccountKeys, Error> {
    let path = folder.join("sa.key");
    if let Some(pem) = read_if_exists(&path)? {
        return ServiceAccountKeys::from_private_pem(&pem)
            .map_err(|error| Error::invalid(path.display().to_string(), error));
    }
    let keys = ServiceAccountKeys::generate()?;
    write_atomically(&folder.join("sa.pub"), keys.public_pem(), PUBLIC)?;
    write_atomically(&path, keys.private_pem(), SECRET)?;
    Ok(keys)
}

/// Whether a certificate's key is the identity's: not so after a crash between the writes of the two files.
fn belongs(public_key: &[u8], identity: &Identity) -> bool {
    rcgen::KeyPair::from_pem(&identity.key_pem).is_ok_and(|key| key.public_key_raw() == public_key)
}

/// Certificate and key of a name; `None` when either is missing.
fn load(folder: &Path, name: &str) -> Result<Option<Identity>, Error> {
    let certificate_pem = read_if_exists(&folder.join(format!("{name}.crt")))?;
    let key_pem = read_if_exists(&folder.join(format!("{name}.key")))?;
    Ok(certificate_pem.zip(key_pem).map(|(certificate_pem, key_pem)| Identity { certificate_pem, key_pem }))
}

/// The key first: a certificate without its key would look complete after a crash.
fn save(folder: &Path, name: &str, identity: &Identity) -> Result<(), Error> {
    write_atomically(&folder.join(format!("{name}.key")), &identity.key_pem, SECRET)?;
    write_atomically(&folder.join(format!("{name}.crt")), &identity.certificate_pem, PUBLIC)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration as StdDuration;

    use super::*;

    fn options() -> PkiOptions {
        PkiOptions {
            node_name: "n1".to_owned(),
            advertise_address: [10, 0, 0, 5].into(),
            service_address: [10, 96, 0, 1].into(),
            cluster_domain: "cluster.local".to_owned(),
            extra_names: vec!["api.example.org".to_owned()],
            extra_addresses: Vec::new(),
        }
    }

    fn open(folder: &Path, options: &PkiOptions, days: u64) -> Pki {
        let now = SystemTime::UNIX_EPOCH + StdDuration::from_secs((20_000 + days) * 86_400);
        Pki::open(folder, options, now).expect("a PKI")
    }

    #[test]
    fn a_restart_keeps_what_is_good_and_renews_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pki");
        let first = open(&path, &options(), 0);
        for name in [
            "ca",
            "front-proxy-ca",
            "apiserver",
            "apiserver-kubelet-client",
            "front-proxy-client",
            "kubelet",
            "kubelet-client",
            "controller-manager",
            "scheduler",
            "admin",
            "super-admin",
            "proxy",
            "sa",
        ] {
            let mode = std::fs::metadata(path.join(format!("{name}.key"))).expect(name).permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }

        let second = open(&path, &options(), 1);
        assert_eq!(first.apiserver, second.apiserver);
        assert_eq!(first.admin, second.admin);
        assert_eq!(first.service_account_keys.own_key(), second.service_account_keys.own_key());

        let moved = PkiOptions { advertise_address: [10, 0, 0, 6].into(), ..options() };
        let third = open(&path, &moved, 1);
        assert_ne!(first.apiserver, third.apiserver);
        assert_eq!(first.admin, third.admin);
        assert_eq!(first.ca.certificate_pem(), third.ca.certificate_pem());

        let late = open(&path, &moved, 300);
        assert_ne!(third.admin, late.admin);
        assert_eq!(first.ca.certificate_pem(), late.ca.certificate_pem());

        // A crash between the two files of a renewal leaves a key that isn't the certificate's.
        write_atomically(&path.join("admin.key"), &late.scheduler.key_pem, SECRET).expect("a file");
        let mended = open(&path, &moved, 300);
        assert_ne!(mended.admin.certificate_pem, late.admin.certificate_pem);
    }

    #[test]
    fn certificates_say_what_kubeadms_say() {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = open(folder.path(), &options(), 0);
        let ca = pki.ca.certificate_pem();
        let seen = inspect("apiserver", &pki.apiserver.certificate_pem, ca).expect("a certificate");
        let names: Vec<&str> = seen.dns_names.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "api.example.org",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
                "n1"
            ]
        );
        let addresses: Vec<String> = seen.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.5", "10.96.0.1", "127.0.0.1"]);
        let cases = [
            (&pki.admin, "kubernetes-admin", Some(CLUSTER_ADMINS)),
            (&pki.super_admin, "kubernetes-super-admin", Some(MASTERS)),
            (&pki.kubelet_client, "system:node:n1", Some(NODES)),
            (&pki.controller_manager, "system:kube-controller-manager", None),
            (&pki.scheduler, "system:kube-scheduler", None),
        ];
        for (identity, name, group) in cases {
            let seen = inspect(name, &identity.certificate_pem, ca).expect(name);
            assert_eq!(seen.common_name, name);
            assert_eq!(seen.organizations.iter().map(String::as_str).next(), group, "{name}");
        }
        assert!(inspect("admin", &pki.admin.certificate_pem, pki.front_proxy_ca.certificate_pem()).is_err());
    }

    #[test]
    fn a_broken_authority_is_an_error_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        open(folder.path(), &options(), 0);
        write_atomically(&folder.path().join("ca.crt"), "nonsense", PUBLIC).expect("a file");
        let error = Pki::open(folder.path(), &options(), SystemTime::UNIX_EPOCH).err().expect("an error");
        assert!(error.to_string().contains("authority"), "{error}");
        assert_eq!(read_if_exists(&folder.path().join("ca.crt")).expect("a file").as_deref(), Some("nonsense"));
    }
}
