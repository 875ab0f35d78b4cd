//! Answers about names of the cluster: pure, from a view of its objects.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::question::{self, Question};

/// How long an answer holds, in seconds (CoreDNS' default for the cluster's names).
const TTL: u32 = 5;
/// The version of the schema.
const SCHEMA_VERSION: &str = "1.1.0";

/// The objects that answers are made of.
pub(super) trait View: Send + Sync {
    fn namespace_exists(&self, name: &str) -> bool;
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The slices of a service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The services with this cluster IP.
    fn services_by_ip(&self, ip: &str) -> Vec<Arc<Service>>;
    /// The slices with an endpoint of this address.
    fn slices_by_ip(&self, ip: &str) -> Vec<Arc<EndpointSlice>>;
}

/// What the zone says to a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// Whether the name exists at all.
    pub(super) exists: bool,
    pub(super) answers: Vec<Record>,
    pub(super) additionals: Vec<Record>,
    /// The name that the last answer is an alias of, to be looked up as well.
    pub(super) alias: Option<Name>,
}

impl Answer {
    fn nothing() -> Self {
        Self::default()
    }

    fn records(records: impl IntoIterator<Item = Record>) -> Self {
        Self { exists: true, answers: records.into_iter().collect(), ..Self::default() }
    }
}

/// The cluster's domain.
pub(super) struct Zone {
    domain: Name,
    labels: Vec<String>,
    soa: Record,
    /// The name server's addresses: those of the DNS service.
    server_ips: Vec<IpAddr>,
}

impl Zone {
    /// A zone for a domain such as `cluster.local`; none when that is no domain name.
    pub(super) fn new(domain: &str, server_ips: Vec<IpAddr>) -> Option<Self> {
        let domain = Name::from_ascii(domain.trim_end_matches('.').to_ascii_lowercase() + ".").ok()?;
        let server = Name::from_ascii("ns.dns").ok()?.append_domain(&domain).ok()?;
        let admin = Name::from_ascii("hostmaster").ok()?.append_domain(&domain).ok()?;
        // The serial number means nothing: nobody transfers the zone.
        let soa = SOA::new(server, admin, 1, 7200, 1800, 86400, TTL);
        let soa = Record::from_rdata(domain.clone(), TTL, RData::SOA(soa));
        let labels = domain.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        Some(Self { domain, labels, soa, server_ips })
    }

    /// What comes with an answer that has no records (RFC 2308).
    pub(super) fn soa(&self) -> &Record {
        &self.soa
    }

    /// The labels before the domain, if the name lies in it. All are in lower case.
    fn inside<'a, 'b>(&self, labels: &'b [&'a str]) -> Option<&'b [&'a str]> {
        let split = labels.len().checked_sub(self.labels.len())?;
        let (before, domain) = labels.split_at(split);
        domain.iter().zip(&self.labels).all(|(have, want)| have == want).then_some(before)
    }

    /// Answers a question; none when the name isn't the cluster's, so that others must be asked. `labels` are the
    /// name's, in lower case; answers bear the name as it was asked.
    pub(super) fn answer(&self, view: &dyn View, name: &Name, labels: &[&str], kind: RecordType) -> Option<Answer> {
        if let Some(ip) = question::reverse_ip(labels) {
            let records = self.pointers(view, name, ip);
            // Names of addresses that aren't the cluster's are somebody else's.
            return (!records.is_empty())
                .then(|| Answer::records(records.into_iter().filter(|_| kind == RecordType::PTR)));
        }
        let asked = Asked { zone: self, view, name, kind };
        Some(asked.answer(question::read(self.inside(labels)?)))
    }

    fn pointers(&self, view: &dyn View, name: &Name, ip: IpAddr) -> Vec<Record> {
        let text = ip.to_string();
        let mut targets = BTreeSet::new();
        for service in view.services_by_ip(&text) {
            if let (Some(service), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace) {
                targets.extend(self.name(&[service, namespace, "svc"]));
            }
        }
        if targets.is_empty() {
            for slice in view.slices_by_ip(&text) {
                let Some(key) = crate::service_slices::service_of(&slice) else { continue };
                if !view.service(&key.namespace, &key.name).is_some_and(|service| is_headless(&service)) {
                    continue;
                }
                for endpoint in ready(&slice).filter(|endpoint| endpoint.addresses.first() == Some(&text)) {
                    targets.extend(self.name(&[&host(endpoint, ip), &key.name, &key.namespace, "svc"]));
                }
            }
        }
        targets.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect()
    }

    /// A name below the domain; none when it would be too long.
    fn name(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(&self.domain).ok()
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address(name: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(four) => RData::A(A(four)),
        IpAddr::V6(six) => RData::AAAA(AAAA(six)),
    };
    record(name, data)
}

