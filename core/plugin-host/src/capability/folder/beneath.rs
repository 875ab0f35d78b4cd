//! Opening things in a folder and nowhere else: openat2(2) with RESOLVE_BENEATH.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open as open_anywhere, openat2},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};

/// How often an open is tried again when something above it was renamed meanwhile (EAGAIN).
const TRIES_MAX: u32 = 16;

/// The granted folder itself.
pub(crate) fn root(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_anywhere(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn open_as(from: impl AsFd, path: &Path, flags: OFlag, mode: Mode, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let from = from.as_fd();
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    for _ in 1..TRIES_MAX {
        match openat2(from, path, OpenHow::new().flags(flags).mode(mode).resolve(resolve)) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Opens something below a folder. Symbolic links are followed as long as they stay below.
pub(super) fn open(from: impl AsFd, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    open_as(from, path, flags, mode, ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens an entry of a folder if it isn't a link and no file system is mounted on it (EXDEV).
pub(super) fn open_entry(from: impl AsFd, name: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    open_as(from, name, flags | OFlag::O_CLOEXEC, Mode::empty(), no_crossing())
}

fn no_crossing() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV
}

/// A folder, to read.
pub(super) fn folder(from: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    open(from, or_itself(path), OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// A regular file, to read; never waits for a pipe's other end.
pub(super) fn regular_file(from: impl AsFd, path: &Path) -> io::Result<File> {
    let file = open(from, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode & libc::S_IFMT);
    if kind != SFlag::S_IFREG {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(File::from(file))
}

/// Makes a folder and those above it; returns it.
pub(super) fn make_all(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let mut folder = self::folder(root, Path::new("."))?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        match mkdirat(&folder, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // Each step starts at the folder above, so a link can lead nowhere but below it.
        folder = self::folder(&folder, Path::new(name))?;
    }
    Ok(folder)
}

/// Names of a folder's entries, without `.` and `..`.
pub(super) fn names(folder: impl AsFd) -> io::Result<Vec<OsString>> {
    let again = open_as(
        folder,
        Path::new("."),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
        ResolveFlag::RESOLVE_BENEATH,
    )?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(&name).to_owned());
        }
    }
    Ok(names)
}

/// Whether a path below a folder exists; an error when a symbolic link lies on the way, even on the way to the deepest
/// part that exists.
pub(crate) fn exists_without_links(base: &Path, below: &Path) -> io::Result<bool> {
    let root = root(base)?;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let mut path = below;
    loop {
        match open_as(&root, or_itself(path), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty(), resolve) {
            Ok(_) => return Ok(path == below),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
                Some(parent) => path = parent,
                None => return Ok(false),
            },
            Err(error) => return Err(error),
        }
    }
}

fn or_itself(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
