//! One holder at a time, by a Lease (client-go's `tools/leaderelection`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a lease holds without renewal; upstream's default.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up; upstream's default.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often holder and candidates look; upstream's default.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// Which lease, and who we are.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// The lease's namespace, `kube-system` for the cluster's own.
    pub namespace: String,
    /// The lease's name, such as `kube-scheduler`.
    pub name: String,
    /// Unique among the candidates, such as `HOST_UUID`.
    pub identity: String,
}

/// Competes for a lease.
pub struct LeaderElector {
    leases: Api<Lease>,
    election: LeaderElection,
    /// The lease as last seen, and since when it has looked like that on our own clock: clocks of other hosts don't matter.
    observed: Option<(LeaseSpec, Instant)>,
}

impl LeaderElector {
    /// A candidate.
    pub fn new(client: Client, election: LeaderElection) -> Self {
        Self { leases: Api::namespaced(client, &election.namespace), election, observed: None }
    }

    /// Waits to become the leader, then runs `lead` until it ends, `shutdown` is cancelled or the lease is lost. The
    /// token that `lead` gets is cancelled when the lease is lost. On the way out a lease that is held is released, so
    /// that the next candidate needn't wait. Returns whether the lease was lost.
    pub async fn run<F, Fut>(mut self, shutdown: CancellationToken, lead: F) -> bool
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        while !self.try_hold().await {
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
        }
        let leading = CancellationToken::new();
        let mut work = std::pin::pin!(lead(leading.clone()));
        let mut renewed = Instant::now();
        let lost = loop {
            tokio::select! {
                () = &mut work => break false,
                () = shutdown.cancelled() => {
                    leading.cancel();
                    work.await;
                    break false;
                }
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
            let deadline = renewed + RENEW_DEADLINE;
            if tokio::time::timeout_at(deadline, self.try_hold()).await.unwrap_or(false) {
                renewed = Instant::now();
            } else if Instant::now() >= deadline {
                leading.cancel();
                work.await;
                break true;
            }
        };
        if !lost {
            self.release().await;
        }
        lost
    }

    /// Takes or renews the lease if nobody else holds it. Trouble with the API server counts as not holding it.
    async fn try_hold(&mut self) -> bool {
        match self.try_hold_once().await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(lease = self.election.name, error = &error as &dyn std::error::Error, "leader election");
                false
            }
        }
    }

    async fn try_hold_once(&mut self) -> Result<bool, kube::Error> {
        let now = Timestamp::now();
        let Some(mut lease) = self.leases.get_opt(&self.election.name).await? else {
            let spec = next_spec(None, &self.election.identity, now);
            let metadata = ObjectMeta { name: Some(self.election.name.clone()), ..ObjectMeta::default() };
            let created = self.leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await;
            return conflict_is_false(created);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        let seen_for = self.observed.as_ref().map(|(_, since)| since.elapsed()).unwrap_or_default();
        if !may_take(&spec, &self.election.identity, seen_for) {
            return Ok(false);
        }
        let next = next_spec(Some(&spec), &self.election.identity, now);
        lease.spec = Some(next.clone());
        let held = conflict_is_false(self.leases.replace(&self.election.name, &PostParams::default(), &lease).await)?;
        if held {
            self.observed = Some((next, Instant::now()));
        }
        Ok(held)
    }

    async fn release(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.election.name).await else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() == Some(&self.election.identity) {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            // Not being able to release costs the next leader a wait, no more.
            let _ = self.leases.replace(&self.election.name, &PostParams::default(), &lease).await;
        }
    }
}

fn conflict_is_false<T>(result: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a lease that has looked like this for a while may be taken or renewed.
fn may_take(spec: &LeaseSpec, identity: &str, seen_for: Duration) -> bool {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let duration = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
    holder.is_empty() || holder == identity || seen_for > duration
}

/// The lease as its (next) holder writes it.
fn next_spec(current: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let ours = current.is_some_and(|spec| spec.holder_identity.as_deref() == Some(identity));
    let transitions = current.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: if ours { current.and_then(|spec| spec.acquire_time.clone()) } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || current.is_none() { transitions } else { transitions.saturating_add(1) }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str) -> LeaseSpec {
        next_spec(None, identity, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_is_taken_when_free_ours_or_run_out() {
        let cases = [
            (held_by("a"), 0, true),
            (held_by("b"), 14, false),
            (held_by("b"), 16, true),
            (held_by(""), 0, true),
            (LeaseSpec::default(), 0, true),
        ];
        for (spec, seen_for_s, expect) in cases {
            assert_eq!(may_take(&spec, "a", Duration::from_secs(seen_for_s)), expect, "{spec:?} after {seen_for_s} s");
        }
    }

    #[test]
    fn a_change_of_holder_is_counted_and_dated() {
        let now = Timestamp::UNIX_EPOCH + Duration::from_secs(60);
        let taken = next_spec(Some(&held_by("b")), "a", now);
        assert_eq!((taken.lease_transitions, taken.acquire_time.clone()), (Some(1), Some(MicroTime(now))));
        let renewed = next_spec(Some(&taken), "a", now + Duration::from_secs(2));
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(1), taken.acquire_time));
    }
}
