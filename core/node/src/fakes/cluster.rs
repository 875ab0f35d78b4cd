//! An API server in memory: objects, patches by the real rules, and watches. It admits everything.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::patch::{merge, strategic_merge};
use gantry_api::resources::{Resource, ResourceTable};
use gantry_client::Client;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct State {
    revision: u64,
    /// `RESOURCE/NAMESPACE/NAME` to object.
    objects: BTreeMap<String, Value>,
    /// All that ever happened: revision, resource, event.
    history: Vec<(u64, String, Value)>,
    /// Status patches, as sent.
    patches: Vec<(String, Value)>,
}

/// The cluster.
#[derive(Clone, Default)]
pub struct FakeCluster {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

struct Target {
    resource: &'static Resource,
    namespace: String,
    name: String,
    subresource: String,
}

fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let resource = ResourceTable::builtin().get(group, version, rest.first()?)?;
    let part = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    Some(Target { resource, namespace: namespace.to_owned(), name: part(1), subresource: part(2) })
}

fn key(resource: &str, namespace: &str, name: &str) -> String {
    format!("{resource}/{namespace}/{name}")
}

fn answer(code: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    response
}

fn refused(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
        "code": code, "reason": reason, "message": message,
    });
    answer(code, &status)
}

fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (path, value) = term.split_once('=').expect("a field selector");
        let pointer = format!("/{}", path.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default() == value
    })
}

impl State {
    fn commit(&mut self, kind: &str, resource: &str, object: &mut Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let event = json!({"type": kind, "object": object});
        self.history.push((self.revision, resource.to_owned(), event));
    }
}

