//! The paths of a group and version with their operations.

use serde_json::{Map, Value, json};

use crate::resources::{Resource, ResourceTable, Subresource, Verb};
use crate::schema::Schema;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_MEDIA: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

pub(super) fn paths(table: &ResourceTable, group: &str, version: &str) -> Value {
    let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut paths = Map::new();
    for resource in table.of_version(group, version) {
        let scoped = if resource.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("{base}/{}", resource.plural)
        };
        if resource.namespaced && resource.allows(Verb::List) {
            let list = Operation { resource, kind: Kind::own(resource), whole_cluster: true, sub: "" };
            paths.insert(format!("{base}/{}", resource.plural), json!({"get": list.build(Verb::List)}));
        }
        let own = Operation { resource, kind: Kind::own(resource), whole_cluster: false, sub: "" };
        let collection = [("get", Verb::List), ("post", Verb::Create), ("delete", Verb::DeleteCollection)];
        insert(&mut paths, &scoped, &own, &collection, &resource.verbs, parameters(resource, false));
        let item = [("get", Verb::Get), ("put", Verb::Update), ("patch", Verb::Patch), ("delete", Verb::Delete)];
        insert(&mut paths, &format!("{scoped}/{{name}}"), &own, &item, &resource.verbs, parameters(resource, true));
        for sub in &resource.subresources {
            let operation = Operation { resource, kind: Kind::of(resource, sub), whole_cluster: false, sub: &sub.name };
            let methods = [
                ("get", Verb::Get),
                ("post", Verb::Create),
                ("put", Verb::Update),
                ("patch", Verb::Patch),
                ("delete", Verb::Delete),
            ];
            insert(
                &mut paths,
                &format!("{scoped}/{{name}}/{}", sub.name),
                &operation,
                &methods,
                &sub.verbs,
                parameters(resource, true),
            );
        }
    }
    Value::Object(paths)
}

fn insert(
    paths: &mut Map<String, Value>,
    path: &str,
    operation: &Operation<'_>,
    methods: &[(&str, Verb)],
    verbs: &[Verb],
    parameters: Value,
) {
    let mut item = Map::new();
    for (method, verb) in methods.iter().filter(|(_, verb)| verbs.contains(verb)) {
        item.insert((*method).to_owned(), operation.build(*verb));
    }
    if !item.is_empty() {
        item.insert("parameters".to_owned(), parameters);
        paths.insert(path.to_owned(), Value::Object(item));
    }
}

/// The parameters of a path itself.
fn parameters(resource: &Resource, named: bool) -> Value {
    let mut list = Vec::new();
    let string = json!({"type": "string", "uniqueItems": true});
    if named {
        let text = format!("name of the {}", resource.kind);
        list.push(json!({"name": "name", "in": "path", "description": text, "required": true, "schema": string}));
    }
    if resource.namespaced {
        let text = "object name and auth scope, such as for teams and projects";
        list.push(json!({"name": "namespace", "in": "path", "description": text, "required": true, "schema": string}));
    }
    list.push(query("pretty", "string", "Whether the output is indented."));
    Value::Array(list)
}

fn query(name: &str, kind: &str, text: &str) -> Value {
    json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}})
}

/// The kind that an operation takes and gives.
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> Kind<'a> {
    fn own(resource: &'a Resource) -> Self {
        Self { group: &resource.group, version: &resource.version, kind: &resource.kind }
    }

    fn of(resource: &'a Resource, sub: &'a Subresource) -> Self {
        if sub.version.is_empty() {
            Self { kind: &sub.kind, ..Self::own(resource) }
        } else {
            Self { group: &sub.group, version: &sub.version, kind: &sub.kind }
        }
    }
}

struct Operation<'a> {
    resource: &'a Resource,
    kind: Kind<'a>,
    whole_cluster: bool,
    sub: &'a str,
}

