//! What each kind and field is for, in words: generated from the schemas of `k8s-openapi` and kept compressed.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::GzDecoder;

/// A gzip file of a JSON object: definition to field to text, the empty field standing for the definition itself. Its
/// header says that it is generated; `GANTRY_GENERATE=1 cargo test -p gantry-api descriptions` writes it anew.
pub(super) const COMPRESSED: &[u8] = include_bytes!("../../data/descriptions.json.gz");

/// All texts, in memory while this value lives.
#[derive(Debug, Default)]
pub struct Descriptions(HashMap<String, HashMap<String, String>>);

impl Descriptions {
    /// Decompresses the texts.
    pub fn load() -> Self {
        let mut json = Vec::new();
        let read = GzDecoder::new(COMPRESSED).read_to_end(&mut json);
        Self(read.ok().and_then(|_| serde_json::from_slice(&json).ok()).unwrap_or_default())
    }

    /// The text of a definition's field, or of the definition itself when the field is empty.
    pub fn of(&self, definition: &str, field: &str) -> Option<&str> {
        self.0.get(definition)?.get(field).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use flate2::{Compression, GzBuilder};
    use k8s_openapi::{api, apiextensions_apiserver, apimachinery, kube_aggregator};
    use schemars::generate::SchemaSettings;
    use serde_json::Value;

    use super::*;

    type Texts = BTreeMap<String, BTreeMap<String, String>>;

    /// The texts of the kinds in these modules and of all that they refer to.
    macro_rules! texts_of {
        ($($($module:ident)::+ { $($kind:ident),+ $(,)? })+) => {{
            let mut generator = SchemaSettings::default().into_generator();
            $({
                use $($module)::+ as module;
                $(generator.subschema_for::<module::$kind>();)+
            })+
            generator.take_definitions(false)
        }};
    }

    fn generate() -> Texts {
        let definitions = texts_of! {
            api::admissionregistration::v1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration }
            api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
            api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview }
            api::authorization::v1 { LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview }
            api::autoscaling::v1 { HorizontalPodAutoscaler, Scale }
            api::autoscaling::v2 { HorizontalPodAutoscaler }
            api::batch::v1 { CronJob, Job }
            api::certificates::v1 { CertificateSigningRequest }
            api::coordination::v1 { Lease }
            api::core::v1 { Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount }
            api::discovery::v1 { EndpointSlice }
            api::events::v1 { Event }
            api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
            api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
            api::node::v1 { RuntimeClass }
            api::policy::v1 { Eviction, PodDisruptionBudget }
            api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
            api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
            api::scheduling::v1 { PriorityClass }
            api::storage::v1 { CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass }
            apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
            apimachinery::pkg::apis::meta::v1 { DeleteOptions, ListMeta, Patch, Status }
            kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
        };
        definitions
            .into_iter()
            .map(|(name, schema)| (name, texts(&schema)))
            .filter(|(_, texts)| !texts.is_empty())
            .collect()
    }

    fn texts(schema: &Value) -> BTreeMap<String, String> {
        let text = |value: &Value| value["description"].as_str().map(str::to_owned);
        let own = text(schema).map(|text| (String::new(), text));
        let fields = schema["properties"].as_object().into_iter().flatten();
        own.into_iter().chain(fields.filter_map(|(name, field)| Some((name.clone(), text(field)?)))).collect()
    }

    #[test]
    fn the_descriptions_are_fresh() {
        let fresh = generate();
        assert!(fresh.len() > 300);
        if std::env::var_os("GANTRY_GENERATE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/descriptions.json.gz");
            let file = std::fs::File::create(path).expect("the file");
            let comment = "Generated by core/api/src/openapi/descriptions.rs from k8s-openapi; do not edit.";
            let mut writer =
                GzBuilder::new().filename("descriptions.json").comment(comment).write(file, Compression::best());
            writer.write_all(&serde_json::to_vec(&fresh).expect("JSON")).expect("written");
            writer.finish().expect("finished");
            return;
        }
        let kept: Texts =
            Descriptions::load().0.into_iter().map(|(name, texts)| (name, texts.into_iter().collect())).collect();
        assert!(
            kept == fresh,
            "data/descriptions.json.gz is stale: run GANTRY_GENERATE=1 cargo test -p gantry-api descriptions"
        );
    }
}