impl FakeCluster {
    /// A client of it.
    pub fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Ok::<_, Infallible>(cluster.serve(&parts, &body))
            }
        });
        gantry_client::in_process(service)
    }

    fn serve(&self, parts: &http::request::Parts, body: &[u8]) -> Answer {
        let Some(target) = target(parts.uri.path()) else { return refused(404, "NotFound", "no such path") };
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%3D", "=").replace("%2C", ",")))
            .collect();
        let selector = query.get("fieldSelector").cloned().unwrap_or_default();
        let parsed = || serde_json::from_slice::<Value>(body).expect("a JSON body");
        match (parts.method.clone(), target.name.is_empty()) {
            (Method::GET, true) if query.get("watch").is_some_and(|watch| watch != "false") => {
                let since = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default();
                self.watch(target, selector, since)
            }
            (Method::GET, true) => {
                let state = self.state.lock();
                let prefix = format!("{}/", target.resource.plural);
                let items: Vec<&Value> = state
                    .objects
                    .iter()
                    .filter(|(key, object)| {
                        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
                        key.starts_with(&prefix)
                            && (target.namespace.is_empty() || namespace == target.namespace)
                            && selected(object, &selector)
                    })
                    .map(|(_, object)| object)
                    .collect();
                let meta = json!({"resourceVersion": state.revision.to_string()});
                answer(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items}))
            }
            (Method::POST, _) if target.subresource == "token" => {
                let status = json!({"token": "TOKEN", "expirationTimestamp": "2099-01-01T00:00:00Z"});
                answer(201, &json!({"metadata": {}, "spec": {"audiences": []}, "status": status}))
            }
            (Method::POST, _) => self.create(&target, parsed()),
            (Method::GET, false) => self.with(&target, |_, object| answer(200, object)),
            (Method::PUT, false) => self.with(&target, |state, object| {
                *object = parsed();
                state.commit("MODIFIED", &target.resource.plural, object);
                answer(200, object)
            }),
            (Method::PATCH, false) => self.patch(parts, &target, body),
            (Method::DELETE, false) => self.delete(&target, &parsed()),
            _ => refused(405, "MethodNotAllowed", "not served"),
        }
    }

    fn with(&self, target: &Target, work: impl FnOnce(&mut State, &mut Value) -> Answer) -> Answer {
        let mut state = self.state.lock();
        let key = key(&target.resource.plural, &target.namespace, &target.name);
        let Some(mut object) = state.objects.get(&key).cloned() else {
            let message = format!("{} {:?} not found", target.resource.plural, target.name);
            return refused(404, "NotFound", &message);
        };
        let done = work(&mut state, &mut object);
        if state.objects.contains_key(&key) {
            state.objects.insert(key, object);
        }
        self.changed.send_replace(state.revision);
        done
    }

    fn create(&self, target: &Target, mut object: Value) -> Answer {
        let mut state = self.state.lock();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = key(&target.resource.plural, &target.namespace, &name);
        if state.objects.contains_key(&key) {
            return refused(409, "AlreadyExists", "exists already");
        }
        object["kind"] = json!(target.resource.kind);
        object["apiVersion"] = json!(target.resource.api_version());
        if !target.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(target.namespace);
        }
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision + 1));
        }
        state.commit("ADDED", &target.resource.plural, &mut object);
        let shown = answer(201, &object);
        state.objects.insert(key, object);
        self.changed.send_replace(state.revision);
        shown
    }

    fn patch(&self, parts: &http::request::Parts, target: &Target, body: &[u8]) -> Answer {
        let strategic = parts.headers["content-type"].to_str().is_ok_and(|kind| kind.contains("strategic"));
        self.with(target, |state, object| {
            let patch: Value = serde_json::from_slice(body).expect("a JSON body");
            let uid = &patch["metadata"]["uid"];
            if !uid.is_null() && uid != &object["metadata"]["uid"] {
                return refused(409, "Conflict", "Precondition failed: UID in precondition");
            }
            if target.subresource == "status" && target.resource.plural == "pods" {
                state.patches.push((target.name.clone(), patch.clone()));
            }
            if strategic {
                let patched = strategic_merge(target.resource, object, body);
                *object = patched.unwrap_or_else(|error| panic!("{error:?} in {patch}"));
            } else {
                merge(object, &patch);
            }
            state.commit("MODIFIED", &target.resource.plural, object);
            answer(200, object)
        })
    }

    fn delete(&self, target: &Target, options: &Value) -> Answer {
        let grace = options["gracePeriodSeconds"].as_i64();
        self.with(target, |state, object| {
            let uid = &options["preconditions"]["uid"];
            if !uid.is_null() && uid != &object["metadata"]["uid"] {
                return refused(409, "Conflict", "another object");
            }
            let graceful = target.resource.plural == "pods" && grace != Some(0);
            if graceful {
                let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
                object["metadata"]["deletionGracePeriodSeconds"] = json!(grace.unwrap_or(own));
                state.commit("MODIFIED", &target.resource.plural, object);
            } else {
                state.commit("DELETED", &target.resource.plural, object);
                state.objects.remove(&key(&target.resource.plural, &target.namespace, &target.name));
            }
            answer(200, object)
        })
    }

    fn watch(&self, target: Target, selector: String, since: u64) -> Answer {
        let mut changed = self.changed.subscribe();
        let state = self.state.clone();
        let (send, receive) = tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, Infallible>>(64);
        tokio::spawn(async move {
            let mut seen = since;
            loop {
                let news: Vec<Value> = {
                    let state = state.lock();
                    let fresh = state.history.iter().filter(|(revision, of, event)| {
                        let namespace = event["object"]["metadata"]["namespace"].as_str().unwrap_or_default();
                        *revision > seen
                            && *of == target.resource.plural
                            && (target.namespace.is_empty() || target.namespace == namespace)
                            && selected(&event["object"], &selector)
                    });
                    let news = fresh.map(|(_, _, event)| event.clone()).collect();
                    seen = state.revision;
                    news
                };
                for event in news {
                    let line = Bytes::from(format!("{event}\n"));
                    if send.send(Ok(http_body::Frame::data(line))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
        let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
        response.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
        response
    }

    /// Stores an object.
    pub fn put(&self, mut object: Value) {
        let (group, version) = gantry_api::resources::split_api_version(object["apiVersion"].as_str().unwrap_or("v1"));
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        let resource = ResourceTable::builtin().by_kind(group, version, &kind).expect("a known kind");
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = key(&resource.plural, &text("namespace"), &text("name"));
        let mut state = self.state.lock();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision + 1));
        }
        let known = state.objects.contains_key(&key);
        state.commit(if known { "MODIFIED" } else { "ADDED" }, &resource.plural, &mut object);
        state.objects.insert(key, object);
        self.changed.send_replace(state.revision);
    }

    /// Asks for the deletion of a pod.
    pub fn delete_pod(&self, namespace: &str, name: &str, grace: Option<i64>) {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let target = target(&path).expect("a path");
        self.delete(&target, &json!({"gracePeriodSeconds": grace}));
    }

    /// An object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&key(resource, namespace, name)).cloned()
    }

    /// The status patches of a pod, as they came.
    pub fn status_patches(&self, pod: &str) -> Vec<Value> {
        let state = self.state.lock();
        state.patches.iter().filter(|(name, _)| name == pod).map(|(_, patch)| patch.clone()).collect()
    }

    /// The events about a pod: type, reason and message, in the order they came.
    pub fn events(&self, pod: &str) -> Vec<String> {
        let state = self.state.lock();
        let mut events: Vec<(u64, String)> = state
            .objects
            .iter()
            .filter(|(key, event)| key.starts_with("events/") && event["involvedObject"]["name"] == json!(pod))
            .map(|(_, event)| {
                let created = state.history.iter().find(|(_, _, entry)| {
                    entry["type"] == "ADDED" && entry["object"]["metadata"]["uid"] == event["metadata"]["uid"]
                });
                let text = |field: &str| event[field].as_str().unwrap_or_default();
                let order = created.map(|(revision, _, _)| *revision).unwrap_or_default();
                (order, format!("{} {} {}", text("type"), text("reason"), text("message")))
            })
            .collect();
        events.sort();
        events.into_iter().map(|(_, text)| text).collect()
    }

    /// Waits until something holds of the cluster.
    pub async fn wait<T>(&self, what: &str, check: impl Fn(&Self) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = check(self) {
                    return found;
                }
                changed.changed().await.expect("a cluster");
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => {
                let state = self.state.lock();
                let pods = state.objects.iter().filter(|(key, _)| key.starts_with("pods/"));
                let shown: Vec<String> = pods.map(|(key, pod)| format!("{key}: {}", pod["status"])).collect();
                panic!("waited in vain for {what}\n{}", shown.join("\n"));
            }
        }
    }

    /// Waits until something holds of a pod.
    pub async fn wait_pod(&self, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        self.wait(what, |cluster| cluster.get("pods", "ns", name).filter(|pod| check(pod))).await
    }
}
