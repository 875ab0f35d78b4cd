//! Connections that change from HTTP to WebSocket or SPDY/3.1.

use std::future::Future;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::request::{Body, Refusal, full};

/// The header that SPDY clients name their protocols in.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The longest message of a client.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The upgraded connection.
pub type Connection = TokioIo<Upgraded>;

/// What a client wants to change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// SPDY/3.1.
    Spdy,
}

fn tokens<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

impl Protocol {
    /// What the headers ask for, if it is one of those.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        if !tokens(headers, "connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        tokens(headers, "upgrade").find_map(|token| match token.to_ascii_lowercase().as_str() {
            "websocket" => Some(Self::WebSocket),
            "spdy/3.1" => Some(Self::Spdy),
            _ => None,
        })
    }
}

/// The first of the client's protocols that is spoken; none when it names none.
fn negotiate<'a>(headers: &HeaderMap, name: &str, spoken: &[&'a str]) -> Result<Option<&'a str>, Refusal> {
    let asked: Vec<&str> = tokens(headers, name).collect();
    let found = asked.iter().find_map(|asked| spoken.iter().copied().find(|spoken| spoken == asked));
    if found.is_none() && !asked.is_empty() {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            reason: "Forbidden",
            message: format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                asked.join(" "),
                spoken.join(" ")
            ),
        });
    }
    Ok(found)
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The answer that turns the connection into a WebSocket, and the subprotocol.
pub fn web_socket(
    headers: &HeaderMap,
    spoken: &[&'static str],
) -> Result<(Response<Body>, Option<&'static str>), Refusal> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: no Sec-WebSocket-Key in request"))?;
    let protocol = negotiate(headers, "sec-websocket-protocol", spoken)?;
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|error| Refusal::internal(error.to_string()))?;
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, protocol))
}

/// The answer that turns the connection into a SPDY one, and the protocol of its streams: the last one spoken when the
/// client names none.
pub fn spdy(headers: &HeaderMap, spoken: &[&'static str]) -> Result<(Response<Body>, &'static str), Refusal> {
    let protocol = match negotiate(headers, STREAM_PROTOCOL, spoken)? {
        Some(protocol) => protocol,
        None => spoken.last().copied().unwrap_or_default(),
    };
    let mut response = switching("SPDY/3.1");
    response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((response, protocol))
}

/// A WebSocket over an upgraded connection.
pub async fn socket(connection: Connection) -> WebSocketStream<Connection> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// Goes on with the connection in a task, once the answer is out.
pub fn then<F>(upgraded: OnUpgrade, go_on: impl FnOnce(Connection) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        match upgraded.await {
            Ok(connection) => go_on(TokioIo::new(connection)).await,
            Err(error) => tracing::debug!(%error, "a connection did not change its protocol"),
        }
    });
}

/// The end of a WebSocket that came to its end in order: clients take one without a code for a failure.
pub fn normal_closure() -> tokio_tungstenite::tungstenite::Message {
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    tokio_tungstenite::tungstenite::Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn protocols_asked_for() {
        let cases = [
            ("Upgrade", "websocket", Some(Protocol::WebSocket)),
            ("keep-alive, upgrade", "WebSocket", Some(Protocol::WebSocket)),
            ("Upgrade", "SPDY/3.1", Some(Protocol::Spdy)),
            ("Upgrade", "h2c", None),
            ("close", "websocket", None),
        ];
        for (connection, upgrade, expected) in cases {
            let found = Protocol::of(&headers(&[("connection", connection), ("upgrade", upgrade)]));
            assert_eq!(found, expected, "{connection} {upgrade}");
        }
    }

    #[test]
    fn negotiation() {
        let spoken: &[&'static str] = &["v5", "v4", "v1"];
        let cases = [("v4, v5", Some("v4")), ("v9,v5", Some("v5")), ("v9", None), ("", Some("v1"))];
        for (asked, expected) in cases {
            let found = spdy(&headers(&[(STREAM_PROTOCOL, asked)]), spoken).ok().map(|(_, protocol)| protocol);
            assert_eq!(found, expected, "{asked}");
        }
    }
}
