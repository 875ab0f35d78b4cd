//! Services and controllers that select pods: upstream's default spread keeps such pods apart.

use std::collections::{BTreeMap, HashMap};

use gantry_api::selectors::{LabelSelector, Requirement};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;

use crate::shape::Shape;
use crate::shape::selectors::{of_api, selects};

/// Selectors of services and of controllers.
#[derive(Default)]
pub struct Owners {
    services: HashMap<String, HashMap<String, LabelSelector>>,
    controllers: HashMap<(Box<str>, String, String), LabelSelector>,
    epoch: u64,
}

impl Owners {
    /// Grows with each change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A service is new, has changed or (without a selector) is gone.
    pub fn apply_service(&mut self, namespace: &str, name: &str, selector: Option<&BTreeMap<String, String>>) {
        let selector = selector.filter(|selector| !selector.is_empty());
        let selector =
            selector.map(|map| LabelSelector::from_map(map.iter().map(|(key, value)| (key.as_str(), value.as_str()))));
        let services = self.services.entry(namespace.to_owned()).or_default();
        let before = match &selector {
            Some(selector) => services.insert(name.to_owned(), selector.clone()),
            None => services.remove(name),
        };
        if services.is_empty() {
            self.services.remove(namespace);
        }
        self.epoch += u64::from(before != selector);
    }

    /// A controller is new, has changed or (without a selector) is gone.
    pub fn apply_controller(&mut self, kind: &str, namespace: &str, name: &str, selector: Option<LabelSelector>) {
        let key = (kind.into(), namespace.to_owned(), name.to_owned());
        let before = match &selector {
            Some(selector) => self.controllers.insert(key, selector.clone()),
            None => self.controllers.remove(&key),
        };
        self.epoch += u64::from(before != selector);
    }

    /// The selector under which pods of a shape belong together; none when nobody selects them.
    pub fn selector_for(&self, shape: &Shape) -> Option<LabelSelector> {
        let mut all: Vec<Requirement> = Vec::new();
        for selector in self.services.get(&*shape.namespace).into_iter().flat_map(HashMap::values) {
            if selects(selector, &shape.labels) {
                all.extend_from_slice(selector.requirements());
            }
        }
        if let Some(owner) = &shape.owner {
            let key = (owner.kind.clone(), shape.namespace.to_string(), owner.name.to_string());
            if let Some(selector) = self.controllers.get(&key) {
                all.extend_from_slice(selector.requirements());
            }
        }
        // Two services may say the same.
        all.sort_by(|one, other| (&one.key, &one.values).cmp(&(&other.key, &other.values)));
        all.dedup();
        (!all.is_empty()).then(|| LabelSelector::of(all))
    }
}

/// The selector of a controller's API object.
pub fn controller_selector(selector: &ApiSelector) -> LabelSelector {
    of_api(Some(selector))
}
