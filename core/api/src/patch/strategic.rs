//! Strategic merge patch: a merge patch that knows from the schema which lists are merged by key, and that takes
//! directives. Source: upstream's `apimachinery/pkg/util/strategicpatch`, whose order of list items is part of the API.

use serde_json::{Map, Value};

use super::{go_print, not_applicable, read_map};
use crate::error::ApiError;
use crate::object::Object;
use crate::resources::Resource;
use crate::schema::{DefinitionId, Field, Schema, Shape};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Why a patch can't be applied.
enum Refusal {
    /// The patch itself is badly made.
    Malformed(&'static str),
    /// Lists of lists can't be merged.
    NotApplicable,
    /// Upstream returns these as they are, so that they come out as a 500.
    Plain(String),
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(text) => Self::bad_request(text),
            Refusal::NotApplicable => not_applicable(),
            Refusal::Plain(text) => Self::plain(text),
        }
    }
}

const BAD_ORDER: Refusal = Refusal::Malformed("invalid patch format of setElementOrder list");
const BAD_DELETE_LIST: Refusal = Refusal::Malformed("invalid patch format of primitive list");
const BAD_RETAIN_KEYS: Refusal = Refusal::Malformed("invalid patch format of retainKeys");

/// Applies the body of a strategic merge patch to an object of a built-in kind.
pub fn strategic_merge(resource: &Resource, current: &Object, body: &[u8]) -> Result<Object, ApiError> {
    let patch = read_map(body).map_err(ApiError::bad_request)?;
    let schema = Schema::builtin();
    let id = schema.of(resource).ok_or_else(ApiError::unsupported_patch_type)?;
    let (Value::Object(original), Value::Object(patch)) = (current.clone(), patch) else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    let merge = Merge { schema };
    Ok(Value::Object(merge.map(original, patch, Place::Struct(id))?))
}

/// What the schema knows of the place of a value.
#[derive(Clone, Copy)]
enum Place<'a> {
    Struct(DefinitionId),
    /// A map, with the shape of its values.
    Map(&'a Shape),
    /// Outside the schema.
    Open,
}

struct Merge<'a> {
    schema: &'a Schema,
}

type Fields = Map<String, Value>;

impl<'a> Merge<'a> {
    fn field(&self, place: Place<'a>, name: &str) -> Option<&'a Field> {
        match place {
            Place::Struct(id) => self.schema.definition(id).field(name),
            Place::Map(_) | Place::Open => None,
        }
    }

    fn inside(&self, place: Place<'a>, name: &str) -> Place<'a> {
        let shape = match place {
            Place::Struct(_) => self.field(place, name).map(|field| &field.shape),
            Place::Map(values) => Some(values),
            Place::Open => None,
        };
        place_of(shape)
    }

    /// Merges a patch into a map.
    fn map(&self, mut original: Fields, mut patch: Fields, place: Place<'a>) -> Result<Fields, Refusal> {
        if let Some(directive) = patch.get(PATCH) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(PATCH);
                    Ok(patch)
                }
                Some("delete") => Ok(Fields::new()),
                _ => Err(bad_patch_type(directive, &patch)),
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, place)?;
        for (key, value) in patch {
            let delete_list = key.starts_with(DELETE_FROM);
            let name = if delete_list { after_slash(&key, DELETE_FROM).ok_or(BAD_DELETE_LIST)? } else { key.as_str() };
            self.member(&mut original, name, value, delete_list, place)?;
        }
        Ok(original)
    }

    fn member(
        &self,
        original: &mut Fields,
        name: &str,
        value: Value,
        delete_list: bool,
        place: Place<'a>,
    ) -> Result<(), Refusal> {
        if value.is_null() {
            original.remove(name);
            return Ok(());
        }
        let merged = match (original.remove(name), value) {
            (Some(Value::Object(old)), Value::Object(patch)) => {
                Value::Object(self.map(old, patch, self.inside(place, name))?)
            }
            (Some(Value::Array(old)), Value::Array(patch)) => {
                let field = self.field(place, name);
                if delete_list || field.is_some_and(|field| field.patch_merge) {
                    Value::Array(self.list(old, patch, field, delete_list)?)
                } else {
                    Value::Array(patch)
                }
            }
            // A list to delete from that isn't there, or isn't a list.
            (old, _) if delete_list => match old {
                Some(old) => old,
                None => return Ok(()),
            },
            (_, mut value) => {
                discard_nulls(&mut value);
                match without_directives(value) {
                    Some(value) => value,
                    None => return Ok(()),
                }
            }
        };
        original.insert(name.to_owned(), merged);
        Ok(())
    }

