//! Which service an EndpointSlice belongs to.

use gantry_client::ObjectKey;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// The label that names the service.
pub(crate) const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index of slices by service, as `NAMESPACE/NAME`.
pub(crate) const BY_SERVICE: &str = "service";

/// The service of a slice.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(LABEL_SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name))
}

/// The index function of [`BY_SERVICE`].
pub(crate) fn slices_by_service(slice: &EndpointSlice) -> Vec<String> {
    service_of(slice).iter().map(ObjectKey::to_string).collect()
}
