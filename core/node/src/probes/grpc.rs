//! The gRPC health check (`grpc.health.v1.Health/Check`), which is two messages of one field each: spelled out here
//! rather than generated.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Outcome;

/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 1024;

/// Asks for the health of a service.
pub async fn check(address: SocketAddr, service: &str, timeout: Duration) -> Outcome {
    let call = async {
        let stream =
            TcpStream::connect(address).await.map_err(|_| unreachable(address, timeout, "connection refused"))?;
        ask(stream, address, service).await
    };
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(text)) => Outcome::Failure(text),
        Err(_) => Outcome::Failure(unreachable(address, timeout, "context deadline exceeded")),
    }
}

fn unreachable(address: SocketAddr, timeout: Duration, why: &str) -> String {
    format!(
        "timeout: failed to connect service {:?} within {}: {why}",
        address.to_string(),
        crate::pod::go_duration(timeout)
    )
}

async fn ask(stream: TcpStream, address: SocketAddr, service: &str) -> Result<Outcome, String> {
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let (mut sender, connection) = http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let _driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", super::USER_AGENT)
        .body(Full::new(encode(service)))
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let mut status = answer.headers().get("grpc-status").cloned();
    let mut body = BytesMut::new();
    let mut stream = answer.into_body();
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(|error| failed(&error))?;
        if let Some(data) = frame.data_ref() {
            let room = ANSWER_BYTES_MAX.saturating_sub(body.len()).min(data.len());
            body.extend_from_slice(&data[..room]);
        }
        if let Some(trailers) = frame.trailers_ref() {
            status = trailers.get("grpc-status").cloned().or(status);
        }
    }
    let code = status.and_then(|value| value.to_str().ok().and_then(|text| text.parse::<u32>().ok()));
    Ok(match code {
        Some(0) => match decode(&body) {
            SERVING => Outcome::Success { output: String::new(), warning: None },
            other => Outcome::Failure(format!("service unhealthy (responded with {:?})", status_name(other))),
        },
        Some(12) => Outcome::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        code => Outcome::Failure(format!("error: health rpc probe failed with status {}", code.unwrap_or(2))),
    })
}

fn status_name(status: u64) -> &'static str {
    match status {
        0 => "UNKNOWN",
        1 => "SERVING",
        2 => "NOT_SERVING",
        _ => "SERVICE_UNKNOWN",
    }
}

/// A frame with a `HealthCheckRequest { service = 1 }`.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// The `status = 1` of a frame with a `HealthCheckResponse`.
fn decode(frame: &[u8]) -> u64 {
    match frame.get(5..) {
        Some([0x08, rest @ ..]) => {
            let mut value = 0u64;
            for (index, byte) in rest.iter().take(9).enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * index);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protobuf_has_them() {
        assert_eq!(&encode("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(decode(&[0, 0, 0, 0, 2, 8, 1]), SERVING);
        assert_eq!(decode(&[0, 0, 0, 0, 0]), 0);
    }

    #[tokio::test]
    async fn a_server_is_asked_and_its_word_is_told() {
        use http::{HeaderMap, HeaderValue, Response};
        use http_body_util::StreamBody;
        use hyper::body::{Frame, Incoming};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                    let path = request.uri().path().to_owned();
                    let asked = request.into_body().collect().await.expect("a body").to_bytes();
                    let mut trailers = HeaderMap::new();
                    let known = path == "/grpc.health.v1.Health/Check" && asked != encode("unknown");
                    trailers.insert("grpc-status", HeaderValue::from_static(if known { "0" } else { "5" }));
                    let word = if asked == encode("good") { 1 } else { 2 };
                    let data = Bytes::from(vec![0, 0, 0, 0, 2, 8, word]);
                    let frames = [Ok::<_, std::convert::Infallible>(Frame::data(data)), Ok(Frame::trailers(trailers))];
                    Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        let limit = Duration::from_secs(5);
        assert!(matches!(check(address, "good", limit).await, Outcome::Success { .. }));
        assert_eq!(
            check(address, "bad", limit).await,
            Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".to_owned())
        );
        let unknown = check(address, "unknown", limit).await;
        assert_eq!(unknown, Outcome::Failure("error: health rpc probe failed with status 5".to_owned()));
    }
}