fn is_of(kind: RecordType, ip: &IpAddr) -> bool {
    matches!((kind, ip), (RecordType::A, IpAddr::V4(_)) | (RecordType::AAAA, IpAddr::V6(_)))
}

/// A service's addresses, one of each family.
pub(super) fn cluster_ips(spec: &ServiceSpec) -> impl Iterator<Item = &String> {
    let first = spec.cluster_ip.as_ref().filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty));
    spec.cluster_ips.iter().flatten().chain(first)
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// Endpoints that take traffic, those of services that publish all of them included: they are written as ready.
fn ready(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true))
}

/// The label of an endpoint.
fn host(endpoint: &Endpoint, ip: IpAddr) -> String {
    match &endpoint.hostname {
        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase(),
        _ => question::dashed(ip),
    }
}

/// A port that a query may be about.
struct PortFilter<'a> {
    name: &'a str,
    protocol: &'a str,
}

impl PortFilter<'_> {
    fn takes(&self, name: Option<&str>, protocol: Option<&str>) -> bool {
        name.unwrap_or_default().eq_ignore_ascii_case(self.name)
            && protocol.unwrap_or("TCP").eq_ignore_ascii_case(self.protocol)
    }
}

struct Asked<'a> {
    zone: &'a Zone,
    view: &'a dyn View,
    name: &'a Name,
    kind: RecordType,
}

