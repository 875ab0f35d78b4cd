//! Names of resources as places in the columns.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// A resource's place in the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(pub u16);

impl ResourceId {
    /// `cpu`, in thousandths of a core.
    pub const CPU: Self = Self(0);
    /// `memory`, in bytes.
    pub const MEMORY: Self = Self(1);
    /// `ephemeral-storage`, in bytes.
    pub const EPHEMERAL_STORAGE: Self = Self(2);
    /// `pods`, in pieces.
    pub const PODS: Self = Self(3);
}

/// The names of all resources that nodes offer or pods ask for.
pub struct ResourceNames {
    ids: FxHashMap<Arc<str>, ResourceId>,
    names: Vec<Arc<str>>,
}

impl Default for ResourceNames {
    fn default() -> Self {
        let mut names = Self { ids: FxHashMap::default(), names: Vec::new() };
        for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
            names.id(name);
        }
        names
    }
}

impl ResourceNames {
    /// The place of a resource, a new one if need be. Beyond 65,535 names all further ones share the last place, of
    /// which no node has any.
    pub fn id(&mut self, name: &str) -> ResourceId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let Ok(id) = u16::try_from(self.names.len()) else { return ResourceId(u16::MAX) };
        let name: Arc<str> = Arc::from(name);
        self.names.push(name.clone());
        self.ids.insert(name, ResourceId(id));
        ResourceId(id)
    }

    /// A resource's name.
    pub fn name(&self, id: ResourceId) -> &str {
        self.names.get(usize::from(id.0)).map_or("", |name| name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none; never so.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
