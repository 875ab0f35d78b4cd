//! Importing, listing, removing.

use std::path::Path;
use std::process::Command;

use gantry_node::images::{ImageStore, ImageStoreOptions, Images, snapshots};
use serde_json::json;

use crate::layout::{self, Compression};

fn layers_in(folder: &Path) -> usize {
    std::fs::read_dir(snapshots::layers_folder(folder)).unwrap().count()
}

fn skopeo(arguments: &[&str]) {
    let output = Command::new("skopeo").args(arguments).output().expect("skopeo is installed");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn files_of_all_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let layers = [
        (layout::tar(&[("a", b"first"), ("b", b"first")]), Compression::None),
        (layout::tar(&[("a", b"second"), (".wh.b", b"")]), Compression::Gzip),
    ];
    let image = layout::image(&layers, false);
    let source = layout::write(&at("layout"), &image, json!({"org.opencontainers.image.ref.name": "test.io/a:1"}));
    let from = format!("oci:{}:test.io/a:1", source.display());
    skopeo(&["--insecure-policy", "copy", &from, &format!("oci-archive:{}:test.io/a:1", at("oci.tar").display())]);
    skopeo(&[
        "--insecure-policy",
        "copy",
        &from,
        &format!("docker-archive:{}:test.io/a:1", at("docker.tar").display()),
    ]);
    for path in [source, at("oci.tar"), at("docker.tar")] {
        let store = ImageStore::open(at("store"), ImageStoreOptions::default()).unwrap();
        let images = store.import(&path, None).await.unwrap();
        let [taken] = images.as_slice() else { panic!("{images:?}") };
        assert_eq!(taken.tags, ["test.io/a:1"]);
        assert_eq!(taken.size_bytes, 16);
        assert_eq!((taken.config.user.as_str(), taken.config.stop_signal.as_str()), ("7", "SIGINT"));
        assert_eq!(taken.config.entrypoint, ["/entry"]);
        let folders = snapshots::layers(&at("store"), &taken.config.snapshot_key).unwrap();
        assert_eq!(folders.len(), 2);
        assert_eq!(std::fs::read(folders[0].join("a")).unwrap(), b"second");
        assert_eq!(std::fs::read(folders[1].join("b")).unwrap(), b"first");
        assert_eq!(store.get("test.io/a:1").await.unwrap().unwrap().id, taken.id);
        store.remove(&taken.id).await.unwrap();
        assert_eq!(layers_in(&at("store")), 0);
    }
    assert_eq!(std::fs::read_dir(at("store/ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn names_and_what_they_keep() {
    let folder = tempfile::tempdir().unwrap();
    let base = (layout::tar(&[("base", b"x")]), Compression::Gzip);
    let write = |name: &str, own: &str| {
        let image = layout::image(&[base.clone(), (layout::tar(&[(own, b"y")]), Compression::Zstd)], false);
        layout::write(&folder.path().join(own), &image, json!({"io.containerd.image.name": name}))
    };
    let (one, two) = (write("test.io/one:1", "one"), write("two", "two"));
    let at = folder.path().join("store");
    let store = ImageStore::open(&at, ImageStoreOptions::default()).unwrap();
    let first = store.import(&one, None).await.unwrap().remove(0);
    store.import(&two, Some("test.io/two:2")).await.unwrap();
    assert_eq!(layers_in(&at), 3);
    assert_eq!(store.list().await.unwrap().len(), 2);
    assert!(store.get("test.io/two:2").await.unwrap().is_some());
    assert!(store.get("test.io/none").await.unwrap().is_none());
    // A root filesystem holds the layers it stands on.
    snapshots::lease(&at, "container", &first.config.snapshot_key).unwrap();
    store.remove("test.io/one:1").await.unwrap();
    assert_eq!((store.list().await.unwrap().len(), layers_in(&at)), (1, 3));
    snapshots::release(&at, "container").unwrap();
    // Another process sees the same, and clears what nobody needs.
    let again = ImageStore::open(&at, ImageStoreOptions::default()).unwrap();
    assert_eq!((again.list().await.unwrap().len(), layers_in(&at)), (1, 2));
    again.remove("test.io/two:2").await.unwrap();
    assert_eq!((store.list().await.unwrap().len(), layers_in(&at)), (0, 0));
}

#[tokio::test]
async fn what_is_wrong_with_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(folder.path().join("store"), ImageStoreOptions::default()).unwrap();
    let image = layout::image(&[(layout::tar(&[("a", b"x")]), Compression::None)], false);
    let at = layout::write(&folder.path().join("layout"), &image, json!({}));
    let error = store.import(&at, None).await.unwrap_err().to_string();
    assert!(error.contains("has no name"), "{error}");
    let layer = at.join("blobs/sha256").join(layout::digest(&image.list[0]).trim_start_matches("sha256:"));
    std::fs::write(&layer, layout::tar(&[("a", b"other")])).unwrap();
    let error = store.import(&at, Some("a:1")).await.unwrap_err().to_string();
    assert!(error.contains("wrong diff id"), "{error}");
    std::fs::remove_file(&layer).unwrap();
    assert!(store.import(&at, Some("a:1")).await.is_err());
    assert!(store.import(&folder.path().join("none"), None).await.is_err());
    assert!(store.list().await.unwrap().is_empty());
    assert_eq!(layers_in(&folder.path().join("store")), 0);
}
