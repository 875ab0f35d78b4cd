//! Which endpoint a path means.

/// Namespace, pod and container.
pub type Of<'a> = (&'a str, &'a str, &'a str);

/// An endpoint of the kubelet's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/healthz`
    Healthz,
    /// `/pods`
    Pods,
    /// `/runningpods/`
    RunningPods,
    /// `/stats/summary`
    Summary,
    /// `/metrics/resource`
    ResourceMetrics,
    /// `/containerLogs/{namespace}/{pod}/{container}`
    Logs(Of<'a>),
    /// `/exec/{namespace}/{pod}/[{uid}/]{container}`
    Exec(Of<'a>),
    /// `/attach/{namespace}/{pod}/[{uid}/]{container}`
    Attach(Of<'a>),
    /// `/portForward/{namespace}/{pod}[/{uid}]`: namespace and pod.
    PortForward((&'a str, &'a str)),
}

/// Reads a path. Names of Kubernetes need no decoding.
pub fn of(path: &str) -> Option<Route<'_>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    Some(match *parts.as_slice() {
        ["healthz"] => Route::Healthz,
        ["pods"] => Route::Pods,
        ["runningpods"] => Route::RunningPods,
        ["stats", "summary"] => Route::Summary,
        ["metrics", "resource"] => Route::ResourceMetrics,
        ["containerLogs", namespace, pod, container] => Route::Logs((namespace, pod, container)),
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            Route::Exec((namespace, pod, container))
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            Route::Attach((namespace, pod, container))
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => Route::PortForward((namespace, pod)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("/healthz", Some(Route::Healthz)),
            ("/pods", Some(Route::Pods)),
            ("/stats/summary", Some(Route::Summary)),
            ("/metrics/resource", Some(Route::ResourceMetrics)),
            ("/runningpods/", Some(Route::RunningPods)),
            ("/containerLogs/ns/p/c", Some(Route::Logs(("ns", "p", "c")))),
            ("/exec/ns/p/c", Some(Route::Exec(("ns", "p", "c")))),
            ("/exec/ns/p/uid/c", Some(Route::Exec(("ns", "p", "c")))),
            ("/attach/ns/p/uid/c", Some(Route::Attach(("ns", "p", "c")))),
            ("/portForward/ns/p", Some(Route::PortForward(("ns", "p")))),
            ("/portForward/ns/p/uid", Some(Route::PortForward(("ns", "p")))),
            ("/attach/ns/p", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(of(path), expected, "{path}");
        }
    }
}