    /// Lists whose order the patch gives: merged first, then brought into that order.
    fn ordered_lists(&self, original: &mut Fields, patch: &mut Fields, place: Place<'a>) -> Result<(), Refusal> {
        let keys: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
        for key in keys {
            let name = after_slash(&key, SET_ORDER).ok_or(BAD_ORDER)?.to_owned();
            let Some(Value::Array(order)) = patch.remove(&key) else { return Err(BAD_ORDER) };
            let field = self.field(place, &name);
            if field.is_none() && (original.contains_key(&name) || patch.contains_key(&name)) {
                return Err(Refusal::Plain(format!(
                    "unable to find api field for the json field {}",
                    crate::error::quoted(&name)
                )));
            }
            let merge_key = field.and_then(|field| field.merge_key);
            let old = take_list(original, &name)?;
            let new = take_list(patch, &name)?;
            if let Some(new) = &new {
                check_order(new, &order, merge_key)?;
            }
            let server_order = old.clone().unwrap_or_default();
            let merged = match (old, new) {
                (None, None) => continue,
                (Some(old), None) => old,
                (None, Some(new)) => match without_directives(Value::Array(new)) {
                    Some(Value::Array(new)) => new,
                    _ => continue,
                },
                (Some(old), Some(new)) if field.is_some_and(|field| field.patch_merge) => {
                    self.list(old, new, field, false)?
                }
                (Some(_), Some(new)) => new,
            };
            check_elements(&[&merged])?;
            let (listed, others) = partition(merged, &order, merge_key)?;
            original.insert(name, Value::Array(in_order(listed, others, &order, &server_order, merge_key)));
        }
        Ok(())
    }

    /// Merges two lists: of scalars as a set, of maps by their key.
    fn list(
        &self,
        old: Vec<Value>,
        patch: Vec<Value>,
        field: Option<&'a Field>,
        delete_list: bool,
    ) -> Result<Vec<Value>, Refusal> {
        if old.is_empty() && patch.is_empty() {
            return Ok(old);
        }
        if !check_elements(&[&old, &patch])? {
            if delete_list {
                return Ok(old.into_iter().filter(|item| !patch.contains(item)).collect());
            }
            let mut merged = old.clone();
            for item in &patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            let (listed, others) = partition(merged, &patch, None)?;
            return Ok(in_order(listed, others, &patch, &old, None));
        }
        let item_place = match field.map(|field| &field.shape) {
            Some(Shape::List(inner)) => place_of(Some(inner)),
            _ => Place::Open,
        };
        let Some(merge_key) = field.and_then(|field| field.merge_key) else {
            return Err(Refusal::Plain("cannot merge lists without merge key".to_owned()));
        };
        let (old, patch) = special_elements(old, patch, merge_key)?;
        let mut merged = old.clone();
        for item in &patch {
            let Value::Object(item) = item else { continue };
            let key = item.get(merge_key).ok_or_else(|| no_merge_key(item, merge_key))?;
            match merged.iter().position(|known| known.get(merge_key) == Some(key)) {
                Some(index) => {
                    let Value::Object(known) = merged[index].take() else { continue };
                    merged[index] = Value::Object(self.map(known, item.clone(), item_place)?);
                }
                None => merged.push(Value::Object(item.clone())),
            }
        }
        let (listed, others) = partition(merged, &patch, Some(merge_key))?;
        Ok(in_order(listed, others, &patch, &old, Some(merge_key)))
    }
}

fn place_of(shape: Option<&Shape>) -> Place<'_> {
    match shape {
        Some(Shape::Struct(id)) => Place::Struct(*id),
        Some(Shape::Map(values)) => Place::Map(values),
        _ => Place::Open,
    }
}

fn after_slash<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.split_once('/').filter(|(head, _)| *head == prefix).map(|(_, tail)| tail)
}

