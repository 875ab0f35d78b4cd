//! Unpacking a layer into a folder that overlayfs can use.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/layer.md>. Whiteouts become overlayfs's own: a character
//! device 0:0 hides a name, the attribute `trusted.overlay.opaque` hides a folder's lower content.
//!
//! Nothing in an archive reaches out of the folder: every name is resolved by the kernel with the folder as its root.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};
use tar::EntryType;

const OPAQUE: &str = "trusted.overlay.opaque";
/// Attributes that steer overlayfs itself: an image must not bring them along.
const OVERLAY_ATTRIBUTES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// Extended attributes in an archive's PAX headers.
const PAX_ATTRIBUTE: &[u8] = b"SCHILY.xattr.";
/// Symbolic links to folders of lower layers that are followed one after another.
const LINKS_MAX: u32 = 16;

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed archive.
    pub diff_id: String,
    /// Bytes of its files.
    pub size_bytes: u64,
}

/// Unpacks an archive, plain or compressed with gzip or zstd, into an empty folder.
pub fn unpack(archive: impl Read, folder: &Path) -> io::Result<Unpacked> {
    let mut hashing = Hashing { inner: decompress(archive)?, digest: Sha256::new() };
    let mut target = Target::open(folder)?;
    let mut entries = tar::Archive::new(&mut hashing);
    for entry in entries.entries()? {
        target.put(&mut entry?)?;
    }
    target.finish()?;
    // The digest is over all bytes, those after the archive's end included.
    io::copy(&mut hashing, &mut io::sink())?;
    let diff_id = format!("sha256:{}", hex::encode(hashing.digest.finalize()));
    Ok(Unpacked { diff_id, size_bytes: target.size_bytes })
}

/// Takes off what compression the first bytes tell of; a media type may be wrong.
pub fn decompress<'a>(archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut archive = BufReader::with_capacity(128 * 1024, archive);
    let start = archive.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(archive))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::with_buffer(archive)?)
    } else {
        Box::new(archive)
    })
}

struct Hashing<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The parts of a name in an archive.
fn parts(name: &[u8]) -> io::Result<Vec<OsString>> {
    let mut parts = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(invalid(format!("{:?} leads out of the layer", OsStr::from_bytes(name)))),
            part => parts.push(OsStr::from_bytes(part).to_owned()),
        }
    }
    Ok(parts)
}

fn is_whiteout(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR && stat.st_rdev == 0
}

