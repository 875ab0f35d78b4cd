//! Recording events without waiting, aggregated as client-go's `tools/record` and `tools/events` do.
//!
//! - [`correlator`]: what becomes of an event: a new object, a higher count of an old one, or nothing. Pure.

pub mod correlator;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::api::events::v1::{Event as EventV1, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;

use correlator::{Correlator, Outcome, Recorded};

/// How many events may wait to be written; more are dropped, as upstream does. A waiting event is about 1 kB.
const QUEUE_EVENTS_MAX: usize = 1000;

/// An event's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things as they should be.
    Normal,
    /// Things to look at.
    Warning,
}

impl EventType {
    /// The word in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Which API events are written through. Both end in one storage; they differ in the fields that are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `v1` with `source`, `count` and time stamps: kubelet and controllers.
    Core,
    /// `events.k8s.io/v1` with `eventTime`, `action` and `series`: the scheduler.
    EventsV1,
}

/// Records events for one component. Cheap to clone; never waits: a task of its own writes.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Recorded>,
}

impl EventRecorder {
    /// Writes `v1` events, as kubelet and controllers do. `host` is the node's name, empty for controllers.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        Self::start(client, component, host, Style::Core)
    }

    /// Writes `events.k8s.io/v1` events, as the scheduler does. `instance` is the reporting instance.
    pub fn events_v1(client: Client, controller: &str, instance: &str) -> Self {
        Self::start(client, controller, instance, Style::EventsV1)
    }

    fn start(client: Client, component: &str, host: &str, style: Style) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_EVENTS_MAX);
        tokio::spawn(write_all(client, waiting, component.to_owned(), host.to_owned(), style));
        Self { queue }
    }

    /// Records that something happened to an object. `action` is what was done or tried (only `events.k8s.io/v1`
    /// shows it).
    pub fn event(
        &self,
        regarding: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        let recorded = Recorded {
            regarding: regarding.clone(),
            kind,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: note.into(),
        };
        if let Err(error) = self.queue.try_send(recorded) {
            tracing::debug!(reason, %error, "event dropped");
        }
    }

    /// [`EventRecorder::event`] of type Normal.
    pub fn normal(&self, regarding: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.event(regarding, EventType::Normal, reason, reason, note);
    }

    /// [`EventRecorder::event`] of type Warning.
    pub fn warning(&self, regarding: &ObjectReference, reason: &str, note: impl Into<String>) {
        self.event(regarding, EventType::Warning, reason, reason, note);
    }
}

/// What an event about an object refers to.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

async fn write_all(
    client: Client,
    mut waiting: mpsc::Receiver<Recorded>,
    component: String,
    host: String,
    style: Style,
) {
    let mut correlator = Correlator::default();
    while let Some(recorded) = waiting.recv().await {
        let now = Timestamp::now();
        let namespace = match recorded.regarding.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
            // Events about cluster-scoped objects live in the default namespace.
            _ => "default".to_owned(),
        };
        let outcome = correlator.correlate(&recorded, now);
        let result = match outcome {
            Outcome::Drop => Ok(()),
            Outcome::Create { name, note } => {
                create(&client, &namespace, &recorded, name, note, now, (&component, &host), style).await
            }
            Outcome::Repeat { name, note, count } => {
                let repeated = repeat(&client, &namespace, &name, &note, count, now, style).await;
                match repeated {
                    // The first one has expired since.
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        let name = correlator.renew(&recorded, now);
                        create(&client, &namespace, &recorded, name, note, now, (&component, &host), style).await
                    }
                    other => other,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(reason = recorded.reason, %error, "event not written");
        }
    }
}

#[allow(clippy::too_many_arguments)]
async fn create(
    client: &Client,
    namespace: &str,
    recorded: &Recorded,
    name: String,
    note: String,
    now: Timestamp,
    (component, host): (&str, &str),
    style: Style,
) -> Result<(), kube::Error> {
    let metadata = ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    match style {
        Style::Core => {
            let event = Event {
                metadata,
                involved_object: recorded.regarding.clone(),
                type_: Some(recorded.kind.as_str().to_owned()),
                reason: Some(recorded.reason.clone()),
                message: Some(note),
                source: Some(k8s_openapi::api::core::v1::EventSource {
                    component: Some(component.to_owned()),
                    host: (!host.is_empty()).then(|| host.to_owned()),
                }),
                count: Some(1),
                first_timestamp: Some(Time(now)),
                last_timestamp: Some(Time(now)),
                reporting_component: Some(component.to_owned()),
                reporting_instance: Some(host.to_owned()),
                ..Event::default()
            };
            Api::<Event>::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
        }
        Style::EventsV1 => {
            let event = EventV1 {
                metadata,
                regarding: Some(recorded.regarding.clone()),
                type_: Some(recorded.kind.as_str().to_owned()),
                reason: Some(recorded.reason.clone()),
                note: Some(note),
                action: Some(recorded.action.clone()),
                event_time: Some(MicroTime(now)),
                reporting_controller: Some(component.to_owned()),
                reporting_instance: Some(host.to_owned()),
                ..EventV1::default()
            };
            Api::<EventV1>::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
        }
    }
}

async fn repeat(
    client: &Client,
    namespace: &str,
    name: &str,
    note: &str,
    count: i32,
    now: Timestamp,
    style: Style,
) -> Result<(), kube::Error> {
    match style {
        Style::Core => {
            let patch = serde_json::json!({"count": count, "lastTimestamp": Time(now), "message": note});
            let events = Api::<Event>::namespaced(client.clone(), namespace);
            events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Style::EventsV1 => {
            let series = EventSeries { count, last_observed_time: MicroTime(now) };
            let patch = serde_json::json!({"series": series});
            let events = Api::<EventV1>::namespaced(client.clone(), namespace);
            events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
    }
}
