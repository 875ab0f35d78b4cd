//! A network namespace of the test's own, with an address and a default route: nothing in it reaches outside. Needs root.

use std::ffi::OsStr;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// The namespace; removed, with the processes in it, when dropped.
pub struct TestNetwork {
    name: String,
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl TestNetwork {
    /// Makes one. `name` is unique among those of this process.
    pub fn new(name: &str) -> Result<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            bail!("this test makes a network namespace and runs containers: it needs root");
        }
        let network = Self { name: format!("gantry-{name}-{}", std::process::id()) };
        run("ip", &["netns", "add", &network.name])?;
        for line in [
            "link set lo up",
            "link add eth0 type veth peer name eth0p",
            "addr add 10.89.0.2/24 dev eth0",
            "link set eth0 up",
            "link set eth0p up",
            "route add default via 10.89.0.1",
        ] {
            let mut arguments = vec!["-n", &network.name];
            arguments.extend(line.split(' '));
            run("ip", &arguments)?;
        }
        Ok(network)
    }

    /// A command that runs in it; the mounts stay those of the machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// Runs a command in it to its end; its standard output.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } =
            self.command(program).args(arguments).output().with_context(|| format!("start {program}"))?;
        let text = String::from_utf8_lossy(&stdout).into_owned();
        if !status.success() {
            bail!("{program} {}: {text}{}", arguments.join(" "), String::from_utf8_lossy(&stderr).trim());
        }
        Ok(text)
    }
}

impl Drop for TestNetwork {
    fn drop(&mut self) {
        // What can't be removed any more is gone.
        if let Ok(pids) = Command::new("ip").args(["netns", "pids", &self.name]).output() {
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
        }
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}
