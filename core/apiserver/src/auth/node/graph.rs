//! Which objects are needed on which node: by its pods, and by the volumes of their claims.

use std::collections::{BTreeSet, HashMap};

use gantry_api::object::{Object, at, items_at, str_at};
use serde_json::Value;

/// Marks a pod that stands for a static pod of its node.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// Kinds of objects in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A pod, needed where it runs.
    Pod,
    /// A secret, needed by pods and volumes.
    Secret,
    /// A config map.
    ConfigMap,
    /// A persistent volume claim.
    Claim,
    /// A persistent volume, needed where its claim is.
    Volume,
    /// The account of a pod.
    ServiceAccount,
    /// A claim on a device.
    ResourceClaim,
    /// An attachment of a volume to a node.
    Attachment,
    /// Devices of a node.
    Slice,
}

type Key = (Kind, String, String);

/// Objects and the nodes that need them. Each source (a pod, say) is remembered with all that it refers to, so that
/// its end takes exactly that back.
#[derive(Debug, Default)]
pub struct Graph {
    /// What a source on a node refers to.
    sources: HashMap<Key, (String, BTreeSet<Key>)>,
    /// How many sources on which node refer to an object.
    needed: HashMap<Key, HashMap<String, usize>>,
    /// The claim and the secrets of a volume.
    volumes: HashMap<String, (Key, BTreeSet<Key>)>,
    /// The volumes that need a secret.
    volumes_of_secret: HashMap<Key, BTreeSet<String>>,
}

impl Graph {
    /// Takes note of an object's new state, or of its end.
    pub fn observe(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Object>) {
        let of_node = |kind: Kind, path: &str| {
            let key = (kind, String::new(), name.to_owned());
            let node = object.map(|object| str_at(object, path).to_owned()).unwrap_or_default();
            (key.clone(), node, BTreeSet::from([key]))
        };
        match resource {
            "pods" => {
                let key = (Kind::Pod, namespace.to_owned(), name.to_owned());
                let node = object.map(|pod| str_at(pod, "spec.nodeName").to_owned()).unwrap_or_default();
                if !node.is_empty()
                    && self.sources.get(&key).is_some_and(|(old, _)| *old == node)
                    && object.is_some_and(|pod| !may_refer_to_more(pod))
                {
                    // What a bound pod refers to never changes: most changes of pods end here.
                    return;
                }
                let mut needs = object
                    .filter(|_| !node.is_empty())
                    .map(|pod| needs_of_pod(namespace, name, pod))
                    .unwrap_or_default();
                needs.insert(key.clone());
                self.set(key, node, needs);
            }
            "volumeattachments" => {
                let (key, node, needs) = of_node(Kind::Attachment, "spec.nodeName");
                self.set(key, node, needs);
            }
            "resourceslices" => {
                let (key, node, needs) = of_node(Kind::Slice, "spec.nodeName");
                self.set(key, node, needs);
            }
            "persistentvolumes" => self.set_volume(name, object),
            _ => {}
        }
    }

    /// Whether a node needs an object.
    pub fn relates(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let direct = |key: &Key| self.needed.get(key).is_some_and(|nodes| nodes.contains_key(node));
        let by_claim = |volume: &str| self.volumes.get(volume).is_some_and(|(claim, _)| direct(claim));
        match kind {
            Kind::Volume => by_claim(name),
            Kind::Secret => {
                direct(&key)
                    || self
                        .volumes_of_secret
                        .get(&key)
                        .is_some_and(|volumes| volumes.iter().any(|volume| by_claim(volume)))
            }
            _ => direct(&key),
        }
    }

