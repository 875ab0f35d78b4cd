//! A client's side of a session, whatever protocol it speaks.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::container_io::TerminalSize;

/// Messages that wait in each direction.
pub const QUEUE_MAX: usize = 16;

/// Where output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// How it ended.
    Error,
}

/// What the client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of standard input.
    Stdin(Bytes),
    /// No more standard input.
    StdinClosed,
    /// The terminal's new size.
    Resize(TerminalSize),
}

/// How the client wants to be told of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeForm {
    /// A `metav1.Status` as JSON.
    Status,
    /// Text, and nothing at success.
    Text,
}

/// A connected client.
pub struct Client {
    /// What it does.
    pub events: mpsc::Receiver<Event>,
    /// What it is sent. When the sender is dropped the connection is closed in order.
    pub out: mpsc::Sender<(Channel, Bytes)>,
    /// Cancelled when the connection is lost.
    pub gone: CancellationToken,
    /// How it learns of the end.
    pub form: OutcomeForm,
    /// The task that writes; waited for so that the last words arrive.
    pub writer: AbortOnDropHandle<()>,
    /// The task that reads.
    pub reader: AbortOnDropHandle<()>,
}

/// Reads a message of the resize channel.
pub fn resize(text: &[u8]) -> Option<TerminalSize> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let size: Size = serde_json::from_slice(text).ok()?;
    (size.width > 0 && size.height > 0).then_some(TerminalSize { width: size.width, height: size.height })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (r#"{"Width":80,"Height":24}"#, Some(TerminalSize { width: 80, height: 24 })),
            (r#"{"Width":0,"Height":24}"#, None),
            (r#"{"Width":80}"#, None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(resize(text.as_bytes()), expected, "{text}");
        }
    }
}
