//! How many replicas each replica set gets: arithmetic alone. Source: `deployment/util`, `rolling.go`, `sync.go`.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS};

/// `spec.replicas`.
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether it rolls.
pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// A share of a total: a number as it is, a percentage rounded up or down. What isn't one counts as 0.
fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()) else { return 0 };
            let exact = percent * i64::from(total);
            let share = if up { (exact + 99).div_euclid(100) } else { exact.div_euclid(100) };
            share.clamp(0, i64::from(i32::MAX)) as i32
        }
    }
}

/// How many pods may be missing and how many may be too many. At least one of them isn't 0, or nothing would move.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let total = replicas(deployment);
    let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), total, true);
    let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), total, false);
    if surge == 0 && unavailable == 0 { (1, 0) } else { (unavailable, surge) }
}

/// How many pods may be missing.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = replicas(deployment);
    if total == 0 { 0 } else { fenceposts(deployment).0.min(total) }
}

/// How many pods may be too many.
pub fn max_surge(deployment: &Deployment) -> i32 {
    fenceposts(deployment).1
}

/// `spec.replicas` of a set.
pub fn set_replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default()
}

/// The sum of `spec.replicas`.
pub fn total_replicas(sets: &[ReplicaSet]) -> i32 {
    sets.iter().map(set_replicas).sum()
}

/// The sum of the available pods.
pub fn total_available(sets: &[ReplicaSet]) -> i32 {
    sets.iter().map(available).sum()
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

/// How many replicas the new set shall have now. `all` are all sets, the new one included.
pub fn new_set_replicas(deployment: &Deployment, all: &[ReplicaSet], new_set_replicas: i32) -> i32 {
    let wanted = replicas(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let max_total = wanted + max_surge(deployment);
    let current = total_replicas(all);
    if current >= max_total {
        return new_set_replicas;
    }
    new_set_replicas + (max_total - current).min(wanted - new_set_replicas)
}

/// How the old sets shrink during a rolling update: the index of each and its new size. First those pods go that aren't
/// available anyway, then as many as may be missing. Old sets are in order of age.
pub fn shrink_old_sets(deployment: &Deployment, new_set: &ReplicaSet, old: &[ReplicaSet]) -> Vec<(usize, i32)> {
    let old_total = total_replicas(old);
    if old_total == 0 {
        return Vec::new();
    }
    let min_available = replicas(deployment) - max_unavailable(deployment);
    let new_unavailable = set_replicas(new_set) - available(new_set);
    let max_scaled_down = old_total + set_replicas(new_set) - min_available - new_unavailable;
    if max_scaled_down <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = old.iter().map(set_replicas).collect();
    // Pods that don't work are no loss.
    let mut cleaned = 0;
    for (size, set) in sizes.iter_mut().zip(old) {
        if cleaned >= max_scaled_down {
            break;
        }
        let broken = *size - available(set);
        if *size == 0 || broken <= 0 {
            continue;
        }
        let count = broken.min(max_scaled_down - cleaned);
        *size -= count;
        cleaned += count;
    }
    let mut spare = total_available(old) + available(new_set) - min_available;
    for size in &mut sizes {
        if spare <= 0 {
            break;
        }
        let count = (*size).min(spare);
        *size -= count;
        spare -= count;
    }
    sizes.into_iter().enumerate().filter(|(index, size)| *size != set_replicas(&old[*index])).collect()
}

/// How a change of `spec.replicas` in the middle of a rollout spreads over the active sets, in proportion to their
/// sizes: the new size of each. Source: `scale` and `GetReplicaSetProportion`.
pub fn scale_in_proportion(deployment: &Deployment, active: &[ReplicaSet]) -> Vec<(String, i32)> {
    let current = total_replicas(active);
    let allowed = if replicas(deployment) > 0 { replicas(deployment) + max_surge(deployment) } else { 0 };
    let to_add = allowed - current;
    let mut sets: Vec<&ReplicaSet> = active.iter().collect();
    // The largest first; among equals the newest gains first and the oldest loses first.
    sets.sort_by(|a, b| {
        let age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
        set_replicas(b).cmp(&set_replicas(a)).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut sizes: Vec<(String, i32)> = Vec::new();
    for set in &sets {
        let size = set_replicas(set);
        let part = if to_add == 0 { 0 } else { proportion(deployment, set, to_add, added) };
        added += part;
        sizes.push((set.metadata.name.clone().unwrap_or_default(), size + part));
    }
    // What rounding left over goes to the largest.
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let size = set_replicas(set);
    if size == 0 || to_add == added {
        return 0;
    }
    let total = replicas(deployment) + max_surge(deployment);
    let annotations = set.metadata.annotations.as_ref();
    let was = revision::number(annotations, MAX_REPLICAS)
        .filter(|max| *max != 0)
        .or_else(|| deployment.status.as_ref().and_then(|status| status.replicas).map(i64::from))
        .unwrap_or_default();
    let new_size = if was == 0 { size } else { (f64::from(size) * f64::from(total) / was as f64).round() as i32 };
    let wanted = new_size - size;
    let left = to_add - added;
    if to_add > 0 { wanted.min(left) } else { wanted.max(left) }
}

/// Whether `spec.replicas` changed since the sets were last scaled.
pub fn is_scaling(deployment: &Deployment, sets: &[ReplicaSet]) -> bool {
    sets.iter().filter(|set| set_replicas(set) > 0).any(|set| {
        let desired = revision::number(set.metadata.annotations.as_ref(), DESIRED_REPLICAS);
        desired.is_some_and(|desired| desired != i64::from(replicas(deployment)))
    })
}
