//! Shapes in use, each kept once.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::shape::Shape;

/// A shape in use; ids only grow and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeId(pub u32);

struct Used {
    shape: Arc<Shape>,
    users: u32,
}

/// Shapes of the pods that are known, pending or placed.
#[derive(Default)]
pub struct Shapes {
    by_id: FxHashMap<ShapeId, Used>,
    ids: FxHashMap<Arc<Shape>, ShapeId>,
    /// Shapes that say something about other pods, in the order of their ids.
    with_terms: Vec<ShapeId>,
    selecting_namespaces: u32,
    next: u32,
}

impl Shapes {
    /// The id of a shape, which must be given back to [`Shapes::release`].
    pub fn acquire(&mut self, shape: Shape) -> ShapeId {
        if let Some(id) = self.ids.get(&shape) {
            if let Some(used) = self.by_id.get_mut(id) {
                used.users += 1;
            }
            return *id;
        }
        let id = ShapeId(self.next);
        self.next = self.next.wrapping_add(1);
        let shape = Arc::new(shape);
        if shape.has_pod_terms() {
            self.with_terms.push(id);
        }
        self.selecting_namespaces += u32::from(selects_namespaces(&shape));
        self.ids.insert(shape.clone(), id);
        self.by_id.insert(id, Used { shape, users: 1 });
        id
    }

    /// One more user of a shape in use.
    pub fn share(&mut self, id: ShapeId) {
        if let Some(used) = self.by_id.get_mut(&id) {
            used.users += 1;
        }
    }

    /// Ends one use of a shape.
    pub fn release(&mut self, id: ShapeId) {
        let Some(used) = self.by_id.get_mut(&id) else { return };
        used.users -= 1;
        if used.users == 0 {
            if let Some(used) = self.by_id.remove(&id) {
                self.ids.remove(&used.shape);
                self.selecting_namespaces -= u32::from(selects_namespaces(&used.shape));
            }
            if let Ok(at) = self.with_terms.binary_search(&id) {
                self.with_terms.remove(at);
            }
        }
    }

    /// A shape in use.
    pub fn get(&self, id: ShapeId) -> Option<&Arc<Shape>> {
        self.by_id.get(&id).map(|used| &used.shape)
    }

    /// The id that the next new shape gets: newer ones than a reader knows are from there on.
    pub fn next_id(&self) -> ShapeId {
        ShapeId(self.next)
    }

    /// Shapes that say something about other pods, from an id on.
    pub fn with_terms_from(&self, id: ShapeId) -> impl Iterator<Item = (ShapeId, &Arc<Shape>)> {
        let from = self.with_terms.partition_point(|known| *known < id);
        self.with_terms[from..].iter().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// Whether any shape selects namespaces by their labels.
    pub fn select_namespaces(&self) -> bool {
        self.selecting_namespaces > 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

fn selects_namespaces(shape: &Shape) -> bool {
    let terms = shape.affinity.iter().chain(&shape.anti_affinity);
    terms
        .chain(shape.preferred_pods.iter().map(|weighted| &weighted.term))
        .any(|term| term.namespace_selector.as_ref().is_some_and(|selector| !selector.is_everything()))
}
