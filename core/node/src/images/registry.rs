//! Talking to registries: resolving names and fetching blobs.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use oci_client::Reference;
use oci_client::client::{BlobResponse, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::manifest::{ACCEPTED, Descriptor};
use super::{ImageError, RegistryCredentials, reference};

/// Attempts for what may work when tried again.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause between attempts; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for a connection, and for the next bytes of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest manifest or configuration; containerd's limit.
pub const DOCUMENT_LIMIT_BYTES: u64 = 8 * 1024 * 1024;

/// One way to get at an image: an endpoint, and what is shown to it.
pub struct Source {
    client: Client,
    auth: RegistryAuth,
    image: Reference,
    scheme: &'static str,
}

/// Why a source gave nothing.
#[derive(Debug)]
pub struct Failure {
    /// For people, in containerd's words.
    pub reason: String,
    /// The registry's own answer, rather than none.
    pub refused: bool,
}

impl Failure {
    /// As an error about an image.
    pub fn about(self, reference: &str) -> ImageError {
        let (reference, reason) = (reference.to_owned(), self.reason);
        if self.refused {
            ImageError::Refused { reference, reason }
        } else {
            ImageError::Unreachable { reference, reason }
        }
    }
}

impl Source {
    /// Of an image at an endpoint: a registry's host, or a mirror's; `plain` without TLS.
    pub fn new(
        image: &Reference,
        mirror: Option<&str>,
        plain: bool,
        credentials: Option<&RegistryCredentials>,
    ) -> Self {
        let mut image = image.clone();
        if let Some(mirror) = mirror {
            image.set_mirror_registry(mirror.to_owned());
        }
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("gantry/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let auth = match credentials {
            Some(c) => RegistryAuth::Basic(c.username.clone(), c.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        Self { client: Client::new(config), auth, image, scheme: if plain { "http" } else { "https" } }
    }

    /// The manifest or index that the name stands for, with its digest.
    pub async fn resolve(&self) -> Result<(Vec<u8>, String), Failure> {
        let name = self.image.whole();
        self.manifest(&self.image).await.map_err(|failure| Failure {
            reason: format!("failed to resolve reference {name:?}: {}", failure.reason),
            ..failure
        })
    }

    /// A manifest by its digest.
    pub async fn manifest_by_digest(&self, digest: &str) -> Result<Vec<u8>, Failure> {
        let mut image = self.image.clone_with_digest(digest.to_owned());
        if self.image.namespace().is_some() {
            image.set_mirror_registry(self.image.resolve_registry().to_owned());
        }
        Ok(self.manifest(&image).await?.0)
    }

    async fn manifest(&self, image: &Reference) -> Result<(Vec<u8>, String), Failure> {
        let which = image.digest().or(image.tag()).unwrap_or_default();
        let url = format!("{}://{}/v2/{}/manifests/{which}", self.scheme, image.resolve_registry(), image.repository());
        let (text, digest) = retry(|| self.client.pull_manifest_raw(image, &self.auth, &ACCEPTED))
            .await
            .map_err(|error| self.failure(&error, &url))?;
        if text.len() as u64 > DOCUMENT_LIMIT_BYTES {
            let reason = format!("the manifest has more than {DOCUMENT_LIMIT_BYTES} bytes");
            return Err(Failure { reason, refused: true });
        }
        Ok((text.to_vec(), digest))
    }

    /// Fetches a blob into a file and checks its digest. Broken off, it goes on where it was. `progress` is told how
    /// many bytes are there.
    pub async fn fetch(
        &self,
        blob: &Descriptor,
        file: &Path,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Failure> {
        let io =
            |error: std::io::Error| Failure { reason: format!("writing {}: {error}", file.display()), refused: true };
        let url = format!(
            "{}://{}/v2/{}/blobs/{}",
            self.scheme,
            self.image.resolve_registry(),
            self.image.repository(),
            blob.digest
        );
        if !blob.digest.starts_with("sha256:") {
            return Err(Failure { reason: format!("unsupported digest {}", blob.digest), refused: true });
        }
        let mut output = tokio::fs::File::create(file).await.map_err(io)?;
        let mut digest = Sha256::new();
        let mut received = 0u64;
        let mut pause = FIRST_PAUSE;
        let mut attempts = 0;
        loop {
            let before = received;
            let result = self.fetch_rest(blob, &mut output, &mut digest, &mut received, progress).await;
            // Bytes that came are progress: only attempts without count.
            attempts = if received > before { 1 } else { attempts + 1 };
            match result {
                Ok(()) if received < blob.size => {}
                Ok(()) => break,
                Err(FetchError::Io(error)) => return Err(io(error)),
                // All of it came: what is wrong with it is told below.
                Err(FetchError::BrokenOff(_)) if received > 0 && received == blob.size => break,
                Err(FetchError::TooLong) => {
                    let reason = format!("{url} has more than the {} bytes of its descriptor", blob.size);
                    return Err(Failure { reason, refused: true });
                }
                Err(FetchError::Registry(error)) if attempts >= ATTEMPTS_MAX || !may_work_later(&error) => {
                    return Err(self.failure(&error, &url));
                }
                Err(FetchError::Registry(_) | FetchError::BrokenOff(_)) if attempts < ATTEMPTS_MAX => {}
                Err(FetchError::BrokenOff(reason)) => {
                    return Err(Failure { reason: format!("failed to copy: {url}: {reason}"), refused: false });
                }
                Err(FetchError::Registry(error)) => return Err(self.failure(&error, &url)),
            }
            if attempts >= ATTEMPTS_MAX {
                let reason = format!("failed to copy: {url}: {received} of {} bytes: unexpected EOF", blob.size);
                return Err(Failure { reason, refused: false });
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        output.flush().await.map_err(io)?;
        let got = format!("sha256:{}", hex::encode(digest.finalize()));
        if got != blob.digest {
            let reason = format!("failed to copy: {url}: unexpected digest {got}, expected {}", blob.digest);
            return Err(Failure { reason, refused: true });
        }
        Ok(())
    }

    async fn fetch_rest(
        &self,
        blob: &Descriptor,
        output: &mut tokio::fs::File,
        digest: &mut Sha256,
        received: &mut u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), FetchError> {
        let response = if *received == 0 {
            let stream = self.client.pull_blob_stream(&self.image, blob.digest.as_str()).await;
            stream.map(BlobResponse::Full)
        } else {
            self.client.pull_blob_stream_partial(&self.image, blob.digest.as_str(), *received, None).await
        };
        let mut stream = match response.map_err(FetchError::Registry)? {
            BlobResponse::Partial(stream) => stream.stream,
            BlobResponse::Full(stream) => {
                if *received > 0 {
                    // The registry knows no ranges.
                    use tokio::io::AsyncSeekExt;
                    output.rewind().await.map_err(FetchError::Io)?;
                    output.set_len(0).await.map_err(FetchError::Io)?;
                    *digest = Sha256::new();
                    *received = 0;
                }
                stream.stream
            }
        };
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| FetchError::BrokenOff(error.to_string()))?;
            *received += bytes.len() as u64;
            if blob.size > 0 && *received > blob.size {
                return Err(FetchError::TooLong);
            }
            digest.update(&bytes);
            output.write_all(&bytes).await.map_err(FetchError::Io)?;
            progress(*received);
        }
        Ok(())
    }

    fn failure(&self, error: &OciDistributionError, url: &str) -> Failure {
        let name = self.image.whole();
        let refused = |reason: String| Failure { reason, refused: true };
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => refused(format!("{name}: not found")),
            OciDistributionError::RegistryError { envelope, .. } => {
                let codes = envelope.errors.iter().map(|error| &error.code);
                let missing = |code: &OciErrorCode| {
                    matches!(
                        code,
                        OciErrorCode::ManifestUnknown
                            | OciErrorCode::NameUnknown
                            | OciErrorCode::NotFound
                            | OciErrorCode::BlobUnknown
                    )
                };
                if codes.clone().any(missing) {
                    return refused(format!("{name}: not found"));
                }
                if codes.clone().any(|code| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied)) {
                    return refused(denied(&envelope.to_string()));
                }
                let limited = codes.clone().any(|code| *code == OciErrorCode::Toomanyrequests);
                let reason = format!("unexpected status from GET request to {url}: {envelope}");
                Failure { reason, refused: !limited }
            }
            OciDistributionError::ServerError { code: 404, .. } => refused(format!("{name}: not found")),
            OciDistributionError::ServerError { code, .. } => Failure {
                reason: format!(
                    "unexpected status from GET request to {url}: {}",
                    reqwest::StatusCode::from_u16(*code).map_or(code.to_string(), |status| status.to_string())
                ),
                refused: *code < 500 && *code != 429,
            },
            OciDistributionError::UnauthorizedError { .. } => {
                refused(denied("authorization failed: no basic auth credentials"))
            }
            OciDistributionError::AuthenticationFailure(reason) => refused(denied(reason.trim())),
            OciDistributionError::RequestError(error) => {
                Failure { reason: format!("failed to do request: Get {url:?}: {}", cause(error)), refused: false }
            }
            other => refused(other.to_string()),
        }
    }
}

enum FetchError {
    Registry(OciDistributionError),
    BrokenOff(String),
    TooLong,
    Io(std::io::Error),
}

fn denied(reason: &str) -> String {
    format!("pull access denied, repository does not exist or may require authorization: {reason}")
}

/// What lies beneath a failed request, as Go words it.
fn cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
        if let Some(io) = deepest.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            let url = error.url();
            let host = url.and_then(|u| u.host_str()).unwrap_or_default();
            let port = url.and_then(reqwest::Url::port_or_known_default).unwrap_or(0);
            return format!("dial tcp {host}:{port}: connect: connection refused");
        }
    }
    if error.is_timeout() {
        "net/http: request canceled (Client.Timeout exceeded)".to_owned()
    } else {
        deepest.to_string()
    }
}

