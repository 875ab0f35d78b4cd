//! A machine for tests: a network namespace of its own with an address and a way out, and one that is "outside".

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The node's address.
pub(crate) const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);
/// The address of what is outside: it has no route to pods and services.
pub(crate) const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);

/// How long a client waits for an answer that should come, or for a refusal.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Lab {
    folder: tempfile::TempDir,
    outside: PathBuf,
}

impl Lab {
    /// Runs a test on a thread in the lab. All that it makes in the kernel ends with it.
    pub(crate) fn run(test: impl AsyncFnOnce(&Lab) + Send) {
        thread::scope(|scope| {
            let done = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("needs root");
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                    .expect("mounts of our own");
                let folder = tempfile::tempdir().expect("a folder");
                let outside = folder.path().join("outside");
                let lab = Lab { folder, outside };
                lab.set_up();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(test(&lab));
            });
            if let Err(panic) = done.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn set_up(&self) {
        new_namespace(&self.outside);
        let outside = self.outside.display();
        sh(&format!(
            "ip link set lo up
             ip link add eth0 type veth peer name eth0p
             ip addr add {NODE_IP}/24 dev eth0
             ip link set eth0 up"
        ));
        let pid_file = File::open(&self.outside).expect("the outside");
        let peer = index_of("eth0p");
        move_link(peer, &pid_file);
        sh(&format!(
            "nsenter --net={outside} ip link set lo up
             nsenter --net={outside} ip addr add {OUTSIDE_IP}/24 dev eth0p
             nsenter --net={outside} ip link set eth0p up
             ip route add default via {OUTSIDE_IP}
             ip -6 addr add fd00:89::2/64 dev eth0 nodad
             ip -6 route add default via fd00:89::1"
        ));
    }

    /// A machine behind what is outside, on a link of their own: 10.90.0.2, with the outside as its router.
    pub(crate) fn behind_outside(&self) -> PathBuf {
        let far = self.folder().join("far");
        new_namespace(&far);
        let outside = self.outside.clone();
        let name = far.clone();
        inside(&outside, move || {
            sh("ip link add far0 type veth peer name far0p; ip addr add 10.90.0.1/24 dev far0; ip link set far0 up");
            move_link(index_of("far0p"), &File::open(name).expect("the far end"));
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("it is a router");
        });
        inside(&far, || {
            sh("ip link set lo up; ip link set far0p name eth0; ip addr add 10.90.0.2/24 dev eth0
                ip link set eth0 up; ip route add default via 10.90.0.1");
        });
        far
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The namespace of what is outside.
    pub(crate) fn outside(&self) -> &Path {
        &self.outside
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["outside", "far"] {
            let _ = nix::mount::umount2(&self.folder().join(name), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn new_namespace(path: &Path) {
    File::create(path).expect("a file to mount on");
    let path = path.to_owned();
    // A thread of its own, as it stays in the other namespace.
    let making = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("it has a name");
    });
    making.join().expect("no panic");
}

fn index_of(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).expect("the link is there")
}

fn move_link(index: u32, namespace: &File) {
    use std::os::fd::AsRawFd;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (connection, netlink, _) = rtnetlink::new_connection().expect("a netlink socket");
        tokio::spawn(connection);
        let link = rtnetlink::LinkUnspec::new_with_index(index).setns_by_fd(namespace.as_raw_fd()).build();
        netlink.link().change(link).execute().await.expect("the link moves");
    });
}

/// Runs commands of the machine, which must succeed.
pub(crate) fn sh(script: &str) {
    let status = Command::new("sh").args(["-e", "-c", script]).status().expect("a shell");
    assert!(status.success(), "{script}");
}

pub(crate) fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-e", "-c", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout).expect("text")
}

/// Names of the machine's links.
pub(crate) fn links() -> String {
    output("ip -o link | cut -d: -f2")
}

/// The machine's nftables tables.
pub(crate) fn tables() -> String {
    output("nft list tables")
}

/// Runs something on a thread in another network namespace.
pub(crate) fn inside<T: Send + 'static>(namespace: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    thread_inside(namespace, work).join().expect("no panic")
}

/// The same, without waiting for its end.
pub(crate) fn thread_inside<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = File::open(namespace).expect("the namespace is there");
    thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("needs root");
        work()
    })
}

/// A server that answers every client with its name and the client's address, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn start(address: SocketAddr, serve: impl Fn() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                serve();
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often a server looks whether it is to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

pub(crate) fn serve_tcp(namespace: &Path, address: SocketAddr, name: &str) -> Server {
    let listener = inside(namespace, move || TcpListener::bind(address)).expect("the address is free");
    let name = name.to_owned();
    Server::start(address, move || {
        use std::os::fd::AsFd;
        let mut ready = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
        let wait = nix::poll::PollTimeout::try_from(STOP_CHECK).expect("short");
        if nix::poll::poll(&mut ready, wait).is_ok_and(|count| count > 0)
            && let Ok((mut client, from)) = listener.accept()
        {
            let _ = write!(client, "{name} {}", from.ip());
        }
        true
    })
}

pub(crate) fn serve_udp(namespace: &Path, address: SocketAddr, name: &str) -> Server {
    let socket = inside(namespace, move || UdpSocket::bind(address)).expect("the address is free");
    socket.set_read_timeout(Some(STOP_CHECK)).expect("a timeout");
    let name = name.to_owned();
    Server::start(address, move || {
        if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
        }
        true
    })
}

fn wherever<T: Send + 'static>(namespace: Option<&Path>, work: impl FnOnce() -> T + Send + 'static) -> T {
    match namespace {
        Some(namespace) => inside(namespace, work),
        None => work(),
    }
}

/// What a TCP server answers a client in a namespace (none: on the node).
pub(crate) fn ask_tcp(from: Option<&Path>, to: SocketAddr) -> io::Result<String> {
    wherever(from, move || {
        let mut server = TcpStream::connect_timeout(&to, ANSWER_TIME_MAX)?;
        server.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        let mut answer = String::new();
        server.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// A UDP socket in a namespace, for asking several times from one port.
pub(crate) fn udp_client(namespace: &Path) -> UdpSocket {
    inside(namespace, || UdpSocket::bind("0.0.0.0:0")).expect("a socket")
}

/// What a UDP server answers this socket.
pub(crate) fn ask_by(socket: &UdpSocket, to: SocketAddr) -> io::Result<String> {
    socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    socket.send_to(b"?", to)?;
    let mut answer = [0; 64];
    let (length, _) = socket.recv_from(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// What a UDP server answers.
pub(crate) fn ask_udp(from: Option<&Path>, to: SocketAddr) -> io::Result<String> {
    wherever(from, move || {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().map_err(io::Error::other)?;
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    })
}