fn take_list(map: &mut Fields, name: &str) -> Result<Option<Vec<Value>>, Refusal> {
    match map.remove(name) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => Err(Refusal::Plain(format!("expected a []interface {{}}, but received a {}", go_type(&other)))),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn no_merge_key(map: &Fields, key: &str) -> Refusal {
    Refusal::Plain(format!("map: {} does not contain declared merge key: {key}", go_print(&Value::Object(map.clone()))))
}

fn bad_patch_type(directive: &Value, map: &Fields) -> Refusal {
    Refusal::Plain(format!(
        "unknown patch type: {} in map: {}",
        go_print(directive),
        go_print(&Value::Object(map.clone()))
    ))
}

/// `$retainKeys`: of the original, only the named fields stay.
fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), Refusal> {
    let Some(keep) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keep) = keep else { return Err(BAD_RETAIN_KEYS) };
    let kept = |key: &str| keep.iter().any(|name| name == key);
    let mut changed = patch
        .iter()
        .filter(|(key, value)| !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(SET_ORDER))
        .map(|(key, _)| key);
    if !changed.all(|key| kept(key)) {
        return Err(BAD_RETAIN_KEYS);
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Whether the lists hold maps; an error when they hold lists, or this and that.
fn check_elements(lists: &[&Vec<Value>]) -> Result<bool, Refusal> {
    let mut items = lists.iter().flat_map(|list| list.iter());
    let Some(first) = items.next() else {
        return Err(Refusal::Plain("no elements in any of the given slices".to_owned()));
    };
    if first.is_array() {
        return Err(Refusal::NotApplicable);
    }
    if !items.all(|item| go_type(item) == go_type(first)) {
        let shown: Vec<String> = lists.iter().map(|list| go_print(&Value::Array((*list).clone()))).collect();
        return Err(Refusal::Plain(format!("list element types are not identical: [{}]", shown.join(" "))));
    }
    Ok(first.is_object())
}

/// Takes the elements with `$patch` out of a list's patch: deletes what they name, or starts over.
fn special_elements(
    mut old: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Refusal> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = &item else { continue };
        match map.get(PATCH).map(|directive| (directive, directive.as_str())) {
            None => rest.push(item),
            Some((_, Some("delete"))) => {
                let key = map.get(merge_key).ok_or_else(|| no_merge_key(map, merge_key))?;
                old.retain(|known| known.get(merge_key) != Some(key));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err(Refusal::Plain("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some((directive, _)) => return Err(bad_patch_type(directive, map)),
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (old, rest) })
}

fn same(one: &Value, other: &Value, merge_key: Option<&str>) -> bool {
    match merge_key {
        Some(key) => one.get(key) == other.get(key),
        None => one == other,
    }
}

/// Splits a list into what `by` has too, and the rest.
fn partition(list: Vec<Value>, by: &[Value], merge_key: Option<&str>) -> Result<(Vec<Value>, Vec<Value>), Refusal> {
    if let Some(key) = merge_key {
        for item in &list {
            match item {
                Value::Object(map) if !map.contains_key(key) => return Err(no_merge_key(map, key)),
                Value::Object(_) => {}
                other => {
                    return Err(Refusal::Plain(format!(
                        "expected a map[string]interface {{}}, but received a {}",
                        go_type(other)
                    )));
                }
            }
        }
    }
    Ok(list.into_iter().partition(|item| by.iter().any(|known| same(item, known, merge_key))))
}

/// Sorts what the patch lists in the patch's order and the rest in the server's, and weaves the two: an item of the server
/// goes first only if it stood before in the server's own order.
fn in_order(
    mut listed: Vec<Value>,
    mut others: Vec<Value>,
    order: &[Value],
    server: &[Value],
    merge_key: Option<&str>,
) -> Vec<Value> {
    let place = |item: &Value, list: &[Value]| list.iter().position(|known| same(item, known, merge_key));
    listed.sort_by_key(|item| place(item, order));
    others.sort_by_key(|item| place(item, server));
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let (mut listed, mut others) = (listed.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let server_first = match (others.peek(), listed.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(listed)) => {
                place(other, server).zip(place(listed, server)).is_some_and(|(left, right)| left < right)
            }
        };
        out.extend(if server_first { others.next() } else { listed.next() });
    }
}

/// A patch's list must be in the order that it asks for.
fn check_order(patch: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), Refusal> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch {
        if merge_key.is_some() && item.get(PATCH).is_some() {
            continue;
        }
        if let Some(key) = merge_key {
            for map in [Some(item), wanted.as_slice().first()].into_iter().flatten() {
                match map {
                    Value::Object(map) if !map.contains_key(key) => return Err(no_merge_key(map, key)),
                    Value::Object(_) => {}
                    other => {
                        return Err(Refusal::Plain(format!(
                            "expected a map[string]interface {{}}, but received a {}",
                            go_type(other)
                        )));
                    }
                }
            }
        }
        if !wanted.any(|known| same(item, known, merge_key)) {
            let (patch, order) = (go_print(&Value::Array(patch.to_vec())), go_print(&Value::Array(order.to_vec())));
            return Err(Refusal::Plain(format!(
                "The order in patch list:\n{patch}\n doesn't match {SET_ORDER} list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

/// Nulls in what is new say nothing.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// What is new without maps that carry `$patch`; `None` when it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?))).collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::ResourceTable;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"finalizers": ["x", "y"]}, "spec": spec})
    }

    fn patched(current: &Value, patch: &Value) -> Result<Value, ApiError> {
        let resource = ResourceTable::builtin().get("", "v1", "pods").expect("pods");
        strategic_merge(resource, current, patch.to_string().as_bytes())
    }

    #[test]
    fn lists_are_merged_by_their_key() {
        let current = pod(
            json!({"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "1"}], "nodeSelector": {"x": "1"}}),
        );
        let names = |value: &Value| -> Vec<String> {
            value["spec"]["containers"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|item| {
                    format!(
                        "{}:{}",
                        item["name"].as_str().unwrap_or_default(),
                        item["image"].as_str().unwrap_or_default()
                    )
                })
                .collect()
        };
        let cases = [
            (json!({"containers": [{"name": "b", "image": "2"}]}), vec!["a:1", "b:2"]),
            (json!({"containers": [{"name": "c", "image": "1"}]}), vec!["c:1", "a:1", "b:1"]),
            (json!({"containers": [{"name": "a", "$patch": "delete"}]}), vec!["b:1"]),
            (json!({"containers": [{"$patch": "replace"}, {"name": "z", "image": "9"}]}), vec!["z:9"]),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "3"}]}),
                vec!["b:1", "a:3"],
            ),
            (json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}), vec!["b:1", "a:1"]),
        ];
        for (patch, expect) in cases {
            let found = patched(&current, &json!({"spec": patch})).expect("a patch");
            assert_eq!(names(&found), expect, "{patch}");
        }
        let found =
            patched(&current, &json!({"spec": {"nodeSelector": {"$patch": "replace", "y": "2"}}})).expect("a patch");
        assert_eq!(found["spec"]["nodeSelector"], json!({"y": "2"}));
        let found =
            patched(&current, &json!({"spec": {"nodeSelector": null, "tolerations": [{"key": "a", "value": null}]}}))
                .expect("a patch");
        assert_eq!(
            (&found["spec"]["nodeSelector"], &found["spec"]["tolerations"]),
            (&Value::Null, &json!([{"key": "a"}]))
        );
    }

    #[test]
    fn primitive_lists_are_sets() {
        let current = pod(json!({}));
        let cases = [
            (json!({"finalizers": ["z"]}), json!(["z", "x", "y"])),
            (json!({"$deleteFromPrimitiveList/finalizers": ["x"]}), json!(["y"])),
            (json!({"$setElementOrder/finalizers": ["y", "x"]}), json!(["y", "x"])),
        ];
        for (patch, expect) in cases {
            assert_eq!(
                patched(&current, &json!({"metadata": patch})).expect("a patch")["metadata"]["finalizers"],
                expect,
                "{patch}"
            );
        }
    }

    #[test]
    fn volumes_keep_only_the_source_they_are_given() {
        let current = pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
        assert_eq!(
            patched(&current, &patch).expect("a patch")["spec"]["volumes"],
            json!([{"name": "v", "hostPath": {"path": "/"}}])
        );
    }

    #[test]
    fn bad_patches_are_refused_in_upstreams_words() {
        let current = pod(json!({"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}));
        let cases = [
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                500,
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (json!({"spec": {"$patch": "jump"}}), 500, "unknown patch type: jump in map: map[$patch:jump]"),
            (
                json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}}),
                400,
                "invalid patch format of retainKeys",
            ),
            (json!({"spec": {"$setElementOrder/containers": 1}}), 400, "invalid patch format of setElementOrder list"),
            (
                json!({"metadata": {"finalizers": [["a"]]}}),
                422,
                "the server rejected our request due to an error in our request",
            ),
        ];
        for (patch, code, message) in cases {
            let current = if code == 422 { json!({"metadata": {"finalizers": [["b"]]}}) } else { current.clone() };
            let error = patched(&current, &patch).expect_err("a refusal");
            assert_eq!((error.code, error.message.as_str()), (code, message), "{patch}");
        }
    }
}