fn may_work_later(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| error.code == OciErrorCode::Toomanyrequests)
        }
        // Who can't be connected to is left to the caller's back-off.
        OciDistributionError::RequestError(error) => !error.is_connect() && !error.is_builder(),
        _ => false,
    }
}

async fn retry<T, F: Future<Output = Result<T, OciDistributionError>>>(
    attempt: impl Fn() -> F,
) -> Result<T, OciDistributionError> {
    let mut pause = FIRST_PAUSE;
    let mut attempts = 1;
    loop {
        match attempt().await {
            Err(error) if attempts < ATTEMPTS_MAX && may_work_later(&error) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
                attempts += 1;
            }
            other => return other,
        }
    }
}

/// The ways to an image, in the order in which to try them: mirrors before the registry, each with the fitting
/// credentials before none.
pub fn sources(
    image: &Reference,
    mirrors: &[String],
    plain_hosts: &[String],
    credentials: &[RegistryCredentials],
) -> Vec<Source> {
    let plain = |host: &str| reference::is_loopback(host) || plain_hosts.iter().any(|known| known == host);
    let fitting = reference::fitting(image, credentials);
    let mut sources = Vec::new();
    for endpoint in mirrors.iter().map(|mirror| Some(mirror.as_str())).chain([None]) {
        let is_plain = plain(endpoint.unwrap_or(image.registry()));
        // A registry's credentials are not for its mirrors.
        for credentials in fitting.iter().filter(|_| endpoint.is_none()) {
            sources.push(Source::new(image, endpoint, is_plain, Some(credentials)));
        }
        sources.push(Source::new(image, endpoint, is_plain, None));
    }
    sources
}
