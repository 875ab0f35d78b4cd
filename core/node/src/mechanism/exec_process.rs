//! Running a command in a running container.
//!
//! libcontainer's tenant builder is not used: it joins neither the container's user namespace nor its seccomp filter.
//! The order of steps is runc's: cgroup, namespaces, terminal, user, filter, capabilities, program.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use libcontainer::capabilities;
use libcontainer::syscall::syscall::create_syscall;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{ForkResult, Gid, Pid, Uid};

use super::protocol::{ExecRequest, LaunchReply, process_start_time};
use super::{cgroup, descriptors, launcher, program};

/// Namespaces to join, the user namespace last: before, the capabilities over all others are held; after, only those
/// over what it owns.
const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("time", CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("user", CloneFlags::CLONE_NEWUSER),
];

/// Runs the process and reports on the connection; ends it when the connection is closed.
pub fn run(request: ExecRequest, reply: OwnedFd, streams: Vec<OwnedFd>) -> i32 {
    let mut reply = UnixStream::from(reply);
    let mut say = |message: &LaunchReply| {
        let line = serde_json::to_string(message).unwrap_or_default() + "\n";
        reply.write_all(line.as_bytes())
    };
    let _ = nix::sys::prctl::set_name(c"gantry-exec");
    let (child, errors) = match spawn(&request, streams) {
        Ok(spawned) => spawned,
        Err(reason) => {
            let _ = say(&LaunchReply::Failed(reason));
            return 1;
        }
    };
    drop(request);
    let mut reason = String::new();
    // Ends when the program runs: the pipe is closed on exec.
    let _ = std::fs::File::from(errors).read_to_string(&mut reason);
    if !reason.is_empty() {
        let _ = nix::sys::wait::waitpid(child, None);
        let _ = say(&LaunchReply::Failed(reason));
        return 1;
    }
    if say(&LaunchReply::Started(child.as_raw().unsigned_abs())).is_err() {
        let _ = killpg(child, Signal::SIGKILL);
    }
    if let Err(error) = wait_or_hang_up(&reply, child) {
        eprintln!("gantry exec: waiting for process {child}: {error}");
    }
    let code = nix::sys::wait::waitpid(child, None).ok().and_then(launcher::exit_code).unwrap_or(255);
    let line = serde_json::to_string(&LaunchReply::Exited(code)).unwrap_or_default() + "\n";
    let _ = reply.write_all(line.as_bytes());
    0
}

/// Returns when the process has ended; kills it when the other side of the connection goes first.
fn wait_or_hang_up(connection: &UnixStream, child: Pid) -> std::io::Result<()> {
    let process = descriptors::open_process(child.as_raw().unsigned_abs())?;
    loop {
        let mut polled =
            [PollFd::new(process.as_fd(), PollFlags::POLLIN), PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if polled[0].any() == Some(true) {
            return Ok(());
        }
        // The agent never writes on this connection: what can be read is its end.
        if polled[1].any() == Some(true) {
            let _ = killpg(child, Signal::SIGKILL);
            return Ok(());
        }
    }
}

/// Forks the process; what comes out of the pipe is why it failed.
fn spawn(request: &ExecRequest, streams: Vec<OwnedFd>) -> Result<(Pid, OwnedFd), String> {
    let fail = |doing: &str, error: std::io::Error| format!("{doing}: {}", program::lower(&error));
    let init = descriptors::open_process(request.init_pid).map_err(|e| fail("opening the container's init", e))?;
    if process_start_time(request.init_pid) != Some(request.init_start_time) {
        return Err("the container is not running".to_owned());
    }
    let cgroups = cgroup::files_to_join(request.init_pid).map_err(|e| fail("finding the container's cgroup", e))?;
    let oom_score_adj = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", request.init_pid)).ok();
    let mut join = Vec::new();
    for (name, flag) in NAMESPACES {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}"));
        let theirs = std::fs::read_link(format!("/proc/{}/ns/{name}", request.init_pid));
        if let (Ok(own), Ok(theirs)) = (own, theirs)
            && own != theirs
        {
            join.push((name, flag));
        }
    }
    // A process of the container must not look into this one while it changes.
    let _ = nix::sys::prctl::set_dumpable(false);
    setns(&init, CloneFlags::CLONE_NEWPID).map_err(|e| fail("joining the pid namespace", e.into()))?;
    let (errors, mut report) = std::io::pipe().map_err(|e| fail("making a pipe", e))?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { nix::unistd::fork() }.map_err(|e| fail("fork", e.into()))? {
        ForkResult::Parent { child } => Ok((child, errors.into())),
        ForkResult::Child => {
            drop(errors);
            let reason = become_program(request, &init, &cgroups, oom_score_adj.as_deref(), &join, streams);
            let _ = report.write_all(reason.as_bytes());
            std::process::exit(255);
        }
    }
}

/// Turns this process into the program; returns why it couldn't.
fn become_program(
    request: &ExecRequest,
    init: &OwnedFd,
    cgroups: &[std::path::PathBuf],
    oom_score_adj: Option<&str>,
    join: &[(&str, CloneFlags)],
    streams: Vec<OwnedFd>,
) -> String {
    match prepare(request, init, cgroups, oom_score_adj, join, streams) {
        Ok(()) => program::run(
            request.process.args().as_deref().unwrap_or_default(),
            request.process.env().as_deref().unwrap_or_default(),
        ),
        Err(reason) => reason,
    }
}