impl Asked<'_> {
    fn answer(&self, question: Question<'_>) -> Answer {
        match question {
            Question::Unknown => Answer::nothing(),
            Question::Branch => Answer::records([]),
            Question::Apex => Answer::records(match self.kind {
                RecordType::SOA => Some(Record::from_rdata(self.name.clone(), TTL, self.zone.soa.data.clone())),
                RecordType::NS => self.zone.name(&["ns", "dns"]).map(|server| record(self.name, RData::NS(NS(server)))),
                _ => None,
            }),
            Question::Version => Answer::records(
                (self.kind == RecordType::TXT)
                    .then(|| record(self.name, RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()])))),
            ),
            Question::NameServer => self.addresses(self.zone.server_ips.iter().copied()),
            Question::Namespace(namespace) => self.in_namespace(namespace, |_| Answer::records([])),
            Question::Pod { namespace, ip } => {
                self.in_namespace(namespace, |asked| asked.addresses(std::iter::once(ip)))
            }
            Question::Service { namespace, service } => self.service(namespace, service, None),
            Question::Port { namespace, service, port, protocol } => {
                self.service(namespace, service, Some(&PortFilter { name: port, protocol }))
            }
            Question::Endpoint { namespace, service, host } => self.endpoint(namespace, service, host),
        }
    }

    fn in_namespace(&self, namespace: &str, answer: impl FnOnce(&Self) -> Answer) -> Answer {
        if self.view.namespace_exists(namespace) { answer(self) } else { Answer::nothing() }
    }

    fn addresses(&self, ips: impl Iterator<Item = IpAddr>) -> Answer {
        Answer::records(ips.filter(|ip| is_of(self.kind, ip)).map(|ip| address(self.name, ip)))
    }

    fn service(&self, namespace: &str, name: &str, port: Option<&PortFilter<'_>>) -> Answer {
        let Some(service) = self.view.service(namespace, name) else { return Answer::nothing() };
        let Some(spec) = &service.spec else { return Answer::nothing() };
        if spec.type_.as_deref() == Some("ExternalName") {
            return self.alias(spec.external_name.as_deref().unwrap_or_default());
        }
        if is_headless(&service) {
            return self.headless(namespace, name, port);
        }
        let ports: Vec<u16> = spec
            .ports
            .iter()
            .flatten()
            .filter(|one| port.is_none_or(|port| port.takes(one.name.as_deref(), one.protocol.as_deref())))
            .filter_map(|one| u16::try_from(one.port).ok())
            .collect();
        if port.is_some() && ports.is_empty() {
            return Answer::nothing();
        }
        let ips: Vec<IpAddr> = cluster_ips(spec).filter_map(|ip| ip.parse().ok()).collect();
        if self.kind != RecordType::SRV {
            return self.addresses(ips.into_iter());
        }
        let Some(target) = self.zone.name(&[name, namespace, "svc"]) else { return Answer::nothing() };
        let weight = share(ports.len());
        let records = ports.into_iter().map(|port| self.srv(weight, port, &target));
        let mut answer = Answer::records(records);
        answer.additionals = ips.into_iter().map(|ip| address(&target, ip)).collect();
        answer
    }

    fn srv(&self, weight: u16, port: u16, target: &Name) -> Record {
        record(self.name, RData::SRV(SRV::new(0, weight, port, target.clone())))
    }

    fn alias(&self, target: &str) -> Answer {
        if let Ok(ip) = target.parse::<IpAddr>() {
            return self.addresses(std::iter::once(ip));
        }
        let Ok(target) = Name::from_ascii(target.trim_end_matches('.').to_owned() + ".") else {
            return Answer::records([]);
        };
        let alias = record(self.name, RData::CNAME(CNAME(target.clone())));
        Answer { alias: (self.kind != RecordType::CNAME).then_some(target), ..Answer::records([alias]) }
    }

    /// All ready endpoints of a headless service: it exists as long as there is one.
    fn headless(&self, namespace: &str, name: &str, port: Option<&PortFilter<'_>>) -> Answer {
        let mut ips = BTreeSet::new();
        let mut targets = BTreeSet::new();
        for slice in self.view.slices(namespace, name) {
            let ports: Vec<u16> = slice
                .ports
                .iter()
                .flatten()
                .filter(|one| port.is_none_or(|port| port.takes(one.name.as_deref(), one.protocol.as_deref())))
                .filter_map(|one| u16::try_from(one.port?).ok())
                .collect();
            if port.is_some() && ports.is_empty() {
                continue;
            }
            for endpoint in ready(&slice) {
                for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                    ips.insert(ip);
                    if self.kind == RecordType::SRV {
                        targets.extend(ports.iter().map(|port| (host(endpoint, ip), ip, *port)));
                    }
                }
            }
        }
        if ips.is_empty() {
            return Answer::nothing();
        }
        if self.kind != RecordType::SRV {
            return self.addresses(ips.into_iter());
        }
        let hosts: BTreeSet<(&str, u16)> = targets.iter().map(|(host, _, port)| (host.as_str(), *port)).collect();
        let weight = share(hosts.len());
        let named = |host: &str| self.zone.name(&[host, name, namespace, "svc"]);
        let records =
            hosts.iter().filter_map(|(host, port)| Some(self.srv(weight, *port, &named(host)?))).collect::<Vec<_>>();
        let with_ips: BTreeSet<(&str, IpAddr)> = targets.iter().map(|(host, ip, _)| (host.as_str(), *ip)).collect();
        let mut answer = Answer::records(records);
        answer.additionals = with_ips.into_iter().filter_map(|(host, ip)| Some(address(&named(host)?, ip))).collect();
        answer
    }

    /// One endpoint by its hostname or its dashed address.
    fn endpoint(&self, namespace: &str, service: &str, label: &str) -> Answer {
        if self.view.service(namespace, service).is_none() {
            return Answer::nothing();
        }
        let mut ips = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for slice in self.view.slices(namespace, service) {
            for endpoint in ready(&slice) {
                let here = endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
                let here: Vec<IpAddr> = here.filter(|ip| host(endpoint, *ip) == label).collect();
                if !here.is_empty() {
                    ports.extend(slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()));
                }
                ips.extend(here);
            }
        }
        if ips.is_empty() {
            return Answer::nothing();
        }
        if self.kind != RecordType::SRV {
            return self.addresses(ips.into_iter());
        }
        let weight = share(ports.len());
        let mut answer = Answer::records(ports.into_iter().map(|port| self.srv(weight, port, self.name)));
        answer.additionals = ips.into_iter().map(|ip| address(self.name, ip)).collect();
        answer
    }
}

