//! The README's tour with the unmodified kubectl: a cluster of one node, containers of an image from a real registry, a
//! claim, a service; then nothing is left behind. Needs root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gantry_tests::binary::gantry;
use gantry_tests::image::busybox_layout;
use gantry_tests::network::TestNetwork;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/web.yaml");
const WAIT_MAX: Duration = Duration::from_secs(120);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tries until it works; the last failure when it never does.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > WAIT_MAX => {
                return Err(error.context(format!("{what} within {WAIT_MAX:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn registry(network: &TestNetwork, folder: &Path) -> Result<Killed> {
    let config = folder.join("registry.yml");
    let root = folder.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:5000}}\n",
        root.display()
    );
    fs::write(&config, text).context("write the registry's configuration")?;
    let mut command = network.command("docker-registry");
    command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Killed(command.spawn().context("start docker-registry")?);
    let layout = folder.join("layout");
    busybox_layout(&layout)?;
    let source = format!("oci:{}:1", layout.display());
    let target = "docker://127.0.0.1:5000/web:1";
    eventually("the registry takes the image", || {
        network.output("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", &source, target])
    })?;
    Ok(child)
}

fn up(network: &TestNetwork, data: &Path, log: &Path) -> Result<Killed> {
    let mut command = network.command(gantry()?);
    command.args(["up", "--listen", "127.0.0.1:6443", "--data-dir"]).arg(data);
    // How full the machine's disk is, is not what is tested.
    let config = data.with_file_name("gantry.toml");
    fs::write(&config, "min-free-disk-percent = 0\n").context("write the configuration")?;
    command.arg("--config").arg(&config);
    // It becomes the current context of nobody but this test.
    command.env("KUBECONFIG", data.with_file_name("kubeconfig"));
    let file = fs::File::create(log).context("make the log")?;
    let mut child = Killed(command.stdout(Stdio::piped()).stderr(file).spawn().context("start gantry up")?);
    let output = child.0.stdout.take().context("read its output")?;
    for line in BufReader::new(output).lines() {
        if line.context("read its output")?.starts_with("ready") {
            return Ok(child);
        }
    }
    bail!("gantry up ended before it was ready: {}", fs::read_to_string(log).unwrap_or_default());
}

#[test]
fn the_tour_works_as_printed() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let network = TestNetwork::new("tour")?;
    let _registry = registry(&network, folder.path())?;
    let (data, log) = (folder.path().join("data"), folder.path().join("up.log"));
    let mut cluster = up(&network, &data, &log)?;
    let toured = tour(&network, &data);
    // Whatever happened, the cluster is stopped as a user stops it.
    kill(Pid::from_raw(cluster.0.id().cast_signed()), Signal::SIGINT).context("interrupt the cluster")?;
    let status = cluster.0.wait().context("wait for the cluster's end")?;
    toured.with_context(|| format!("the log: {}", fs::read_to_string(&log).unwrap_or_default()))?;
    ensure!(status.success(), "gantry up ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
    nothing_is_left(&network, &data)
}

fn tour(network: &TestNetwork, data: &Path) -> Result<()> {
    let kubeconfig = data.join("admin.kubeconfig").display().to_string();
    let kubectl = |arguments: &[&str]| {
        let mut all = vec!["--kubeconfig", &kubeconfig];
        all.extend(arguments);
        network.output("kubectl", &all)
    };
    let created = kubectl(&["create", "namespace", "dev"])?;
    ensure!(created == "namespace/dev created\n", "{created}");
    kubectl(&["apply", "-n", "dev", "-f", MANIFEST])?;
    let rolled_out = kubectl(&["rollout", "status", "-n", "dev", "deploy/web", "--timeout=120s"]);
    if let Err(error) = rolled_out {
        let seen = kubectl(&["get", "pods,pvc,events", "-n", "dev", "-o", "wide"]).unwrap_or_default();
        return Err(error.context(seen));
    }
    let claims = kubectl(&["get", "pvc", "-n", "dev", "web", "-o", "jsonpath={.status.phase}"])?;
    ensure!(claims == "Bound", "{claims}");
    let gantry = gantry()?.display().to_string();
    let pods = network.output(&gantry, &["--kubeconfig", &kubeconfig, "get", "pods", "-n", "dev", "-o", "wide"])?;
    ensure!(pods.matches("1/1     Running").count() == 3, "{pods}");
    kubectl(&["get", "deploy,rs,pods,svc,endpointslices,pvc", "-A"])?;
    let address = kubectl(&["get", "svc", "-n", "dev", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let page = eventually("the service answers", || {
        network.output("curl", &["--silent", "--fail", "--max-time", "5", &format!("http://{address}")])
    })?;
    ensure!(page == "hello from gantry\n", "{page}");
    let logged = kubectl(&["logs", "-n", "dev", "deploy/web"]);
    ensure!(logged.is_ok(), "{logged:?}");
    let pods = kubectl(&["get", "pods", "-n", "dev", "-o", "name"])?;
    let pod = pods.lines().next().context("a pod")?;
    let name = kubectl(&["exec", "-n", "dev", pod, "--", "hostname"])?;
    ensure!(format!("pod/{}", name.trim()) == pod, "{name} in {pod}");
    let own = |arguments: &[&str]| {
        let mut all = vec!["--kubeconfig", &kubeconfig];
        all.extend(arguments);
        network.output(&gantry, &all)
    };
    own(&["logs", "-n", "dev", "deploy/web"])?;
    let name = own(&["exec", "-n", "dev", pod, "--", "hostname"])?;
    ensure!(format!("pod/{}", name.trim()) == pod, "{name} in {pod}");
    let applied = own(&["apply", "-n", "dev", "-f", MANIFEST])?;
    ensure!(applied.lines().all(|line| line.ends_with(" unchanged")), "{applied}");
    kubectl(&["delete", "namespace", "dev", "--timeout=120s"])?;
    let created = own(&["create", "namespace", "again"])?;
    ensure!(created == "namespace/again created\n", "{created}");
    let deleted = own(&["delete", "namespace", "again"])?;
    ensure!(deleted == "namespace \"again\" deleted\n", "{deleted}");
    Ok(())
}

fn nothing_is_left(network: &TestNetwork, data: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let ours: Vec<&str> = mounts.lines().filter(|line| line.contains(&data.display().to_string())).collect();
    ensure!(ours.is_empty(), "mounts are left: {ours:#?}");
    let tables = network.output("nft", &["list", "tables"])?;
    ensure!(!tables.contains("gantry"), "nftables tables are left: {tables}");
    let links = network.output("ip", &["-o", "link"])?;
    ensure!(!links.contains("gantry0"), "links are left: {links}");
    for controller in ["/sys/fs/cgroup/memory/gantry/kubepods", "/sys/fs/cgroup/gantry/kubepods"] {
        ensure!(!Path::new(controller).exists(), "cgroups are left: {controller}");
    }
    Ok(())
}
