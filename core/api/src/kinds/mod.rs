//! What a schema can't say of a kind: one file a kind, behind one trait.

mod resources;
mod workloads;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::FieldErrors;
use crate::object::Object;

/// The hooks of a kind, in the order in which a write calls them. All are pure; the defaults do nothing,
/// which is right for a kind whose schema says it all. Source: upstream's `SetDefaults_*`,
/// `pkg/registry/*/strategy.go`, `pkg/apis/*/validation` and `pkg/printers/internalversion`.
pub trait Kind: Send + Sync {
    /// Conditional defaults, after the schema's unconditional ones. Idempotent.
    fn default(&self, _object: &mut Object) {}

    /// Before a create: drops what the client may not set (status), sets `metadata.generation` where the kind has one.
    fn prepare_for_create(&self, _object: &mut Object) {}

    /// Before an update through the main resource: keeps the old status, raises `metadata.generation` when the
    /// desired state changed.
    fn prepare_for_update(&self, _object: &mut Object, _old: &Object) {}

    /// Before an update through `/status`: keeps everything of the old object but the status (and what metadata allows).
    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
    }

    /// Sets the times that the server notes itself, after the preparation of a create (no old object) or of an update
    /// through any path.
    fn stamp(&self, _object: &mut Object, _old: Option<&Object>, _now: Timestamp) {}

    /// What is wrong with a new object. Metadata (names, labels, annotations, owners) has been validated by the caller.
    fn validate_create(&self, _object: &Object) -> FieldErrors {
        FieldErrors::new()
    }

    /// What is wrong with a change. Metadata has been validated by the caller; this includes the checks of a create
    /// where upstream makes them.
    fn validate_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        self.validate_create(object)
    }

    /// What is wrong with a change through `/status`.
    fn validate_status_update(&self, _object: &Object, _old: &Object) -> FieldErrors {
        FieldErrors::new()
    }

    /// What is wrong with a change through a subresource that changes a part of the object only, such as a pod's
    /// `ephemeralcontainers`.
    fn validate_subresource_update(&self, _subresource: &str, object: &Object, old: &Object) -> FieldErrors {
        self.validate_update(object, old)
    }

    /// Warnings for the client: deprecated fields, configurations that surely don't do what they seem to.
    fn warnings(&self, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// How the name is checked.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`, with their values.
    fn selectable_fields(&self, _object: &Object) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Whether upstream's strategy lets a PUT create the object (`AllowCreateOnUpdate`).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT may leave `resourceVersion` empty (`AllowUnconditionalUpdate`).
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// The grace period in seconds of a delete that names none; `None` for kinds that go at once.
    fn default_grace_period_seconds(&self, _object: &Object) -> Option<i64> {
        None
    }
}

/// The rules for a kind's `metadata.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: the rule of most kinds.
    DnsSubdomain,
    /// RFC 1123 label (namespaces, …).
    DnsLabel,
    /// RFC 1035 label (services before they relaxed it).
    Dns1035Label,
    /// A path segment: no `/`, no `%`, neither `.` nor `..` (RBAC).
    PathSegment,
}

/// Puts everything of `old` back into `object`, except `status` and `metadata.resourceVersion`'s precondition.
pub fn keep_all_but_status(object: &mut Object, old: &Object) {
    let status = object.get("status").cloned();
    let managed_fields = object.pointer("/metadata/managedFields").cloned();
    let resource_version = object.pointer("/metadata/resourceVersion").cloned();
    *object = old.clone();
    let map = crate::object::map_mut(object, "");
    match status {
        Some(status) => map.insert("status".to_owned(), status),
        None => map.remove("status"),
    };
    let metadata = crate::object::map_mut(object, "metadata");
    for (field, value) in [("managedFields", managed_fields), ("resourceVersion", resource_version)] {
        match value {
            Some(value) => metadata.insert(field.to_owned(), value),
            None => metadata.remove(field),
        };
    }
}

/// Keeps the old status in an update through the main resource.
pub fn keep_status(object: &mut Object, old: &Object) {
    let map = crate::object::map_mut(object, "");
    match old.get("status") {
        Some(status) => map.insert("status".to_owned(), status.clone()),
        None => map.remove("status"),
    };
}

/// Raises `metadata.generation` when `spec` differs from the old one.
pub fn bump_generation_on_spec_change(object: &mut Object, old: &Object) {
    let generation = crate::object::i64_at(old, "metadata.generation").unwrap_or_default();
    let next = if object.get("spec") == old.get("spec") { generation } else { generation + 1 };
    crate::object::map_mut(object, "metadata").insert("generation".to_owned(), Value::from(next));
}

/// A kind whose schema says it all.
struct Plain;
impl Kind for Plain {}

/// The hooks of a built-in kind.
pub fn kind_of(group: &str, kind: &str) -> &'static dyn Kind {
    workloads::kind_of(group, kind).or_else(|| resources::kind_of(group, kind)).unwrap_or(&Plain)
}
