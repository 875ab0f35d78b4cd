//! What to do about one object. Pure. Source: `attemptToDeleteItem` and `processDeletingDependentsItem`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::Node;

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists.
    Solid,
    /// It doesn't.
    Absent,
    /// It exists, but waits for this object to go first.
    Waiting,
}

/// How an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Its dependents follow.
    Background,
    /// Its dependents go first.
    Foreground,
    /// Its dependents stay.
    Orphan,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Delete it.
    Delete(Propagation),
    /// It has another owner still: take these owners off it.
    Disown(Vec<String>),
    /// Its blocking dependents are gone: take the finalizer `foregroundDeletion` off it.
    Release,
    /// It waits for these dependents.
    DeleteDependents,
    /// Take it off its dependents as their owner, then take the finalizer `orphan` off it.
    OrphanDependents,
}

/// Decides about an object. `dependents` says for each whether its reference to this object blocks.
pub fn decide(node: &Node, owners: &[(OwnerReference, OwnerState)], dependents: &[bool]) -> Decision {
    if node.deleting && node.orphan {
        return Decision::OrphanDependents;
    }
    if node.waits_for_dependents() {
        return if dependents.iter().any(|blocking| *blocking) {
            Decision::DeleteDependents
        } else {
            Decision::Release
        };
    }
    if node.deleting || owners.is_empty() {
        return Decision::Keep;
    }
    let with = |state: OwnerState| owners.iter().filter(move |(_, found)| *found == state).map(|(owner, _)| owner);
    if with(OwnerState::Solid).next().is_some() {
        let dangling: Vec<String> = with(OwnerState::Absent)
            .chain(with(OwnerState::Waiting).filter(|owner| owner.block_owner_deletion == Some(true)))
            .map(|owner| owner.uid.clone())
            .collect();
        return if dangling.is_empty() { Decision::Keep } else { Decision::Disown(dangling) };
    }
    if with(OwnerState::Waiting).next().is_some() && !dependents.is_empty() {
        return Decision::Delete(Propagation::Foreground);
    }
    Decision::Delete(if node.orphan {
        Propagation::Orphan
    } else if node.foreground {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        use OwnerState::{Absent, Solid, Waiting};
        let node = |deleting: bool, foreground: bool, orphan: bool| Node {
            resource: 0,
            namespace: String::new(),
            name: "n".to_owned(),
            owners: Vec::new(),
            deleting,
            foreground,
            orphan,
        };
        let owners = |states: &[OwnerState]| -> Vec<(OwnerReference, OwnerState)> {
            let owner = |(index, state): (usize, &OwnerState)| {
                let uid = format!("u{index}");
                (OwnerReference { uid, block_owner_deletion: Some(true), ..OwnerReference::default() }, *state)
            };
            states.iter().enumerate().map(owner).collect()
        };
        let plain = node(false, false, false);
        let cases = [
            (plain.clone(), vec![], vec![], Decision::Keep),
            (plain.clone(), vec![Solid], vec![], Decision::Keep),
            (plain.clone(), vec![Absent], vec![], Decision::Delete(Propagation::Background)),
            (plain.clone(), vec![Solid, Absent], vec![], Decision::Disown(vec!["u1".to_owned()])),
            (plain.clone(), vec![Waiting], vec![], Decision::Delete(Propagation::Background)),
            (plain.clone(), vec![Waiting], vec![false], Decision::Delete(Propagation::Foreground)),
            (plain, vec![Solid, Waiting], vec![], Decision::Disown(vec!["u1".to_owned()])),
            (node(false, false, true), vec![Absent], vec![], Decision::Delete(Propagation::Orphan)),
            (node(true, false, false), vec![Absent], vec![], Decision::Keep),
            (node(true, true, false), vec![], vec![true], Decision::DeleteDependents),
            (node(true, true, false), vec![], vec![false], Decision::Release),
            (node(true, false, true), vec![], vec![true], Decision::OrphanDependents),
        ];
        for (node, states, dependents, expected) in cases {
            assert_eq!(decide(&node, &owners(&states), &dependents), expected, "{node:?} {states:?} {dependents:?}");
        }
    }
}
