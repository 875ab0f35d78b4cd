//! Strings as small numbers, so that columns hold and filters compare integers.

use std::sync::Arc;

use rustc_hash::FxHashMap;

/// An interned string; equal strings have equal atoms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Atom(pub u32);

impl Atom {
    /// The empty string.
    pub const EMPTY: Self = Self(0);
}

/// The strings of one cluster: names, labels, taints and images of nodes, and what pods say about those. What pods
/// alone have (their own labels) is never interned, as it would grow without end.
pub struct Interner {
    atoms: FxHashMap<Arc<str>, Atom>,
    strings: Vec<Arc<str>>,
}

impl Default for Interner {
    fn default() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self { atoms: FxHashMap::from_iter([(empty.clone(), Atom::EMPTY)]), strings: vec![empty] }
    }
}

impl Interner {
    /// The atom of a string, a new one if need be.
    pub fn intern(&mut self, text: &str) -> Atom {
        if let Some(atom) = self.atoms.get(text) {
            return *atom;
        }
        let atom = Atom(u32::try_from(self.strings.len()).unwrap_or(u32::MAX));
        let text: Arc<str> = Arc::from(text);
        self.strings.push(text.clone());
        self.atoms.insert(text, atom);
        atom
    }

    /// The atom of a string that is known.
    pub fn find(&self, text: &str) -> Option<Atom> {
        self.atoms.get(text).copied()
    }

    /// The string of an atom; empty for one of another interner.
    pub fn text(&self, atom: Atom) -> &str {
        self.strings.get(atom.0 as usize).map_or("", |text| text)
    }

    /// The string of an atom, shared.
    pub fn shared(&self, atom: Atom) -> Arc<str> {
        self.strings.get(atom.0 as usize).cloned().unwrap_or_else(|| Arc::from(""))
    }
}
