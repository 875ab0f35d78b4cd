//! The server as clients see it: over UDP and TCP, with a resolver behind it.

use std::net::SocketAddr;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::rdata::{A, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::zone::tests::Objects;
use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

/// A resolver that knows `example.com`, and `long.example.com` with more than a datagram holds.
async fn resolver() -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = udp.local_addr().expect("bound");
    let tcp = TcpListener::bind(address).await.expect("the same port");
    let answer = |bytes: &[u8], tcp: bool| {
        let question = Message::from_vec(bytes).expect("a question");
        let asked = question.queries[0].name.clone();
        let mut answer = question.into_response();
        if asked == name("example.com.") {
            answer.add_answer(Record::from_rdata(asked, 20, RData::A(A::new(192, 0, 2, 1))));
        } else if asked == name("long.example.com.") {
            if tcp {
                let text = TXT::new(vec!["x".repeat(200); 20]);
                answer.add_answer(Record::from_rdata(asked, 20, RData::TXT(text)));
            } else {
                answer.metadata.truncation = true;
            }
        } else {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        answer.to_vec().expect("encoded")
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let _ = udp.send_to(&answer(&buffer[..length], false), from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut client, _)) = tcp.accept().await {
            let mut question = vec![0; client.read_u16().await.expect("a length").into()];
            client.read_exact(&mut question).await.expect("a question");
            let answer = answer(&question, true);
            client.write_u16(answer.len() as u16).await.expect("sent");
            client.write_all(&answer).await.expect("sent");
        }
    });
    address
}

/// A server in front of it, and its address for both protocols.
async fn server() -> (Server<Handler>, SocketAddr) {
    let mut objects = Objects::default()
        .service("web", json!({"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]}))
        .service("far", json!({"type": "ExternalName", "externalName": "example.com"}))
        .service("near", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}))
        .service("round", json!({"type": "ExternalName", "externalName": "round.ns.svc.cluster.local"}))
        .service("many", json!({"clusterIP": "None"}));
    let endpoints: Vec<_> = (0..100).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    objects = objects.slice("many", "IPv4", json!(endpoints));
    let handler = Handler {
        zone: Zone::new("cluster.local", vec!["10.96.0.10".parse().expect("an address")]).expect("a zone"),
        view: Arc::new(objects),
        forwarder: Forwarder::new(Resolvers::Fixed(vec![resolver().await])),
    };
    let mut server = Server::new(handler);
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = udp.local_addr().expect("bound");
    server.register_socket(udp);
    server.register_listener(TcpListener::bind(address).await.expect("the same port"), TCP_IDLE_MAX, TCP_ANSWERS_MAX);
    (server, address)
}

fn question(asked: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(asked), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    message.to_vec().expect("encoded")
}

async fn by_udp(server: SocketAddr, question: &[u8]) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.send_to(question, server).await.expect("sent");
    let mut buffer = vec![0; 65536];
    let length = socket.recv(&mut buffer).await.expect("answered");
    (Message::from_vec(&buffer[..length]).expect("an answer"), length)
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.expect("connected");
    stream.write_u16(question.len() as u16).await.expect("sent");
    stream.write_all(question).await.expect("sent");
    let mut answer = vec![0; stream.read_u16().await.expect("a length").into()];
    stream.read_exact(&mut answer).await.expect("answered");
    Message::from_vec(&answer).expect("an answer")
}

fn described(message: &Message) -> (ResponseCode, bool, Vec<String>) {
    let records = message.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    (message.metadata.response_code, message.metadata.authoritative, records)
}

#[tokio::test]
async fn names_of_the_cluster_and_others_are_answered() {
    let (mut server, address) = server().await;
    let cases = [
        ("Web.ns.svc.cluster.local.", ResponseCode::NoError, true, vec!["Web.ns.svc.cluster.local. 10.96.0.20"]),
        ("none.ns.svc.cluster.local.", ResponseCode::NXDomain, true, vec![]),
        ("example.com.", ResponseCode::NoError, false, vec!["example.com. 192.0.2.1"]),
        ("nothing.example.com.", ResponseCode::NXDomain, false, vec![]),
        (
            "far.ns.svc.cluster.local.",
            ResponseCode::NoError,
            true,
            vec!["far.ns.svc.cluster.local. example.com.", "example.com. 192.0.2.1"],
        ),
        (
            "near.ns.svc.cluster.local.",
            ResponseCode::NoError,
            true,
            vec!["near.ns.svc.cluster.local. web.ns.svc.cluster.local.", "web.ns.svc.cluster.local. 10.96.0.20"],
        ),
        ("round.ns.svc.cluster.local.", ResponseCode::ServFail, false, vec![]),
    ];
    for (asked, code, authoritative, records) in cases {
        let question = question(asked, RecordType::A, false);
        let records: Vec<String> = records.into_iter().map(str::to_owned).collect();
        let (answer, _) = by_udp(address, &question).await;
        assert_eq!(answer.metadata.id, 7);
        assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
        assert_eq!(described(&answer), (code, authoritative, records.clone()), "{asked} by UDP");
        assert_eq!(described(&by_tcp(address, &question).await), (code, authoritative, records), "{asked} by TCP");
    }
    let (negative, _) = by_udp(address, &question("web.ns.svc.cluster.local.", RecordType::AAAA, false)).await;
    assert_eq!(described(&negative), (ResponseCode::NoError, true, vec![]));
    assert_eq!(negative.authorities[0].record_type(), RecordType::SOA, "so that it can be kept");
    server.shutdown_gracefully().await.expect("stopped");
}

#[tokio::test]
async fn long_answers_are_cut_for_udp_and_whole_for_tcp() {
    let (mut server, address) = server().await;
    let asked = "many.ns.svc.cluster.local.";
    let (cut, length) = by_udp(address, &question(asked, RecordType::A, false)).await;
    assert!(cut.metadata.truncation && length <= 512, "{length} bytes");
    let (cut, length) = by_udp(address, &question(asked, RecordType::A, true)).await;
    assert!(cut.metadata.truncation && length <= 1232 && cut.edns.is_some(), "{length} bytes");
    let whole = by_tcp(address, &question(asked, RecordType::A, false)).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    let (cut, _) = by_udp(address, &question("long.example.com.", RecordType::TXT, false)).await;
    assert!(cut.metadata.truncation);
    assert_eq!(by_tcp(address, &question("long.example.com.", RecordType::TXT, false)).await.answers.len(), 1);
    server.shutdown_gracefully().await.expect("stopped");
}

#[tokio::test]
async fn what_is_no_question_is_refused() {
    let (mut server, address) = server().await;
    let (answer, _) = by_udp(address, &question("cluster.local.", RecordType::AXFR, false)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let mut update = Message::from_vec(&question("cluster.local.", RecordType::SOA, false)).expect("a message");
    update.metadata.op_code = OpCode::Notify;
    let (answer, _) = by_udp(address, &update.to_vec().expect("encoded")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    server.shutdown_gracefully().await.expect("stopped");
}
