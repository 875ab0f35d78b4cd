//! Ports that stand twice, or might.

use serde_json::Value;

use super::super::super::at::At;
use super::super::super::read::{items, number, text};
use super::super::visit_containers;

struct Port<'a> {
    at: String,
    port: &'a Value,
}

/// Adds what is odd about the ports of a pod.
pub(super) fn check(spec: &Value, at: &At<'_>, found: &mut Vec<String>) {
    let mut ports = Vec::new();
    visit(spec, at, &mut ports);
    let mut seen: Vec<&Port<'_>> = Vec::new();
    for port in &ports {
        let host_port = number(port.port, "hostPort");
        if !text(port.port, "hostIP").is_empty() && host_port == 0 {
            found.push(format!("{}: hostIP set without hostPort: {}", port.at, shown(port.port)));
        }
        for other in &seen {
            if number(port.port, "containerPort") != number(other.port, "containerPort")
                || text(port.port, "protocol") != text(other.port, "protocol")
            {
                continue;
            }
            let other_host_port = number(other.port, "hostPort");
            if host_port == 0 && other_host_port == 0 || host_port == other_host_port {
                let (own_ip, other_ip) = (text(port.port, "hostIP"), text(other.port, "hostIP"));
                if own_ip == other_ip || host_port == 0 {
                    found.push(format!("{}: duplicate port definition with {}", port.at, other.at));
                } else if own_ip.is_empty() || other_ip.is_empty() {
                    found.push(format!("{}: overlapping port definition with {}", port.at, other.at));
                }
            } else if host_port == 0 || other_host_port == 0 {
                found.push(format!("{}: dangerously ambiguous port definition with {}", port.at, other.at));
            }
        }
        seen.push(port);
    }
}

fn visit<'a>(spec: &'a Value, at: &At<'_>, ports: &mut Vec<Port<'a>>) {
    let mut places = Vec::new();
    visit_containers(spec, at, &mut |_, at| places.push(at.to_string()));
    for ((_, container), place) in super::super::all_containers(spec).zip(places) {
        for (index, port) in items(container, "ports").iter().enumerate() {
            ports.push(Port { at: format!("{place}.ports[{index}]"), port });
        }
    }
}

/// Go's `%+v` of the internal type.
fn shown(port: &Value) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(port, "name"),
        number(port, "hostPort"),
        number(port, "containerPort"),
        text(port, "protocol"),
        text(port, "hostIP")
    )
}
