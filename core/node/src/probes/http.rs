//! HTTP requests to containers, for probes and hooks: no proxy, no check of certificates, redirects on the same host.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use reqwest::redirect::Policy;

use crate::pod::resolve_port;

/// How much of an answer is read; upstream's limit.
const BODY_BYTES_MAX: usize = 10 * 1024;
/// How many redirects are followed; Go's limit.
const REDIRECTS_MAX: usize = 10;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The body's beginning.
    pub body: String,
}

/// The URL of an action, for a pod with that address.
///
/// # Errors
/// When the port has no number.
pub fn url(action: &HTTPGetAction, container: &Container, pod_ip: Option<IpAddr>) -> Result<String, String> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = match action.host.as_deref().filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => pod_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    let port = resolve_port(&action.port, container)?;
    let path = action.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(format!("{scheme}://{host}:{port}{path}"))
}

fn client() -> Result<&'static reqwest::Client, String> {
    static CLIENT: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    let made = CLIENT.get_or_init(|| {
        // Another part of the process may have installed one already: any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(0)
            .tls_danger_accept_invalid_certs(true)
            .redirect(Policy::custom(|attempt| {
                if attempt.previous().len() >= REDIRECTS_MAX {
                    return attempt.error("stopped after 10 redirects");
                }
                let first = attempt.previous().first().and_then(|url| url.host_str().map(str::to_owned));
                if first.as_deref() == attempt.url().host_str() { attempt.follow() } else { attempt.stop() }
            }))
            .build()
            .map_err(|error| error.to_string())
    });
    made.as_ref().map_err(Clone::clone)
}

/// Sends the request.
///
/// # Errors
/// The failure in the words of Go's client.
pub async fn get(action: &HTTPGetAction, url: &str, agent: &str, timeout: Duration) -> Result<HttpAnswer, String> {
    let mut request = client()?.get(url).timeout(timeout).header("Connection", "close");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    let given = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    if !given("User-Agent") {
        request = request.header("User-Agent", agent);
    }
    if !given("Accept") {
        request = request.header("Accept", "*/*");
    }
    for header in headers {
        // An empty value of these two takes the header away.
        if header.value.is_empty() && ["user-agent", "accept"].contains(&header.name.to_lowercase().as_str()) {
            continue;
        }
        request = request.header(&header.name, &header.value);
    }
    let mut answer = request.send().await.map_err(|error| describe(url, &error))?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while body.len() < BODY_BYTES_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(BODY_BYTES_MAX - body.len())]),
            Ok(None) => break,
            Err(error) => return Err(describe(url, &error)),
        }
    }
    Ok(HttpAnswer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// A failure as Go's client tells it.
fn describe(url: &str, error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
    }
    let mut deepest: &dyn std::error::Error = error;
    let mut system = None;
    loop {
        if let Some(io) = deepest.downcast_ref::<std::io::Error>() {
            system = system.or_else(|| io.raw_os_error());
        }
        match deepest.source() {
            Some(next) => deepest = next,
            None => break,
        }
    }
    if error.is_connect() {
        let address = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        if let Some(code) = system {
            return format!("Get {url:?}: {}", dial_error(address, code));
        }
    }
    format!("Get {url:?}: {deepest}")
}

/// A refused connection as Go tells it.
pub fn dial_error(address: &str, code: i32) -> String {
    let text = nix::errno::Errno::from_raw(code).desc().to_lowercase();
    format!("dial tcp {address}: connect: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that answers each request by the function, and tells the requests.
    async fn serve(answer: fn(&str) -> String) -> (u16, tokio::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (send, receive) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let mut chunk = [0; 1024];
                while !request.ends_with(b"\r\n\r\n") {
                    let count = stream.read(&mut chunk).await.expect("a request");
                    request.extend_from_slice(&chunk[..count]);
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                stream.write_all(answer(&text).as_bytes()).await.expect("an answer");
                let _ = send.send(text).await;
            }
        });
        (port, receive)
    }

    fn action(port: u16, headers: serde_json::Value) -> HTTPGetAction {
        serde_json::from_value(json!({"port": port, "path": "/x", "httpHeaders": headers})).expect("an action")
    }

    async fn ask(action: &HTTPGetAction) -> Result<HttpAnswer, String> {
        let url = url(action, &Container::default(), Some(IpAddr::from([127, 0, 0, 1]))).expect("a url");
        get(action, &url, "kube-probe/1.36", Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn requests_are_those_of_upstream() {
        let (port, mut requests) =
            serve(|_| "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy".to_owned()).await;
        let found =
            ask(&action(port, json!([{"name": "Host", "value": "h.example"}, {"name": "X-A", "value": "1"}]))).await;
        assert_eq!(found, Ok(HttpAnswer { status: 503, body: "busy".to_owned() }));
        let request = requests.recv().await.expect("a request").to_lowercase();
        for line in ["get /x http/1.1", "host: h.example", "x-a: 1", "user-agent: kube-probe/1.36", "accept: */*"] {
            assert!(request.contains(&format!("{line}\r\n")), "{line} in {request}");
        }
        assert_eq!(request.matches("host:").count(), 1, "{request}");
    }

    #[tokio::test]
    async fn redirects_stay_on_the_host() {
        let (port, _requests) = serve(|request| {
            let to = if request.starts_with("GET /x ") { "/y" } else { "http://other.example/" };
            format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        })
        .await;
        assert_eq!(ask(&action(port, json!([]))).await.map(|answer| answer.status), Ok(302));
    }

    #[tokio::test]
    async fn failures_read_as_in_go() {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
        let expect =
            format!("Get \"http://127.0.0.1:{free}/x\": dial tcp 127.0.0.1:{free}: connect: connection refused");
        assert_eq!(ask(&action(free, json!([]))).await, Err(expect));
    }
}