    /// Replaces what a source refers to; an empty node takes all back.
    fn set(&mut self, source: Key, node: String, needs: BTreeSet<Key>) {
        if let Some((old_node, old_needs)) = self.sources.remove(&source) {
            for key in old_needs {
                if let Some(nodes) = self.needed.get_mut(&key) {
                    if let Some(count) = nodes.get_mut(&old_node) {
                        *count -= 1;
                        if *count == 0 {
                            nodes.remove(&old_node);
                        }
                    }
                    if nodes.is_empty() {
                        self.needed.remove(&key);
                    }
                }
            }
        }
        if node.is_empty() {
            return;
        }
        for key in &needs {
            *self.needed.entry(key.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        self.sources.insert(source, (node, needs));
    }

    fn set_volume(&mut self, name: &str, volume: Option<&Object>) {
        if let Some((_, secrets)) = self.volumes.remove(name) {
            for key in secrets {
                if let Some(volumes) = self.volumes_of_secret.get_mut(&key) {
                    volumes.remove(name);
                    if volumes.is_empty() {
                        self.volumes_of_secret.remove(&key);
                    }
                }
            }
        }
        let Some(volume) = volume else { return };
        let (namespace, claim) = (str_at(volume, "spec.claimRef.namespace"), str_at(volume, "spec.claimRef.name"));
        if claim.is_empty() {
            return;
        }
        let secrets = secrets_of_volume(volume, namespace);
        for key in &secrets {
            self.volumes_of_secret.entry(key.clone()).or_default().insert(name.to_owned());
        }
        let claim = (Kind::Claim, namespace.to_owned(), claim.to_owned());
        self.volumes.insert(name.to_owned(), (claim, secrets));
    }
}

/// Whether a bound pod has parts that may have been added after it was bound: ephemeral containers and the claims that
/// its status names.
fn may_refer_to_more(pod: &Object) -> bool {
    !items_at(pod, "spec.ephemeralContainers").is_empty()
        || !items_at(pod, "spec.resourceClaims").is_empty()
        || !at(pod, "status.extendedResourceClaimStatus").is_null()
}

fn needs_of_pod(namespace: &str, name: &str, pod: &Object) -> BTreeSet<Key> {
    let mut needs = BTreeSet::new();
    if !at(pod, "metadata.annotations")[MIRROR_POD].is_null() {
        // A node that makes such a pod must not get rights by it.
        return needs;
    }
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            needs.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    add(Kind::ServiceAccount, str_at(pod, "spec.serviceAccountName"));
    secret_names(pod, |name| add(Kind::Secret, name));
    config_map_names(pod, |name| add(Kind::ConfigMap, name));
    for volume in items_at(pod, "spec.volumes") {
        add(Kind::Claim, str_at(volume, "persistentVolumeClaim.claimName"));
        if volume.get("ephemeral").is_some() {
            add(Kind::Claim, &format!("{name}-{}", str_at(volume, "name")));
        }
    }
    for claim in items_at(pod, "spec.resourceClaims") {
        add(Kind::ResourceClaim, str_at(claim, "resourceClaimName"));
    }
    for claim in items_at(pod, "status.resourceClaimStatuses") {
        add(Kind::ResourceClaim, str_at(claim, "resourceClaimName"));
    }
    add(Kind::ResourceClaim, str_at(pod, "status.extendedResourceClaimStatus.resourceClaimName"));
    needs
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"]
        .into_iter()
        .flat_map(|path| items_at(pod, path))
}

/// Calls `visit` with the name of each secret that a pod refers to.
pub fn secret_names(pod: &Object, mut visit: impl FnMut(&str)) {
    let mut visit = |name: &str| {
        if !name.is_empty() {
            visit(name);
        }
    };
    for reference in items_at(pod, "spec.imagePullSecrets") {
        visit(str_at(reference, "name"));
    }
    for container in containers(pod) {
        for source in items_at(container, "envFrom") {
            visit(str_at(source, "secretRef.name"));
        }
        for variable in items_at(container, "env") {
            visit(str_at(variable, "valueFrom.secretKeyRef.name"));
        }
    }
    for volume in items_at(pod, "spec.volumes") {
        for path in [
            "secret.secretName",
            "azureFile.secretName",
            "cephfs.secretRef.name",
            "cinder.secretRef.name",
            "flexVolume.secretRef.name",
            "rbd.secretRef.name",
            "scaleIO.secretRef.name",
            "iscsi.secretRef.name",
            "storageos.secretRef.name",
            "csi.nodePublishSecretRef.name",
        ] {
            visit(str_at(volume, path));
        }
        for source in items_at(volume, "projected.sources") {
            visit(str_at(source, "secret.name"));
        }
    }
}

/// Calls `visit` with the name of each config map that a pod refers to.
pub fn config_map_names(pod: &Object, mut visit: impl FnMut(&str)) {
    let mut visit = |name: &str| {
        if !name.is_empty() {
            visit(name);
        }
    };
    for container in containers(pod) {
        for source in items_at(container, "envFrom") {
            visit(str_at(source, "configMapRef.name"));
        }
        for variable in items_at(container, "env") {
            visit(str_at(variable, "valueFrom.configMapKeyRef.name"));
        }
    }
    for volume in items_at(pod, "spec.volumes") {
        visit(str_at(volume, "configMap.name"));
        for source in items_at(volume, "projected.sources") {
            visit(str_at(source, "configMap.name"));
        }
    }
}

/// The secrets that mounting a volume takes. One without a namespace lies where the claim does.
fn secrets_of_volume(volume: &Object, claim_namespace: &str) -> BTreeSet<Key> {
    let mut secrets = BTreeSet::new();
    let mut add = |namespace: &str, name: &str| {
        let namespace = if namespace.is_empty() { claim_namespace } else { namespace };
        if !name.is_empty() {
            secrets.insert((Kind::Secret, namespace.to_owned(), name.to_owned()));
        }
    };
    for path in [
        "spec.cephfs.secretRef",
        "spec.cinder.secretRef",
        "spec.flexVolume.secretRef",
        "spec.rbd.secretRef",
        "spec.scaleIO.secretRef",
        "spec.iscsi.secretRef",
        "spec.storageos.secretRef",
        "spec.csi.nodePublishSecretRef",
        "spec.csi.nodeStageSecretRef",
        "spec.csi.nodeExpandSecretRef",
        "spec.csi.controllerPublishSecretRef",
    ] {
        let reference = at(volume, path);
        add(str_at(reference, "namespace"), str_at(reference, "name"));
    }
    add(str_at(volume, "spec.azureFile.secretNamespace"), str_at(volume, "spec.azureFile.secretName"));
    secrets
}
