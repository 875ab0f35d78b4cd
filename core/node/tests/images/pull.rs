//! Pulling from registries.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use gantry_node::images::{ImageError, ImageStore, ImageStoreOptions, Images, RegistryCredentials, Step, snapshots};
use serde_json::json;

use crate::fake::{Answer, Asked, Fake};
use crate::layout::{self, Blobs, Compression, digest};

const PATIENCE: Duration = Duration::from_secs(30);
/// `test:secret` for the registry.
const HTPASSWD: &str = "test:$2y$04$xKbn/kkyIDIX2S0vF2fOvOLubLIetqhwXLO7G03vERsgTbyM9qVeS\n";

/// Debian's docker-registry on a port of its own.
struct Registry {
    process: Child,
    host: String,
    folder: tempfile::TempDir,
}

impl Registry {
    fn start(with_password: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = free.local_addr().unwrap().to_string();
        drop(free);
        let mut config = json!({
            "version": 0.1, "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}},
            "http": {"addr": host}
        });
        if with_password {
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
        }
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, host, folder }
    }

    fn push(&self, image: &Blobs, name: &str) {
        let at = layout::write(
            &self.folder.path().join(format!("push-{}", name.replace([':', '/'], "-"))),
            image,
            json!({}),
        );
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--preserve-digests",
                "--dest-tls-verify=false",
                "--dest-creds=test:secret",
            ])
            .arg(format!("oci:{}", at.display()))
            .arg(format!("docker://{}/{name}", self.host))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Lab {
    folder: tempfile::TempDir,
    store: ImageStore,
}

impl Lab {
    fn new(options: ImageStoreOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path(), options).unwrap();
        Self { folder, store }
    }

    fn layers(&self, key: &str) -> Vec<PathBuf> {
        snapshots::layers(self.folder.path(), key).unwrap()
    }
}

fn credentials(registry: &str, password: &str) -> RegistryCredentials {
    RegistryCredentials { registry: registry.to_owned(), username: "test".to_owned(), password: password.to_owned() }
}

