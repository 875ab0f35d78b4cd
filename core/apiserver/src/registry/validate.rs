//! Validation of whole objects: metadata as all kinds share it, then the kind's own.

use gantry_api::field::FieldErrors;
use gantry_api::kinds::kind_of;
use gantry_api::metadata;
use gantry_api::object::Object;
use gantry_api::resources::Resource;

/// What is wrong with a new object.
pub fn validate_create(resource: &Resource, object: &Object) -> FieldErrors {
    let kind = kind_of(&resource.group, &resource.kind);
    let mut errors = metadata::validate(object, resource.namespaced, kind.name_rule());
    errors.extend(kind.validate_create(object));
    errors
}

/// What is wrong with a change through a subresource; empty for the object itself.
pub fn validate_update(resource: &Resource, object: &Object, old: &Object, subresource: &str) -> FieldErrors {
    let kind = kind_of(&resource.group, &resource.kind);
    let mut errors = metadata::validate_change(object, old, resource.namespaced, kind.name_rule());
    errors.extend(match subresource {
        "" => kind.validate_update(object, old),
        "status" => kind.validate_status_update(object, old),
        other => kind.validate_subresource_update(other, object, old),
    });
    errors
}
