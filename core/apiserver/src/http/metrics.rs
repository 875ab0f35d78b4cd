//! Counters of requests in Prometheus' text format, under upstream's names.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use http::{Response, StatusCode};

use super::body::Body;
use super::request_info::RequestInfo;
use super::response;
use crate::server::Inner;

/// Upper ends of the latency buckets, in seconds.
const BUCKETS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// How many different label sets are kept; requests beyond them are counted as `other`.
const SERIES_MAX: usize = 20_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BUCKETS_SECONDS.len()],
    count: AtomicU64,
    sum_micros: AtomicU64,
}

/// All counters of a server.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: DashMap<(Labels, u16), AtomicU64>,
    latencies: DashMap<Labels, Latency>,
    in_flight: Arc<AtomicI64>,
    long_running: Arc<AtomicI64>,
}

/// A request that is being counted.
pub struct Counted<'a> {
    metrics: &'a Metrics,
    labels: Labels,
    _in_flight: InFlight,
}

struct InFlight(Arc<AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Starts counting a request.
    pub fn start(&self, info: &RequestInfo) -> Counted<'_> {
        let gauge = if info.verb == "watch" { &self.long_running } else { &self.in_flight };
        gauge.fetch_add(1, Ordering::Relaxed);
        let scope = match (info.is_resource, info.namespace.is_empty(), info.named_in_path) {
            (false, ..) => "",
            (true, _, true) => "resource",
            (true, false, false) => "namespace",
            (true, true, false) => "cluster",
        };
        let mut labels = Labels {
            verb: info.verb.to_ascii_uppercase(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: if info.is_resource { info.subresource.clone() } else { String::new() },
            scope,
        };
        if self.latencies.len() >= SERIES_MAX && !self.latencies.contains_key(&labels) {
            labels = Labels {
                group: String::new(),
                version: String::new(),
                resource: "other".to_owned(),
                subresource: String::new(),
                ..labels
            };
        }
        Counted { metrics: self, labels, _in_flight: InFlight(gauge.clone()) }
    }

    /// The page at `/metrics`.
    pub fn page(&self, server: &Inner) -> Response<Body> {
        let mut out = String::new();
        self.write(server, &mut out).unwrap_or_default();
        response::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out)
    }

    fn write(&self, server: &Inner, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# HELP apiserver_request_total Requests by verb, resource and status code.\n# TYPE apiserver_request_total counter"
        )?;
        for series in &self.requests {
            let (labels, code) = series.key();
            writeln!(
                out,
                "apiserver_request_total{{code=\"{code}\",{labels}}} {}",
                series.value().load(Ordering::Relaxed)
            )?;
        }
        writeln!(
            out,
            "# HELP apiserver_request_duration_seconds Latency until the answer begins.\n# TYPE apiserver_request_duration_seconds histogram"
        )?;
        for series in &self.latencies {
            let (labels, latency) = (series.key(), series.value());
            let mut below = 0;
            for (at, end) in BUCKETS_SECONDS.iter().enumerate() {
                below += latency.buckets[at].load(Ordering::Relaxed);
                writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{end}\"}} {below}")?;
            }
            let count = latency.count.load(Ordering::Relaxed);
            writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}")?;
            writeln!(
                out,
                "apiserver_request_duration_seconds_sum{{{labels}}} {}",
                latency.sum_micros.load(Ordering::Relaxed) as f64 / 1e6
            )?;
            writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {count}")?;
        }
        writeln!(
            out,
            "# HELP apiserver_current_inflight_requests Requests being answered.\n# TYPE apiserver_current_inflight_requests gauge"
        )?;
        writeln!(out, "apiserver_current_inflight_requests {}", self.in_flight.load(Ordering::Relaxed))?;
        writeln!(out, "# HELP apiserver_longrunning_requests Watches.\n# TYPE apiserver_longrunning_requests gauge")?;
        let watchers: usize = server.registry.caches.iter().map(|stored| stored.cache.watchers()).sum();
        writeln!(out, "apiserver_longrunning_requests {watchers}")?;
        writeln!(
            out,
            "# HELP apiserver_resource_objects Objects in the cache.\n# TYPE apiserver_resource_objects gauge"
        )?;
        for stored in server.registry.caches.iter() {
            writeln!(
                out,
                "apiserver_resource_objects{{group=\"{}\",resource=\"{}\"}} {}",
                stored.resource.group,
                stored.resource.plural,
                stored.cache.len()
            )?;
        }
        writeln!(
            out,
            "# HELP apiserver_cache_revision The store's revision that the cache shows.\n# TYPE apiserver_cache_revision gauge"
        )?;
        writeln!(out, "apiserver_cache_revision {}", server.registry.caches.applied.revision())
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = [
            ("group", self.group.as_str()),
            ("resource", &self.resource),
            ("scope", self.scope),
            ("subresource", &self.subresource),
            ("verb", &self.verb),
            ("version", &self.version),
        ];
        for (at, (name, value)) in pairs.into_iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(out, "{}{name}=\"{value}\"", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Counted<'_> {
    /// The request has been answered.
    pub fn finish(self, status: StatusCode, took: Duration) {
        // What doesn't exist gets no series of its own: paths are the client's.
        let labels = if status == StatusCode::NOT_FOUND && !self.labels.resource.is_empty() {
            Labels { subresource: String::new(), ..self.labels }
        } else {
            self.labels
        };
        self.metrics.requests.entry((labels.clone(), status.as_u16())).or_default().fetch_add(1, Ordering::Relaxed);
        let latency = self.metrics.latencies.entry(labels).or_default();
        let seconds = took.as_secs_f64();
        if let Some(at) = BUCKETS_SECONDS.iter().position(|end| seconds <= *end) {
            latency.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        latency.count.fetch_add(1, Ordering::Relaxed);
        latency.sum_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