impl Operation<'_> {
    fn build(&self, verb: Verb) -> Value {
        let Kind { group, version, kind } = &self.kind;
        let schema = Schema::builtin();
        // Kinds without a schema are the options of streams.
        let own = schema.by_kind(group, version, kind).map(|id| schema.definition(id).name.to_owned());
        let (action, word) = match verb {
            _ if own.is_none() => ("connect", "connect"),
            Verb::Create => ("post", "create"),
            Verb::Delete => ("delete", "delete"),
            Verb::DeleteCollection => ("deletecollection", "deleteCollection"),
            Verb::Get | Verb::Watch => ("get", "read"),
            Verb::List => ("list", "list"),
            Verb::Patch => ("patch", "patch"),
            Verb::Update => ("put", "replace"),
        };
        let method = if action == "connect" { capitalized(verb.as_str()) } else { String::new() };
        let group_word: String = match self.resource.group.as_str() {
            "" => "Core".to_owned(),
            name => name.trim_end_matches(".k8s.io").split('.').map(capitalized).collect(),
        };
        let scope = if self.resource.namespaced && !self.whole_cluster { "Namespaced" } else { "" };
        let tail = if self.whole_cluster { "ForAllNamespaces".to_owned() } else { capitalized(self.sub) };
        let id = format!(
            "{word}{method}{group_word}{}{scope}{}{tail}",
            capitalized(&self.resource.version),
            self.resource.kind
        );
        let tag = format!("{}_{}", snake(&group_word), self.resource.version);
        let mut operation = json!({
            "tags": [tag],
            "operationId": id,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            "parameters": options(verb),
            "responses": responses(verb, own.as_deref()),
        });
        if let Some(body) = body(verb, own.as_deref()) {
            operation["requestBody"] = body;
        }
        operation
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// `RbacAuthorization` as `rbacAuthorization`.
fn snake(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// The query parameters of an operation.
fn options(verb: Verb) -> Value {
    let dry_run = query("dryRun", "string", "With `All`, nothing is stored.");
    let manager =
        query("fieldManager", "string", "The name of the one who makes this change, up to 128 printable characters.");
    let validation =
        query("fieldValidation", "string", "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.");
    let mut list = match verb {
        Verb::Create | Verb::Update => vec![dry_run, manager, validation],
        Verb::Patch => vec![
            dry_run,
            manager,
            validation,
            query("force", "boolean", "Whether an apply takes over fields of others."),
        ],
        Verb::Delete | Verb::DeleteCollection => vec![
            dry_run,
            query("gracePeriodSeconds", "integer", "How long the object may take to end, in seconds."),
            query("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
        ],
        Verb::Get | Verb::List | Verb::Watch => Vec::new(),
    };
    if matches!(verb, Verb::List | Verb::DeleteCollection) {
        list.extend([
            query("labelSelector", "string", "Which labels objects must have."),
            query("fieldSelector", "string", "Which values fields must have."),
            query("limit", "integer", "How many objects a page holds at most."),
            query("continue", "string", "Where the next page starts, as the last one said."),
            query("resourceVersion", "string", "How new the answer must be."),
            query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
            query("timeoutSeconds", "integer", "When the request ends, in seconds."),
        ]);
    }
    if verb == Verb::List {
        list.extend([
            query("watch", "boolean", "Whether changes follow, as a stream of events."),
            query("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
            query("sendInitialEvents", "boolean", "Whether a watch starts with what is there."),
        ]);
    }
    Value::Array(list)
}

fn schema_ref(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn content(media: &[&str], name: &str) -> Value {
    Value::Object(media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema_ref(name)}))).collect())
}

fn body(verb: Verb, own: Option<&str>) -> Option<Value> {
    match verb {
        Verb::Create | Verb::Update => Some(json!({"content": content(&["*/*"], own?), "required": true})),
        Verb::Patch => {
            own?;
            Some(json!({"content": content(&PATCH_MEDIA, &format!("{META}.Patch")), "required": true}))
        }
        Verb::Delete | Verb::DeleteCollection => {
            own?;
            Some(json!({"content": content(&["*/*"], &format!("{META}.DeleteOptions"))}))
        }
        _ => None,
    }
}

fn responses(verb: Verb, own: Option<&str>) -> Value {
    let name = match (verb, own) {
        (_, None) => {
            return json!({"200": {"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}}, "401": {"description": "Unauthorized"}});
        }
        (Verb::List, Some(own)) => format!("{own}List"),
        (Verb::Delete | Verb::DeleteCollection, Some(_)) => format!("{META}.Status"),
        (_, Some(own)) => own.to_owned(),
    };
    let mut map = Map::new();
    let codes: &[(&str, &str)] = match verb {
        Verb::Create => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        Verb::Update | Verb::Patch => &[("200", "OK"), ("201", "Created")],
        Verb::Delete => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    };
    for (code, text) in codes {
        map.insert((*code).to_owned(), json!({"description": text, "content": content(&MEDIA, &name)}));
    }
    map.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(map)
}
