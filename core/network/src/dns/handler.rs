//! Requests of clients: answered from the zone, or passed on.

use std::sync::Arc;

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::forward::{ForwardError, Forwarder, UDP_PAYLOAD_MAX};
use super::zone::{View, Zone};

/// How many aliases are followed.
const ALIASES_MAX: usize = 8;

pub(super) struct Handler {
    pub(super) zone: Zone,
    pub(super) view: Arc<dyn View>,
    pub(super) forwarder: Forwarder,
}

/// What goes out.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            truncated: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

fn lower_labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else { return Reply::code(ResponseCode::FormErr) };
        let query = query.original();
        if query.query_class != DNSClass::IN || matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
            return Reply::code(ResponseCode::Refused);
        }
        let dnssec = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let tcp = request.protocol() != Protocol::Udp;
        let mut reply = self.resolve(query, dnssec, tcp).await;
        // Clients take the first address: which one that is goes round.
        if let Some(turn) = usize::from(request.metadata.id).checked_rem(reply.answers.len())
            && reply.answers.iter().all(|record| matches!(record.record_type(), RecordType::A | RecordType::AAAA))
        {
            reply.answers.rotate_left(turn);
        }
        reply
    }

    async fn resolve(&self, query: &Query, dnssec: bool, tcp: bool) -> Reply {
        let mut reply = Reply::code(ResponseCode::NoError);
        let mut query = query.clone();
        for _ in 0..ALIASES_MAX {
            let labels = lower_labels(&query.name);
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let Some(answer) = self.zone.answer(&*self.view, &query.name, &labels, query.query_type) else {
                return self.forward(&query, dnssec, tcp, reply).await;
            };
            reply.authoritative = true;
            reply.answers.extend(answer.answers);
            reply.additionals.extend(answer.additionals);
            match answer.alias {
                Some(target) => query.name = target,
                None => {
                    if !answer.exists {
                        reply.code = ResponseCode::NXDomain;
                    }
                    if reply.answers.is_empty() || !answer.exists {
                        reply.authorities.push(self.zone.soa().clone());
                    }
                    return reply;
                }
            }
        }
        // Services that are aliases of each other in a circle.
        Reply::code(ResponseCode::ServFail)
    }

    /// Adds what others say to what is known so far: an alias, or nothing.
    async fn forward(&self, query: &Query, dnssec: bool, tcp: bool, mut reply: Reply) -> Reply {
        match self.forwarder.look_up(query, dnssec, tcp).await {
            Ok(message) => {
                reply.code = message.metadata.response_code;
                reply.truncated = message.metadata.truncation;
                reply.answers.extend(message.answers);
                reply.authorities = message.authorities;
                reply.additionals.extend(message.additionals);
                reply
            }
            Err(ForwardError::Busy) => Reply::code(ResponseCode::Refused),
            Err(error) => {
                tracing::debug!(name = %query.name, %error, "name not looked up");
                Reply::code(ResponseCode::ServFail)
            }
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            // As much as the client takes, but never more than fits everywhere; never less than 512 (RFC 6891).
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD_MAX));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &reply.answers, &reply.authorities, &[], &reply.additionals);
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(client = %request.src(), %error, "answer not sent");
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}
