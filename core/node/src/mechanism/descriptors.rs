//! Open files sent over unix sockets.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most descriptors in one message.
const DESCRIPTORS_MAX: usize = 8;

/// Sends bytes and descriptors in one message; returns how many of the bytes went out.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<_> = descriptors.iter().map(|d| d.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes and the descriptors that came with them; no bytes means the other side has closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            descriptors.extend(received.into_iter().map(|d| unsafe { OwnedFd::from_raw_fd(d) }));
        }
    }
    Ok((message.bytes, descriptors))
}

/// Bytes as a file in memory, positioned at its beginning.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("request", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Makes reads and writes of a descriptor return at once.
pub fn set_nonblocking(descriptor: impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(descriptor.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A descriptor that becomes readable when the process ends; pidfd_open(2).
pub fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a result that is not negative is a new descriptor, closed on exec.
    unsafe {
        let result = libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0);
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(result as i32)) }
    }
}

/// Sets the size of a terminal, in characters.
pub fn set_terminal_size(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a winsize that lives through the call.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal that has no name, a real-time one. A process that has ended is no failure.
pub fn signal_by_number(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::kill(pid as libc::pid_t, signal) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}