/// The weight of each of some equal targets, as CoreDNS shares a hundred among them.
fn share(count: usize) -> u16 {
    u16::try_from(100 / count.max(1)).unwrap_or(100).max(1)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{HashMap, HashSet};

    use insta::assert_snapshot;
    use serde_json::{Value, json};

    use super::*;

    /// Objects of a test.
    #[derive(Default)]
    pub(in crate::dns) struct Objects {
        namespaces: HashSet<String>,
        services: HashMap<String, Arc<Service>>,
        slices: Vec<Arc<EndpointSlice>>,
    }

    impl Objects {
        pub(in crate::dns) fn service(mut self, name: &str, spec: Value) -> Self {
            let value = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
            self.services.insert(name.to_owned(), Arc::new(serde_json::from_value(value).expect("a Service")));
            self.namespaces.insert("ns".to_owned());
            self
        }

        pub(in crate::dns) fn slice(mut self, service: &str, family: &str, endpoints: Value) -> Self {
            let value = json!({
                "metadata": {"namespace": "ns", "name": "s", "labels": {"kubernetes.io/service-name": service}},
                "addressType": family, "endpoints": endpoints,
                "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
            self.slices.push(Arc::new(serde_json::from_value(value).expect("an EndpointSlice")));
            self
        }
    }

    impl View for Objects {
        fn namespace_exists(&self, name: &str) -> bool {
            self.namespaces.contains(name)
        }
        fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
            self.services.get(name).filter(|_| namespace == "ns").cloned()
        }
        fn slices(&self, _: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
            let of = |slice: &&Arc<EndpointSlice>| {
                crate::service_slices::service_of(slice).is_some_and(|key| key.name == service)
            };
            self.slices.iter().filter(of).cloned().collect()
        }
        fn services_by_ip(&self, ip: &str) -> Vec<Arc<Service>> {
            let has = |service: &&Arc<Service>| {
                service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some(ip))
            };
            self.services.values().filter(has).cloned().collect()
        }
        fn slices_by_ip(&self, ip: &str) -> Vec<Arc<EndpointSlice>> {
            let has = |slice: &&Arc<EndpointSlice>| {
                slice.endpoints.iter().flatten().any(|endpoint| endpoint.addresses.iter().any(|have| have == ip))
            };
            self.slices.iter().filter(has).cloned().collect()
        }
    }

    fn cluster() -> Objects {
        Objects::default()
            .service(
                "web",
                json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00::20"],
                    "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
            )
            .slice("web", "IPv4", json!([{"addresses": ["10.244.0.9"]}]))
            .service("db", json!({"clusterIP": "None"}))
            .slice(
                "db",
                "IPv4",
                json!([{"addresses": ["10.244.0.1"], "hostname": "db-0"}, {"addresses": ["10.244.0.2"]},
                    {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]),
            )
            .slice("db", "IPv6", json!([{"addresses": ["fd00::1"], "hostname": "db-0"}]))
            .service("empty", json!({"clusterIP": "None"}))
            .service("far", json!({"type": "ExternalName", "externalName": "example.com"}))
            .service("far-ip", json!({"type": "ExternalName", "externalName": "192.0.2.1"}))
    }

    /// What the zone says, a record a line.
    fn ask(name: &str, kind: RecordType) -> String {
        let zone = Zone::new("cluster.local", vec!["10.96.0.10".parse().expect("an address")]).expect("a zone");
        let asked = Name::from_ascii(name).expect("a name");
        let lower = name.to_ascii_lowercase();
        let labels: Vec<&str> = lower.split('.').filter(|label| !label.is_empty()).collect();
        let Some(answer) = zone.answer(&cluster(), &asked, &labels, kind) else { return "not ours".to_owned() };
        if !answer.exists {
            assert_eq!((answer.answers.len(), answer.additionals.len()), (0, 0));
            return "no such name".to_owned();
        }
        let mut lines: Vec<String> = answer.answers.iter().map(Record::to_string).collect();
        lines.extend(answer.additionals.iter().map(|record| format!("+ {record}")));
        lines.extend(answer.alias.iter().map(|alias| format!("look up {alias}")));
        if lines.is_empty() { "no data".to_owned() } else { lines.join("\n") }
    }

    #[test]
    fn services_have_addresses_and_ports() {
        assert_snapshot!(ask("web.ns.svc.cluster.local.", RecordType::A), @"web.ns.svc.cluster.local. 5 IN A 10.96.0.20");
        assert_snapshot!(ask("WEB.ns.svc.Cluster.local.", RecordType::AAAA), @"WEB.ns.svc.Cluster.local. 5 IN AAAA fd00::20");
        assert_snapshot!(ask("_http._tcp.web.ns.svc.cluster.local.", RecordType::SRV), @r"
        _http._tcp.web.ns.svc.cluster.local. 5 IN SRV 0 100 80 web.ns.svc.cluster.local.
        + web.ns.svc.cluster.local. 5 IN A 10.96.0.20
        + web.ns.svc.cluster.local. 5 IN AAAA fd00::20
        ");
        assert_snapshot!(ask("web.ns.svc.cluster.local.", RecordType::SRV), @r"
        web.ns.svc.cluster.local. 5 IN SRV 0 50 80 web.ns.svc.cluster.local.
        web.ns.svc.cluster.local. 5 IN SRV 0 50 53 web.ns.svc.cluster.local.
        + web.ns.svc.cluster.local. 5 IN A 10.96.0.20
        + web.ns.svc.cluster.local. 5 IN AAAA fd00::20
        ");
        assert_snapshot!(ask("_http._udp.web.ns.svc.cluster.local.", RecordType::SRV), @"no such name");
        assert_snapshot!(ask("web.ns.svc.cluster.local.", RecordType::MX), @"no data");
        assert_snapshot!(ask("web.other.svc.cluster.local.", RecordType::A), @"no such name");
        assert_snapshot!(ask("none.ns.svc.cluster.local.", RecordType::A), @"no such name");
    }

    #[test]
    fn headless_services_are_their_endpoints() {
        assert_snapshot!(ask("db.ns.svc.cluster.local.", RecordType::A), @r"
        db.ns.svc.cluster.local. 5 IN A 10.244.0.1
        db.ns.svc.cluster.local. 5 IN A 10.244.0.2
        ");
        assert_snapshot!(ask("db.ns.svc.cluster.local.", RecordType::AAAA), @"db.ns.svc.cluster.local. 5 IN AAAA fd00::1");
        assert_snapshot!(ask("_http._tcp.db.ns.svc.cluster.local.", RecordType::SRV), @r"
        _http._tcp.db.ns.svc.cluster.local. 5 IN SRV 0 50 8080 10-244-0-2.db.ns.svc.cluster.local.
        _http._tcp.db.ns.svc.cluster.local. 5 IN SRV 0 50 8080 db-0.db.ns.svc.cluster.local.
        + 10-244-0-2.db.ns.svc.cluster.local. 5 IN A 10.244.0.2
        + db-0.db.ns.svc.cluster.local. 5 IN A 10.244.0.1
        + db-0.db.ns.svc.cluster.local. 5 IN AAAA fd00::1
        ");
        assert_snapshot!(ask("db-0.db.ns.svc.cluster.local.", RecordType::A), @"db-0.db.ns.svc.cluster.local. 5 IN A 10.244.0.1");
        assert_snapshot!(ask("db-0.db.ns.svc.cluster.local.", RecordType::AAAA), @"db-0.db.ns.svc.cluster.local. 5 IN AAAA fd00::1");
        assert_snapshot!(ask("10-244-0-2.db.ns.svc.cluster.local.", RecordType::A), @"10-244-0-2.db.ns.svc.cluster.local. 5 IN A 10.244.0.2");
        assert_snapshot!(ask("10-244-0-3.db.ns.svc.cluster.local.", RecordType::A), @"no such name");
        assert_snapshot!(ask("empty.ns.svc.cluster.local.", RecordType::A), @"no such name");
    }

    #[test]
    fn external_names_are_aliases() {
        assert_snapshot!(ask("far.ns.svc.cluster.local.", RecordType::A), @r"
        far.ns.svc.cluster.local. 5 IN CNAME example.com.
        look up example.com.
        ");
        assert_snapshot!(ask("far.ns.svc.cluster.local.", RecordType::CNAME), @"far.ns.svc.cluster.local. 5 IN CNAME example.com.");
        assert_snapshot!(ask("far-ip.ns.svc.cluster.local.", RecordType::A), @"far-ip.ns.svc.cluster.local. 5 IN A 192.0.2.1");
    }

    #[test]
    fn other_names_of_the_domain() {
        assert_snapshot!(ask("dns-version.cluster.local.", RecordType::TXT), @"dns-version.cluster.local. 5 IN TXT 1.1.0");
        assert_snapshot!(ask("dns-version.cluster.local.", RecordType::A), @"no data");
        assert_snapshot!(ask("cluster.local.", RecordType::SOA), @"cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5");
        assert_snapshot!(ask("cluster.local.", RecordType::NS), @"cluster.local. 5 IN NS ns.dns.cluster.local.");
        assert_snapshot!(ask("ns.dns.cluster.local.", RecordType::A), @"ns.dns.cluster.local. 5 IN A 10.96.0.10");
        assert_snapshot!(ask("1-2-3-4.ns.pod.cluster.local.", RecordType::A), @"1-2-3-4.ns.pod.cluster.local. 5 IN A 1.2.3.4");
        assert_snapshot!(ask("1-2-3-4.ns.pod.cluster.local.", RecordType::AAAA), @"no data");
        assert_snapshot!(ask("1-2-3-4.other.pod.cluster.local.", RecordType::A), @"no such name");
        assert_snapshot!(ask("ns.svc.cluster.local.", RecordType::A), @"no data");
        assert_snapshot!(ask("other.svc.cluster.local.", RecordType::A), @"no such name");
        assert_snapshot!(ask("www.example.com.ns.svc.cluster.local.", RecordType::A), @"no such name");
        assert_snapshot!(ask("example.com.", RecordType::A), @"not ours");
        assert_snapshot!(ask("local.", RecordType::A), @"not ours");
    }

    #[test]
    fn addresses_have_names() {
        assert_snapshot!(ask("20.0.96.10.in-addr.arpa.", RecordType::PTR), @"20.0.96.10.in-addr.arpa. 5 IN PTR web.ns.svc.cluster.local.");
        assert_snapshot!(ask("1.0.244.10.in-addr.arpa.", RecordType::PTR), @"1.0.244.10.in-addr.arpa. 5 IN PTR db-0.db.ns.svc.cluster.local.");
        assert_snapshot!(ask("2.0.244.10.in-addr.arpa.", RecordType::PTR), @"2.0.244.10.in-addr.arpa. 5 IN PTR 10-244-0-2.db.ns.svc.cluster.local.");
        assert_snapshot!(ask("9.0.244.10.in-addr.arpa.", RecordType::PTR), @"not ours");
        assert_snapshot!(ask("20.0.96.10.in-addr.arpa.", RecordType::A), @"no data");
        assert_snapshot!(ask("1.1.1.1.in-addr.arpa.", RecordType::PTR), @"not ours");
    }
}
