//! Where a check stands: a path that lives on the stack and becomes a [`FieldPath`] only when there is something to say.

use crate::field::FieldPath;

/// A path to a field; parents are borrowed, so that walking an object allocates nothing.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    up: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// A path of one or more dotted field names; empty for the object itself.
    pub fn root(name: &'a str) -> Self {
        Self { up: None, step: Step::Field(name) }
    }

    /// A field below this one.
    pub fn field(&'a self, name: &'a str) -> At<'a> {
        At { up: Some(self), step: Step::Field(name) }
    }

    /// An item of this list.
    pub fn index(&'a self, index: usize) -> At<'a> {
        At { up: Some(self), step: Step::Index(index) }
    }

    /// An entry of this map.
    pub fn key(&'a self, key: &'a str) -> At<'a> {
        At { up: Some(self), step: Step::Key(key) }
    }

    /// The path as errors carry it.
    pub fn path(&self) -> FieldPath {
        let parent = self.up.map(At::path).unwrap_or_default();
        match self.step {
            Step::Field("") => parent,
            Step::Field(name) => parent.child(name),
            Step::Index(index) => parent.index(index),
            Step::Key(key) => parent.key(key),
        }
    }
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path().fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_upstream_writes_it() {
        let spec = At::root("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        assert_eq!(first.field("resources").key("cpu").to_string(), "spec.containers[0].resources[cpu]");
        assert_eq!(At::root("").to_string(), "<nil>");
    }
}
