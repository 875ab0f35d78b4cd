//! Lifecycle hooks of containers: `postStart` and `preStop`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gantry_plugin_host::Runtime;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::context::Context;
use crate::exec::{self, CommandEnd};
use crate::pod;
use crate::probes::http;

/// Who asks, to programs that look at it.
const USER_AGENT: &str = "kube-lifecycle/1.36";
/// The longest that an HTTP hook may take to answer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a hook runs.
pub struct HookTarget<'a> {
    /// What the agent works with.
    pub context: &'a Context,
    /// The container's runtime.
    pub runtime: &'a Arc<dyn Runtime>,
    /// Its pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its id.
    pub container_id: &'a str,
    /// The pod's address.
    pub ip: Option<IpAddr>,
}

/// Runs a hook to its end, however long that takes: callers bound it.
///
/// # Errors
/// Upstream's message.
pub async fn run(handler: &LifecycleHandler, target: &HookTarget<'_>) -> Result<(), String> {
    let (name, long) = (&target.container.name, pod::long_name(target.pod));
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        // The caller's limit is the pod's grace period, which is shorter.
        let limit = Duration::from_secs(u64::from(u32::MAX));
        let end = exec::run(target.runtime, &target.context.parts.io, target.container_id, &command, limit).await;
        let (error, output) = match end {
            CommandEnd::Exited { code: 0, .. } => return Ok(()),
            CommandEnd::Exited { code, output } => {
                (format!("command '{}' exited with {code}: {output}", command.join(" ")), output)
            }
            CommandEnd::TimedOut => ("timed out".to_owned(), String::new()),
            CommandEnd::Failed(why) => (why, String::new()),
        };
        return Err(format!(
            "Exec lifecycle hook ([{}]) for Container {name:?} in Pod {long:?} failed - error: {error}, message: {output:?}",
            command.join(" ")
        ));
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let failed = |error: String| {
            format!(
                "HTTP lifecycle hook ({path}) for Container {name:?} in Pod {long:?} failed - error: {error}, message: \"\""
            )
        };
        let url = http::url(action, target.container, target.ip).map_err(&failed)?;
        return match http::get(action, &url, USER_AGENT, HTTP_TIMEOUT).await {
            // A plain server behind a port that was meant for TLS gets a second try, as upstream does.
            Err(error) if url.starts_with("https://") && error.contains("corrupt message") => {
                let plain = format!("http://{}", url.trim_start_matches("https://"));
                http::get(action, &plain, USER_AGENT, HTTP_TIMEOUT).await.map(drop).map_err(failed)
            }
            Err(error) => Err(failed(error)),
            Ok(answer) if answer.status >= 400 => {
                Err(failed(format!("HTTP probe failed with statuscode: {}", answer.status)))
            }
            Ok(_) => Ok(()),
        };
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or_default())).await;
        return Ok(());
    }
    Err(format!("invalid handler: {handler:?}"))
}