fn prepare(
    request: &ExecRequest,
    init: &OwnedFd,
    cgroups: &[std::path::PathBuf],
    oom_score_adj: Option<&str>,
    join: &[(&str, CloneFlags)],
    streams: Vec<OwnedFd>,
) -> Result<(), String> {
    let process = &request.process;
    let fail = |doing: &str, error: &dyn std::fmt::Display| format!("{doing}: {error}");
    let terminal = process.terminal().unwrap_or(false);
    nix::unistd::setsid().map_err(|e| fail("setsid", &e.desc()))?;
    for file in cgroups {
        std::fs::write(file, "0").map_err(|e| fail(&format!("joining cgroup {}", file.display()), &e))?;
    }
    if let Some(score) = oom_score_adj {
        // Lower than ours it may be refused; then ours stays.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.trim());
    }
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        set_limit(limit)?;
    }
    for (name, flag) in join {
        setns(init, *flag).map_err(|e| fail(&format!("joining the {name} namespace"), &e.desc()))?;
    }
    let user = process.user();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    if join.iter().any(|(name, _)| *name == "user") {
        // As root of the user namespace until the user is set.
        nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
            .and_then(|()| nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))
            .map_err(|e| fail("becoming root of the user namespace", &e.desc()))?;
    }
    let syscall = create_syscall();
    let mut streams = streams.into_iter();
    if terminal {
        let console = streams.next().ok_or("no connection for the terminal")?;
        libcontainer::tty::setup_console(&*syscall, console.into_raw_fd(), false)
            .map_err(|e| fail("setting up the terminal", &e))?;
    } else {
        let (Some(stdin), Some(stdout), Some(stderr)) = (streams.next(), streams.next(), streams.next()) else {
            return Err("standard streams are missing".to_owned());
        };
        nix::unistd::dup2_stdin(&stdin)
            .and_then(|()| nix::unistd::dup2_stdout(&stdout))
            .and_then(|()| nix::unistd::dup2_stderr(&stderr))
            .map_err(|e| fail("setting up the standard streams", &e.desc()))?;
    }
    own_streams(uid);
    if process.no_new_privileges() == Some(true) {
        nix::sys::prctl::set_no_new_privs().map_err(|e| fail("no_new_privs", &e.desc()))?;
    }
    let umask = user.umask().and_then(nix::sys::stat::Mode::from_bits);
    nix::sys::stat::umask(umask.unwrap_or(nix::sys::stat::Mode::from_bits_truncate(0o022)));
    // Before the user is set: root may enter what the user can't, as runc allows.
    let cwd = process.cwd();
    let entered = nix::unistd::chdir(cwd);
    let groups: Vec<_> = user.additional_gids().iter().flatten().map(|&g| Gid::from_raw(g)).collect();
    match nix::unistd::setgroups(&groups) {
        Err(nix::errno::Errno::EPERM) if groups.is_empty() => {}
        other => other.map_err(|e| fail("setting supplementary groups", &e.desc()))?,
    }
    nix::sys::prctl::set_keepcaps(true).map_err(|e| fail("keeping capabilities", &e.desc()))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| fail(&format!("setting group {gid}"), &e.desc()))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| fail(&format!("setting user {uid}"), &e.desc()))?;
    capabilities::reset_effective(&*syscall).map_err(|e| fail("resetting capabilities", &e))?;
    nix::sys::prctl::set_keepcaps(false).map_err(|e| fail("keeping capabilities", &e.desc()))?;
    // Without no_new_privs a filter needs privileges; with it, it is set as late as can be.
    let late = process.no_new_privileges() == Some(true);
    if !late {
        filter(request)?;
    }
    if let Some(wanted) = process.capabilities() {
        capabilities::drop_privileges(wanted, &*syscall).map_err(|e| fail("dropping capabilities", &e))?;
    }
    if entered.is_err() {
        nix::unistd::chdir(cwd)
            .map_err(|e| format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", e.desc().to_lowercase()))?;
    }
    if late {
        filter(request)?;
    }
    Ok(())
}

fn filter(request: &ExecRequest) -> Result<(), String> {
    match &request.seccomp {
        Some(seccomp) => libcontainer::seccomp::initialize_seccomp(seccomp)
            .map(drop)
            .map_err(|error| format!("loading the seccomp filter: {error}")),
        None => Ok(()),
    }
}

/// The program may open /dev/stdout and the like anew, so its user must own them.
fn own_streams(uid: Uid) {
    let null = std::fs::metadata("/dev/null").ok().map(|m| std::os::unix::fs::MetadataExt::rdev(&m));
    for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let is_null = nix::sys::stat::fstat(stream).is_ok_and(|s| Some(s.st_rdev) == null && s.st_rdev != 0);
        if !is_null {
            let _ = nix::unistd::fchown(stream, Some(uid), None);
        }
    }
}

fn set_limit(limit: &oci_spec::runtime::PosixRlimit) -> Result<(), String> {
    let value = libc::rlimit { rlim_cur: limit.soft(), rlim_max: limit.hard() };
    // SAFETY: the pointer is to a limit that lives through the call.
    let result = unsafe { libc::setrlimit(limit.typ() as _, &raw const value) };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(format!("setting limit {}: {}", limit.typ(), program::lower(&error)))
}
