//! Questions about other names: passed on to the node's resolvers, their answers kept for a short while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::resolv_conf;

/// How long a resolver may take, before the next one is asked.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// How many questions wait for resolvers at a time; more are refused (CoreDNS' `max_concurrent`).
const CONCURRENT_MAX: usize = 1000;
/// How many answers are kept.
const CACHE_ENTRIES_MAX: usize = 10_000;
/// An answer is kept for at most this long, whatever its records say, in seconds.
const CACHE_TTL_MAX: u32 = 30;
/// What fits into a datagram everywhere (DNS flag day 2020), in bytes.
pub(super) const UDP_PAYLOAD_MAX: u16 = 1232;

/// Where questions go.
#[derive(Clone, Debug)]
pub(super) enum Resolvers {
    /// These.
    Fixed(Vec<SocketAddr>),
    /// Those of a resolv.conf, read again when it changes; never these addresses, which are our own.
    File { path: PathBuf, own: Vec<IpAddr> },
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// In lower case.
    name: Name,
    kind: RecordType,
    class: DNSClass,
    dnssec: bool,
}

struct Kept {
    message: Arc<Message>,
    since: Instant,
    until: Instant,
}

#[derive(Default)]
struct ReadFile {
    changed: Option<SystemTime>,
    resolvers: Arc<[SocketAddr]>,
}

/// Passes questions on.
pub(super) struct Forwarder {
    resolvers: Resolvers,
    file: Mutex<ReadFile>,
    cache: Mutex<HashMap<Key, Kept>>,
    slots: Semaphore,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("more than {CONCURRENT_MAX} questions wait for resolvers")]
    Busy,
    #[error("the node has no resolver")]
    NoResolver,
    #[error("no resolver answers: {0}")]
    Silent(io::Error),
}

impl Forwarder {
    pub(super) fn new(resolvers: Resolvers) -> Self {
        Self { resolvers, file: Mutex::default(), cache: Mutex::default(), slots: Semaphore::new(CONCURRENT_MAX) }
    }

    /// Looks a name up. `tcp`: the client can take a long answer.
    pub(super) async fn look_up(&self, query: &Query, dnssec: bool, tcp: bool) -> Result<Message, ForwardError> {
        let key = Key { name: query.name.to_lowercase(), kind: query.query_type, class: query.query_class, dnssec };
        if let Some(message) = self.kept(&key) {
            return Ok(message);
        }
        let _slot = self.slots.try_acquire().map_err(|_| ForwardError::Busy)?;
        let mut last = None;
        for resolver in self.resolvers().iter() {
            match exchange(*resolver, query, dnssec, tcp).await {
                Ok(message) => {
                    self.keep(key, &message);
                    return Ok(message);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or(ForwardError::NoResolver, ForwardError::Silent))
    }

    fn resolvers(&self) -> Arc<[SocketAddr]> {
        match &self.resolvers {
            Resolvers::Fixed(resolvers) => resolvers.as_slice().into(),
            Resolvers::File { path, own } => {
                let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
                let mut file = self.file.lock();
                if file.changed != changed || changed.is_none() {
                    let text = std::fs::read_to_string(path).unwrap_or_default();
                    *file = ReadFile { changed, resolvers: resolv_conf::resolvers(&text, own).into() };
                }
                file.resolvers.clone()
            }
        }
    }

    fn kept(&self, key: &Key) -> Option<Message> {
        let now = Instant::now();
        let (message, age) = {
            let cache = self.cache.lock();
            let kept = cache.get(key).filter(|kept| kept.until > now)?;
            (kept.message.clone(), now - kept.since)
        };
        let mut message = (*message).clone();
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for records in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            for record in records {
                record.decrement_ttl(age.min(record.ttl));
            }
        }
        Some(message)
    }

    fn keep(&self, key: Key, message: &Message) {
        let Some(seconds) = lifetime(message) else { return };
        let since = Instant::now();
        let until = since + Duration::from_secs(seconds.into());
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_ENTRIES_MAX {
            cache.retain(|_, kept| kept.until > since);
        }
        if cache.len() < CACHE_ENTRIES_MAX {
            cache.insert(key, Kept { message: Arc::new(message.clone()), since, until });
        }
    }
}

/// For how many seconds an answer holds: as long as its shortest record, a negative one as its SOA says (RFC 2308).
fn lifetime(message: &Message) -> Option<u32> {
    if message.metadata.truncation {
        return None;
    }
    let negative = |record: &Record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    };
    let seconds = match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => message.answers.iter().map(|record| record.ttl).min(),
        ResponseCode::NoError | ResponseCode::NXDomain => message.authorities.iter().find_map(negative),
        _ => None,
    };
    seconds.filter(|seconds| *seconds > 0).map(|seconds| seconds.min(CACHE_TTL_MAX))
}

