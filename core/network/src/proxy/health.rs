//! Health check node ports: load balancers ask there whether a node has endpoints of a service with external traffic
//! policy Local.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use gantry_client::ObjectKey;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::services::health_answer;

/// Says how much of the service's traffic the node can take.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

struct Check {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    serving: AbortOnDropHandle<()>,
}

/// The ports that are open.
#[derive(Default)]
pub(super) struct HealthChecks {
    checks: HashMap<ObjectKey, Check>,
}

impl HealthChecks {
    /// Opens, keeps or closes a service's port.
    pub(super) async fn set(&mut self, service: &ObjectKey, wanted: Option<(u16, usize)>) {
        let Some((port, local_endpoints)) = wanted else {
            self.close(service).await;
            return;
        };
        if let Some(check) = self.checks.get(service).filter(|check| check.port == port) {
            check.local_endpoints.store(local_endpoints, Ordering::Relaxed);
            return;
        }
        self.close(service).await;
        let listener = match listen(port).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%service, port, %error, "health check node port not opened");
                return;
            }
        };
        let count = Arc::new(AtomicUsize::new(local_endpoints));
        let serving = axum::serve(listener, router(service.clone(), count.clone()));
        let serving = tokio::spawn(async move {
            // It never ends by itself.
            let _ = serving.await;
        });
        let check = Check { port, local_endpoints: count, serving: AbortOnDropHandle::new(serving) };
        self.checks.insert(service.clone(), check);
    }
}

impl HealthChecks {
    /// Closes a service's port: when this returns, it is free for another.
    async fn close(&mut self, service: &ObjectKey) {
        if let Some(check) = self.checks.remove(service) {
            check.serving.abort();
            let _ = check.serving.await;
        }
    }
}

/// All addresses, of both families where there are both.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
    }
}

fn router(service: ObjectKey, local_endpoints: Arc<AtomicUsize>) -> Router {
    Router::new().fallback(move || {
        let count = local_endpoints.load(Ordering::Relaxed);
        let body = health_answer(&service.namespace, &service.name, count).to_string();
        async move {
            let status = if count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
                (WEIGHT, HeaderValue::from(count)),
            ];
            (status, headers, body).into_response()
        }
    })
}
