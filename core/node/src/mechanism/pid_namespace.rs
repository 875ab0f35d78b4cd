//! A pid namespace of a pod, kept by an init that does nothing but reap.
#![allow(unsafe_code)]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::ForkResult;

use super::protocol::LaunchReply;

/// Makes the namespace, leaves its init running and tells its process id.
pub fn run(reply: OwnedFd) -> i32 {
    let mut reply = UnixStream::from(reply);
    let answer = match make() {
        Ok(pid) => LaunchReply::Started(pid),
        Err(error) => LaunchReply::Failed(format!("making a pid namespace: {error}")),
    };
    let failed = matches!(answer, LaunchReply::Failed(_));
    let line = serde_json::to_string(&answer).unwrap_or_default() + "\n";
    let sent = reply.write_all(line.as_bytes());
    i32::from(failed || sent.is_err())
}

fn make() -> nix::Result<u32> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: the process has one thread, so the child may do anything.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw().unsigned_abs()),
        ForkResult::Child => reap(),
    }
}

/// The init: the kernel hands it every orphan of the namespace.
fn reap() -> ! {
    let _ = nix::sys::prctl::set_name(c"gantry-init");
    let _ = nix::unistd::setsid();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let _ = children.thread_block();
    // Nothing of the agent's stays open in here.
    // SAFETY: no object that owns a descriptor is used after this.
    unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    loop {
        while matches!(
            nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)),
            Ok(status) if status != nix::sys::wait::WaitStatus::StillAlive
        ) {}
        let _ = children.wait();
    }
}
