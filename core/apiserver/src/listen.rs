//! Listening at an address, and who does already.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use tokio::net::TcpListener;

use crate::error::Error;

/// Listens at an address; when it is taken, the error says by whom.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|reason| {
        let in_use = reason.kind() == std::io::ErrorKind::AddrInUse;
        let holder = if in_use { holder_of(address.port()) } else { None };
        Error::Listen { address, holder, reason }
    })
}

/// The address under which other hosts reach this one when it listens at `listen`: that address, or, when it stands
/// for all, the one that the default route leaves from.
pub fn advertised(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    // Nothing is sent: connecting a datagram socket only asks for the route. The target is TEST-NET-1 (RFC 5737).
    let route = UdpSocket::bind(SocketAddr::new(listen, 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    route.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

/// `process 123 (nginx)`, if this process may see whose socket listens at a TCP port.
fn holder_of(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find_map(|table| listener(&table, port).map(str::to_owned))?;
    let socket = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let holds =
            files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*socket));
        if holds {
            let command = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", command.trim()));
        }
    }
    None
}

/// The inode of the socket that listens at a port, from the text of `/proc/net/tcp`.
fn listener(table: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = fields.get(3) == Some(&LISTEN) && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then(|| fields.get(9).copied()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:192B 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listener(table, 6443), Some("4711"));
        assert_eq!(listener(table, 6444), None);
    }

    #[tokio::test]
    async fn a_taken_port_names_its_holder() {
        let taken = listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = taken.local_addr().expect("an address");
        let error = listen(address).await.expect_err("it is taken");
        let text = error.to_string();
        assert!(text.contains(&format!("{address}: the port is in use by process {} (", std::process::id())), "{text}");
    }

    #[test]
    fn an_address_of_its_own_is_advertised() {
        assert_eq!(advertised(IpAddr::from([10, 0, 0, 5])), IpAddr::from([10, 0, 0, 5]));
        assert!(!advertised(IpAddr::from([0, 0, 0, 0])).is_unspecified());
    }
}