fn is_folder(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

struct Target {
    root: OwnedFd,
    /// The folder used last: archives list a folder's files together.
    last: Option<(PathBuf, OwnedFd)>,
    /// Times of folders, set when nothing changes in them any more.
    times: BTreeMap<PathBuf, TimeSpec>,
    size_bytes: u64,
}

impl Target {
    fn open(folder: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(AT_FDCWD, folder, flags, Mode::empty())?;
        Ok(Self { root, last: None, times: BTreeMap::new(), size_bytes: 0 })
    }

    fn resolve(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    /// A folder; made with those above it when it is missing.
    fn folder(&mut self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        if let Some((known, folder)) = &self.last
            && known == path
        {
            return folder.try_clone();
        }
        let folder = match self.resolve(path) {
            Ok(folder) => folder,
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => self.make_folder(path, links)?,
            Err(error) => return Err(error.into()),
        };
        self.last = Some((path.to_owned(), folder.try_clone()?));
        Ok(folder)
    }

    fn make_folder(&mut self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(invalid(format!("{} is no folder's path", path.display())));
        };
        let above_folder = self.folder(above, links)?;
        match fstatat(&above_folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(nix::errno::Errno::ENOENT) => mkdirat(&above_folder, name, Mode::from_bits_truncate(0o755))?,
            Err(error) => return Err(error.into()),
            Ok(stat) if is_whiteout(&stat) => {
                unlinkat(&above_folder, name, UnlinkatFlags::NoRemoveDir)?;
                mkdirat(&above_folder, name, Mode::from_bits_truncate(0o755))?;
                set_attribute(&above_folder, name, OPAQUE.as_bytes(), b"y")?;
            }
            Ok(_) => {
                // A link to a folder that only a lower layer has.
                let to = readlinkat(&above_folder, name)
                    .map_err(|_| invalid(format!("{} is not a folder", path.display())))?;
                if links >= LINKS_MAX {
                    return Err(invalid(format!("{}: too many symbolic links", path.display())));
                }
                let mut resolved = if to.as_bytes().starts_with(b"/") { PathBuf::new() } else { above.to_owned() };
                for part in to.as_bytes().split(|&b| b == b'/') {
                    match part {
                        b"" | b"." => {}
                        // In the root it stays there, as in a container.
                        b".." => drop(resolved.pop()),
                        part => resolved.push(OsStr::from_bytes(part)),
                    }
                }
                return self.folder(&resolved, links + 1);
            }
        }
        Ok(self.resolve(path)?)
    }

    fn put<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let shown = entry.path_bytes().into_owned();
        self.put_named(entry, kind, &shown)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(&shown))))
    }

    fn put_named<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, kind: EntryType, shown: &[u8]) -> io::Result<()> {
        let mut path = parts(shown)?;
        let Some(name) = path.pop() else {
            // The root itself.
            if kind.is_dir() {
                let root = self.resolve(Path::new(""))?;
                let (above, name) = (root, OsString::from("."));
                self.set_metadata(entry, &above, &name, kind)?;
            }
            return Ok(());
        };
        let above_path: PathBuf = path.iter().collect();
        let above = self.folder(&above_path, 0)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.put_whiteout(&above, &above_path, OsStr::from_bytes(hidden));
        }
        let existing = match fstatat(&above, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(nix::errno::Errno::ENOENT) => None,
            Err(error) => return Err(error.into()),
        };
        let hides_lower = existing.as_ref().is_some_and(is_whiteout);
        let keep = kind.is_dir() && existing.as_ref().is_some_and(is_folder);
        if let Some(stat) = existing.filter(|_| !keep) {
            self.remove(&above, &name, &stat)?;
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(&above, name.as_os_str(), flags, Mode::from_bits_truncate(0o600))?;
                self.size_bytes += io::copy(entry, &mut File::from(file))?;
            }
            EntryType::Directory => {
                if !keep {
                    mkdirat(&above, name.as_os_str(), Mode::from_bits_truncate(0o755))?;
                }
                if hides_lower {
                    set_attribute(&above, &name, OPAQUE.as_bytes(), b"y")?;
                }
            }
            EntryType::Symlink => {
                let to = entry.link_name_bytes().ok_or_else(|| invalid("a link without a target".to_owned()))?;
                symlinkat(OsStr::from_bytes(&to), &above, name.as_os_str())?;
            }
            EntryType::Link => {
                let to = entry.link_name_bytes().ok_or_else(|| invalid("a link without a target".to_owned()))?;
                let mut to = parts(&to)?;
                let target = to.pop().ok_or_else(|| invalid("a link to the root".to_owned()))?;
                let folder = self.resolve(&to.iter().collect::<PathBuf>())?;
                linkat(&folder, target.as_os_str(), &above, name.as_os_str(), LinkatFlags::empty())?;
                // It has the other name's owner, mode and time.
                return Ok(());
            }
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let major = header.device_major()?.unwrap_or(0);
                let minor = header.device_minor()?.unwrap_or(0);
                let flag = if kind == EntryType::Char { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                let device = makedev(major.into(), minor.into());
                mknodat(&above, name.as_os_str(), flag, Mode::from_bits_truncate(0o600), device)?;
            }
            EntryType::Fifo => {
                mknodat(&above, name.as_os_str(), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)?;
            }
            other => return Err(invalid(format!("entries of type {other:?} are unknown"))),
        }
        self.set_metadata(entry, &above, &name, kind)?;
        if kind.is_dir() {
            let time = time_of(entry)?;
            self.times.insert(above_path.join(&name), time);
        }
        Ok(())
    }

    fn put_whiteout(&mut self, above: &OwnedFd, above_path: &Path, hidden: &OsStr) -> io::Result<()> {
        match hidden.as_bytes() {
            b".wh..opq" => {
                let folder = self.resolve(above_path)?;
                set_attribute(&folder, OsStr::new("."), OPAQUE.as_bytes(), b"y")
            }
            // What aufs kept for itself.
            name if name.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => Err(invalid("a whiteout without a name".to_owned())),
            _ => match fstatat(above, hidden, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(nix::errno::Errno::ENOENT) => Ok(mknodat(above, hidden, SFlag::S_IFCHR, Mode::empty(), 0)?),
                // The layer replaces what it hides: a folder's lower content stays hidden.
                Ok(stat) if is_folder(&stat) => set_attribute(above, hidden, OPAQUE.as_bytes(), b"y"),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn remove(&mut self, above: &OwnedFd, name: &OsStr, stat: &FileStat) -> io::Result<()> {
        if !is_folder(stat) {
            return Ok(unlinkat(above, name, UnlinkatFlags::NoRemoveDir)?);
        }
        // The cached folder may be in it.
        self.last = None;
        std::fs::remove_dir_all(through(above, name))
    }

    fn set_metadata<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        above: &OwnedFd,
        name: &OsStr,
        kind: EntryType,
    ) -> io::Result<()> {
        let id = |field: &[u8], value: io::Result<u64>| -> io::Result<u32> {
            u32::try_from(or_zero(field, value)?).map_err(|_| invalid("a user or group is out of range".to_owned()))
        };
        let (header, fields) = (entry.header(), entry.header().as_old());
        let (uid, gid) = (id(&fields.uid, header.uid())?, id(&fields.gid, header.gid())?);
        fchownat(above, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        // After the owner, whose change takes setuid off.
        if !kind.is_symlink() {
            let mode = or_zero(&entry.header().as_old().mode, entry.header().mode())?;
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            fchmodat(above, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        let mut attributes = Vec::new();
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions.flatten() {
                if let Some(attribute) = extension.key_bytes().strip_prefix(PAX_ATTRIBUTE)
                    && !OVERLAY_ATTRIBUTES.iter().any(|prefix| attribute.starts_with(prefix))
                {
                    attributes.push((attribute.to_vec(), extension.value_bytes().to_vec()));
                }
            }
        }
        for (attribute, value) in attributes {
            match set_attribute(above, name, &attribute, &value) {
                // This file system has none of that kind, or the kernel has no such security module.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => other?,
            }
        }
        let time = time_of(entry)?;
        Ok(utimensat(above, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }

    /// Sets the times of folders.
    fn finish(&mut self) -> io::Result<()> {
        for (path, time) in std::mem::take(&mut self.times) {
            match self.resolve(&path) {
                Ok(folder) => utimensat(&folder, ".", &time, &time, UtimensatFlags::NoFollowSymlink)?,
                // A later entry replaced it.
                Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn time_of<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<TimeSpec> {
    let seconds = or_zero(&entry.header().as_old().mtime, entry.header().mtime())?;
    Ok(TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0))
}

/// A number of a header; a field left empty is 0, as Go reads it.
fn or_zero<T: Default>(field: &[u8], value: io::Result<T>) -> io::Result<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(T::default()) } else { value }
}

/// The path of a name in an open folder.
fn through(folder: &OwnedFd, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(name)
}

fn set_attribute(folder: &OwnedFd, name: &OsStr, attribute: &[u8], value: &[u8]) -> io::Result<()> {
    let path = CString::new(through(folder, name).into_os_string().into_vec())?;
    let attribute = CString::new(attribute)?;
    // SAFETY: both strings end with a zero byte, and the value's length is its own.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    struct Layer(tar::Builder<Vec<u8>>);

    impl Layer {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1_000_000_000);
            header.set_size(size);
            header
        }

        /// Names as they are, which the builder's own calls would clean.
        fn raw(mut self, kind: EntryType, name: &str, to: &str, mode: u32, content: &[u8]) -> Self {
            let mut header = Self::header(kind, mode, content.len() as u64);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
            header.set_cksum();
            self.0.append(&header, content).unwrap();
            self
        }

        fn file(self, name: &str, content: &str) -> Self {
            self.raw(EntryType::Regular, name, "", 0o644, content.as_bytes())
        }

        fn folder(self, name: &str) -> Self {
            self.raw(EntryType::Directory, name, "", 0o755, b"")
        }

        fn link(self, name: &str, to: &str) -> Self {
            self.raw(EntryType::Symlink, name, to, 0o777, b"")
        }

        fn bytes(self) -> Vec<u8> {
            self.0.into_inner().unwrap()
        }

        fn unpack(self) -> (tempfile::TempDir, io::Result<Unpacked>) {
            let folder = tempfile::tempdir().unwrap();
            let result = unpack(self.bytes().as_slice(), folder.path());
            (folder, result)
        }
    }

    fn opaque(path: &Path) -> bool {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut value = [0u8; 4];
        // SAFETY: the strings end with a zero byte and the buffer's length is its own.
        let count =
            unsafe { libc::lgetxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), value.as_mut_ptr().cast(), 4) };
        count == 1 && value[0] == b'y'
    }

    #[test]
    fn kinds_of_entries() {
        let layer = Layer::new()
            .folder("d/")
            .raw(EntryType::Regular, "d/setuid", "", 0o4755, b"abc")
            .link("link", "d/setuid")
            .raw(EntryType::Link, "hard", "d/setuid", 0o755, b"")
            .raw(EntryType::Fifo, "pipe", "", 0o600, b"")
            .file("deep/below/file", "x");
        let (folder, result) = layer.unpack();
        assert_eq!(result.unwrap().size_bytes, 4);
        let at = |name: &str| std::fs::symlink_metadata(folder.path().join(name)).unwrap();
        let file = at("d/setuid");
        assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.mtime()), (0o4755, 7, 8, 1_000_000_000));
        assert_eq!(at("d").mtime(), 1_000_000_000);
        assert_eq!(at("hard").ino(), file.ino());
        assert!(at("pipe").file_type().is_fifo());
        assert_eq!(at("link").uid(), 7);
        assert_eq!(std::fs::read(folder.path().join("deep/below/file")).unwrap(), b"x");
    }

    #[test]
    fn whiteouts() {
        let layer = Layer::new()
            .file(".wh.gone", "")
            .folder("full")
            .file("full/.wh..wh..opq", "")
            .file("full/new", "")
            .file(".wh.again", "")
            .folder("again")
            .folder("before")
            .file(".wh.before", "")
            .file(".wh.file", "")
            .file("file", "new")
            .file(".wh..wh.plnk", "");
        let (folder, result) = layer.unpack();
        result.unwrap();
        let at = |name: &str| folder.path().join(name);
        let gone = std::fs::symlink_metadata(at("gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert!(opaque(&at("full")) && opaque(&at("again")) && opaque(&at("before")));
        assert_eq!(std::fs::read(at("file")).unwrap(), b"new");
        assert!(!at(".wh..wh.plnk").exists());
    }

    #[test]
    fn nothing_leaves_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        let out = outside.path().to_str().unwrap();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "whole").unwrap();
        let refused = [
            Layer::new().file("../victim", "x"),
            Layer::new().file("a/../../victim", "x"),
            Layer::new().raw(EntryType::Link, "hard", &victim.to_string_lossy(), 0o644, b""),
            Layer::new().raw(EntryType::Link, "hard", "../victim", 0o644, b""),
        ];
        for layer in refused {
            assert!(layer.unpack().1.is_err());
        }
        let contained = [
            Layer::new().link("a", out).file("a/victim", "x"),
            Layer::new().link("a", "../../../../..").file(&format!("a{out}/victim"), "x"),
            Layer::new().link("a", "b").link("b", out).file("a/.wh.victim", ""),
            Layer::new().link("victim", &victim.to_string_lossy()).file("victim", "x"),
            Layer::new().file(&format!("{out}/victim"), "x"),
        ];
        for layer in contained {
            layer.unpack().1.unwrap();
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "whole");
        let looped = Layer::new().link("a", "b").link("b", "a").file("a/x", "");
        assert!(looped.unpack().1.is_err());
    }

    #[test]
    fn attributes_of_overlayfs_are_dropped() {
        let mut layer = Layer::new();
        layer.0.append_pax_extensions([("SCHILY.xattr.trusted.overlay.opaque", b"y".as_slice())]).unwrap();
        let layer = layer.folder("a");
        let (folder, result) = layer.unpack();
        result.unwrap();
        assert!(!opaque(&folder.path().join("a")));
    }

    #[test]
    fn compression() {
        let plain = Layer::new().file("a", "content").bytes();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let expect = format!("sha256:{}", hex::encode(Sha256::digest(&plain)));
        for archive in [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(plain.as_slice(), 1).unwrap()] {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(unpack(archive.as_slice(), folder.path()).unwrap().diff_id, expect);
            assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"content");
        }
    }
}
