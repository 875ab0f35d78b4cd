//! Bodies: what comes in is collected under a limit, what goes out is bytes or a stream of them.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use gantry_api::error::ApiError;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// The error of a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of either direction.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// The largest request body, as upstream's default.
pub const REQUEST_BYTES_MAX: usize = 3 << 20;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body of a stream of chunks.
pub fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// A body of a stream that may fail.
pub fn try_stream(chunks: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// The whole request body, if it is within the limit.
pub async fn collect(body: Body) -> Result<Bytes, ApiError> {
    let mut body = body;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("cannot read the request's body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > REQUEST_BYTES_MAX {
            return Err(ApiError::request_entity_too_large(format_args!("limit is {REQUEST_BYTES_MAX}")));
        }
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    rest.extend_from_slice(head);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}