async fn exchange(resolver: SocketAddr, query: &Query, dnssec: bool, tcp: bool) -> io::Result<Message> {
    // Nobody can guess the kernel's random port together with this number.
    let id = random_id()?;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_MAX).set_dnssec_ok(dnssec);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let answer = async { if tcp { by_tcp(resolver, &bytes).await } else { by_udp(resolver, &bytes, id, query).await } };
    timeout(ANSWER_TIME_MAX, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut bytes).map_err(io::Error::other)?;
    Ok(u16::from_ne_bytes(bytes))
}

async fn by_udp(resolver: SocketAddr, bytes: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(UDP_PAYLOAD_MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(message) = Message::from_vec(&buffer[..length])
            && message.metadata.id == id
            && message.queries.first().is_some_and(|asked| asked.name == query.name)
        {
            return Ok(message);
        }
    }
}

async fn by_tcp(resolver: SocketAddr, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    Message::from_vec(&buffer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use hickory_server::proto::rr::rdata::{A, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn answer(ttl: u32) -> Record {
        Record::from_rdata(name("example.com."), ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    #[test]
    fn answers_are_kept_as_long_as_they_hold() {
        let soa = |ttl, minimum| {
            let soa = SOA::new(name("ns.example.com."), name("root.example.com."), 1, 1, 1, 1, minimum);
            Record::from_rdata(name("example.com."), ttl, RData::SOA(soa))
        };
        let message = |code, answers: Vec<Record>, authorities: Vec<Record>| {
            let mut message = Message::response(1, OpCode::Query);
            message.metadata.response_code = code;
            message.add_answers(answers);
            message.add_authorities(authorities);
            message
        };
        let cases = [
            (message(ResponseCode::NoError, vec![answer(20), answer(10)], vec![]), Some(10)),
            (message(ResponseCode::NoError, vec![answer(3600)], vec![]), Some(30)),
            (message(ResponseCode::NoError, vec![answer(0)], vec![]), None),
            (message(ResponseCode::NXDomain, vec![], vec![soa(100, 7)]), Some(7)),
            (message(ResponseCode::NoError, vec![], vec![soa(5, 7)]), Some(5)),
            (message(ResponseCode::NXDomain, vec![], vec![]), None),
            (message(ResponseCode::ServFail, vec![], vec![soa(100, 7)]), None),
        ];
        for (message, expect) in cases {
            assert_eq!(lifetime(&message), expect, "{message}");
        }
    }

    /// A resolver that answers every question with one record, and how often it was asked.
    async fn resolver() -> (SocketAddr, Arc<Mutex<usize>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                *count.lock() += 1;
                let question = Message::from_vec(&buffer[..length]).expect("a question");
                let mut wrong = question.clone().into_response();
                wrong.metadata.id = question.metadata.id.wrapping_add(1);
                let mut right = question.into_response();
                right.add_answer(answer(20));
                for message in [wrong, right] {
                    let _ = socket.send_to(&message.to_vec().expect("encoded"), from).await;
                }
            }
        });
        (address, asked)
    }

    #[tokio::test]
    async fn the_next_resolver_is_asked_when_one_is_silent() {
        let (address, asked) = resolver().await;
        // Nobody listens at port 1: refused at once.
        let forwarder = Forwarder::new(Resolvers::Fixed(vec![([127, 0, 0, 1], 1).into(), address]));
        let query = Query::query(name("Example.com."), RecordType::A);
        let message = forwarder.look_up(&query, false, false).await.expect("answered");
        assert_eq!(message.answers, [answer(20)]);
        assert_eq!(forwarder.look_up(&query, false, false).await.expect("kept").answers.len(), 1);
        assert_eq!(*asked.lock(), 1, "the second time it was kept");
        let nobody = Forwarder::new(Resolvers::Fixed(Vec::new()));
        assert!(matches!(nobody.look_up(&query, false, false).await, Err(ForwardError::NoResolver)));
    }
}