fn busybox() -> Vec<u8> {
    layout::tar(&[("bin/busybox", &std::fs::read("/bin/busybox").expect("busybox-static is installed"))])
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_real_registry() {
    let registry = Registry::start(false);
    let layers = [
        (busybox(), Compression::Gzip),
        (layout::tar(&[("etc/text", b"one")]), Compression::Zstd),
        (layout::tar(&[("etc/text", b"two")]), Compression::None),
    ];
    let image = layout::image(&layers, false);
    registry.push(&image, "some/busybox:1");
    let lab = Lab::new(ImageStoreOptions::default());
    let mut progress = lab.store.progress();
    let name = format!("{}/some/busybox:1", registry.host);
    let (pulled, again) = tokio::join!(lab.store.pull(&name, &[]), lab.store.pull(&name, &[]));
    let (pulled, again) = (pulled.unwrap(), again.unwrap());
    assert_eq!(pulled, again);
    assert_eq!(pulled.id, image.id);
    assert_eq!(pulled.tags, [name.as_str()]);
    let by_digest = format!("{}/some/busybox@{}", registry.host, digest(image.manifest()));
    assert_eq!(pulled.digests, [by_digest.as_str()]);
    assert_eq!(pulled.config.reference, name);
    let folders = lab.layers(&pulled.config.snapshot_key);
    assert_eq!(std::fs::read(folders[0].join("etc/text")).unwrap(), b"two");
    assert_eq!(std::fs::read(folders[2].join("bin/busybox")).unwrap(), std::fs::read("/bin/busybox").unwrap());
    let mut done = 0;
    while let Ok(event) = progress.try_recv() {
        assert_eq!(event.reference, name);
        done += usize::from(event.step == Step::Done);
    }
    assert_eq!(done, 3);
    assert_eq!(lab.store.pull(&by_digest, &[]).await.unwrap().id, image.id);
    let short = format!("{}/some/busybox:1@{}", registry.host, digest(image.manifest()));
    assert_eq!(lab.store.get(&short).await.unwrap().unwrap().id, image.id);
    let missing = format!("{}/some/busybox:2", registry.host);
    let error = lab.store.pull(&missing, &[]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "failed to pull and unpack image {missing:?}: failed to resolve reference {missing:?}: {missing}: not found"
        )
    );
    assert!(matches!(error, ImageError::Refused { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_password() {
    let registry = Registry::start(true);
    registry.push(&layout::image(&[(layout::tar(&[("a", b"x")]), Compression::Gzip)], false), "a:1");
    let lab = Lab::new(ImageStoreOptions::default());
    let name = format!("{}/a:1", registry.host);
    for wrong in [vec![], vec![credentials(&registry.host, "wrong")], vec![credentials("other.io", "secret")]] {
        let error = lab.store.pull(&name, &wrong).await.unwrap_err();
        assert!(matches!(error, ImageError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("pull access denied"), "{error}");
    }
    let both = [credentials(&registry.host, "wrong"), credentials(&registry.host, "secret")];
    lab.store.pull(&name, &both).await.unwrap();
}

#[tokio::test]
async fn who_does_not_answer() {
    let lab = Lab::new(ImageStoreOptions::default());
    let error = lab.store.pull("127.0.0.1:9/none:1", &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }));
    assert_eq!(
        error.to_string(),
        "failed to pull and unpack image \"127.0.0.1:9/none:1\": failed to resolve reference \"127.0.0.1:9/none:1\": \
         failed to do request: Get \"http://127.0.0.1:9/v2/none/manifests/1\": dial tcp 127.0.0.1:9: connect: connection \
         refused"
    );
    let error = lab.store.pull("UPPER CASE", &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::InvalidName { .. }), "{error}");
}

/// Answers for an image, with a range where one is asked for.
fn serve(image: &Blobs, asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap();
    let last = path.rsplit('/').next().unwrap();
    if asked.path.contains("/manifests/") {
        let manifest = image.manifest();
        return Answer::ok(manifest).header("content-type", "application/vnd.oci.image.manifest.v1+json");
    }
    match image.list.iter().find(|blob| digest(blob) == last) {
        None => Answer::status(404),
        Some(blob) => {
            match asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()) {
                None => Answer::ok(blob),
                Some(from @ 0usize..) => Answer { status: 206, ..Answer::ok(&blob[from..]) }
                    .header("content-range", &format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on() {
    for ranges in [true, false] {
        let image = layout::image(&[(busybox(), Compression::None)], true);
        let layer = digest(&image.list[0]);
        let (id, half) = (image.id.clone(), image.list[0].len() / 2);
        let (wanted, breaks) = (layer.clone(), AtomicUsize::new(0));
        let fake = Fake::start(move |_, asked| {
            let mut asked = asked.clone();
            if !ranges {
                asked.headers.remove("range");
            }
            let mut answer = serve(&image, &asked);
            if asked.path.ends_with(&wanted) && breaks.fetch_add(1, Ordering::SeqCst) == 0 {
                answer.break_after = Some(half);
            }
            answer
        })
        .await;
        let lab = Lab::new(ImageStoreOptions::default());
        let pulled = lab.store.pull(&format!("{}/a:1", fake.host), &[]).await.unwrap();
        assert_eq!(pulled.id, id);
        assert_eq!(fake.count(&layer), 2);
        let asked = fake.asked.lock().unwrap();
        assert!(asked.iter().any(|a| a.headers.get("range").is_some_and(|r| *r == format!("bytes={half}-"))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_gets_wrong() {
    let image = || layout::image(&[(layout::tar(&[("a", b"right")]), Compression::None)], false);
    let lie = digest(&image().list[0]);
    let fake = Fake::start(move |_, asked| {
        let mut answer = serve(&image(), asked);
        if asked.path.ends_with(&lie) {
            let end = answer.body.len() - 1;
            answer.body[end] ^= 1;
        }
        answer
    })
    .await;
    let lab = Lab::new(ImageStoreOptions::default());
    let error = lab.store.pull(&format!("{}/a:1", fake.host), &[]).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("digest"), "{error}");
    assert!(lab.store.list().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(lab.folder.path().join("ingest")).unwrap().count(), 0);
    // Busy for a while.
    let count = AtomicUsize::new(0);
    let fake = Fake::start(move |_, asked| {
        if asked.path.contains("/manifests/") && count.fetch_add(1, Ordering::SeqCst) < 2 {
            return Answer::status(503);
        }
        serve(&image(), asked)
    })
    .await;
    lab.store.pull(&format!("{}/a:1", fake.host), &[]).await.unwrap();
    assert_eq!(fake.count("/manifests/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_and_for_this_platform() {
    let image = layout::image(&[(layout::tar(&[("a", b"x")]), Compression::Gzip)], false);
    let (id, manifest) = (image.id.clone(), image.manifest().to_vec());
    let descriptor = |os: &str, architecture: &str, digest: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
            "platform": {"os": os, "architecture": architecture}})
    };
    let other = format!("sha256:{:064x}", 1);
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        descriptor("windows", own, &other), descriptor("linux", "s390x", &other),
        descriptor("linux", own, &digest(&manifest))]})
    .to_string()
    .into_bytes();
    let index_digest = digest(&index);
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("test:secret"));
    let fake = Fake::start(move |host, asked| {
        let authorization = asked.headers.get("authorization");
        if asked.path.starts_with("/token") {
            assert!(asked.path.contains("scope=repository%3Aa%2Fb%3Apull"), "{}", asked.path);
            let known = authorization.is_some_and(|a| *a == basic);
            return if known { Answer::ok(br#"{"token": "t0k"}"#) } else { Answer::status(401) };
        }
        if authorization.is_none_or(|a| a != "Bearer t0k") {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return Answer::status(401).header("www-authenticate", &challenge);
        }
        if asked.path.ends_with("/manifests/1") {
            return Answer::ok(&index).header("content-type", "application/vnd.oci.image.index.v1+json");
        }
        serve(&image, asked)
    })
    .await;
    let lab = Lab::new(ImageStoreOptions::default());
    let name = format!("{}/a/b:1", fake.host);
    assert!(lab.store.pull(&name, &[]).await.is_err());
    let pulled = lab.store.pull(&name, &[credentials(&fake.host, "secret")]).await.unwrap();
    assert_eq!(pulled.id, id);
    assert_eq!(pulled.digests, [format!("{}/a/b@{index_digest}", fake.host)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_mirror() {
    let image = layout::image(&[(layout::tar(&[("a", b"x")]), Compression::Gzip)], false);
    let id = image.id.clone();
    let fake = Fake::start(move |_, asked| {
        assert!(!asked.headers.contains_key("authorization"), "a registry's password went to its mirror");
        serve(&image, asked)
    })
    .await;
    let mirrors = [("registry.test".to_owned(), vec!["127.0.0.1:9".to_owned(), fake.host.clone()])].into();
    let lab = Lab::new(ImageStoreOptions { mirrors, ..ImageStoreOptions::default() });
    let pulled = lab.store.pull("registry.test/a:1", &[credentials("registry.test", "secret")]).await.unwrap();
    assert_eq!((pulled.id, pulled.tags), (id, vec!["registry.test/a:1".to_owned()]));
    assert!(Path::new(&lab.layers(&pulled.config.snapshot_key)[0]).join("a").exists());
}
