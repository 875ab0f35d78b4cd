//! What a command says when it fails, in kubectl's words.

use std::fmt;

/// A failed command. Its text is what the user sees.
#[derive(Debug)]
pub enum CliError {
    /// The API server's refusal.
    Server {
        /// HTTP status.
        code: u16,
        /// The machine-readable reason, such as `NotFound`; may be empty.
        reason: String,
        /// Its words.
        message: String,
        /// The whole `Status`.
        status: serde_json::Value,
    },
    /// The server can't be reached.
    Connection {
        /// `https://HOST:PORT`.
        server: String,
        /// Why.
        reason: String,
    },
    /// The command line or a file is wrong, or something else on this side.
    Usage(String),
    /// Several failures, each on a line of its own.
    Many(Vec<CliError>),
    /// All has been said already; only the exit code is left.
    Exit(u8),
}

/// The outcome of a command.
pub type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    /// Something on this side.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Whether the object isn't there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Server { code: 404, .. })
    }

    /// Whether somebody else changed the object in between, or it is there already.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Server { code: 409, .. })
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            _ => 1,
        }
    }

    /// Several failures as one; none is success, one is itself.
    pub fn gather(mut failures: Vec<CliError>) -> CliResult {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Many(failures)),
        }
    }

    /// From an answer that isn't a success.
    pub fn from_status(code: u16, body: &[u8]) -> Self {
        let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let mut message = text("message");
        if message.is_empty() {
            message = String::from_utf8_lossy(body).trim().to_owned();
        }
        Self::Server { code, reason: text("reason"), message, status }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { code: 401, .. } => {
                out.write_str("error: You must be logged in to the server (Unauthorized)")
            }
            Self::Server { reason, message, status, .. } if reason == "Invalid" => {
                let name = status["details"]["name"].as_str().unwrap_or_default();
                let kind = status["details"]["kind"].as_str().unwrap_or_default();
                if name.is_empty() && kind.is_empty() {
                    return write!(out, "The request is invalid: {message}");
                }
                // kubectl tells the causes, one by one when there are several.
                let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
                let show = |cause: &serde_json::Value| {
                    let field = cause["field"].as_str().unwrap_or_default();
                    let message = cause["message"].as_str().unwrap_or_default();
                    if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") }
                };
                match causes {
                    [] => write!(out, "The {kind} \"{name}\" is invalid"),
                    [one] => write!(out, "The {kind} \"{name}\" is invalid: {}", show(one)),
                    many => {
                        write!(out, "The {kind} \"{name}\" is invalid: ")?;
                        many.iter().try_for_each(|cause| write!(out, "\n* {}", show(cause)))
                    }
                }
            }
            Self::Server { reason, message, .. } if reason.is_empty() => {
                write!(out, "Error from server: {message}")
            }
            Self::Server { reason, message, .. } => write!(out, "Error from server ({reason}): {message}"),
            Self::Connection { server, reason } => {
                let host = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
                if reason.contains("refused") {
                    write!(
                        out,
                        "The connection to the server {host} was refused - did you specify the right host or port?"
                    )
                } else {
                    write!(out, "Unable to connect to the server: {reason}")
                }
            }
            Self::Usage(message) => write!(out, "error: {message}"),
            Self::Many(failures) => {
                for (index, failure) in failures.iter().enumerate() {
                    if index > 0 {
                        out.write_str("\n")?;
                    }
                    write!(out, "{failure}")?;
                }
                Ok(())
            }
            Self::Exit(_) => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::Usage(error.to_string())
    }
}
