//! Config maps, secrets and service accounts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::Kind;
use super::checks::{annotation, entries, immutable_text, invalid, path, same};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, bool_at, map_mut, str_at};

/// All values of a config map or secret together, in bytes.
const DATA_BYTES_MAX: usize = 1 << 20;
const FROZEN: &str = "field is immutable when `immutable` is set";

/// The bytes of a base64 value; what isn't base64 was refused when it was decoded.
fn bytes_of(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

/// What can't change once `immutable` is set.
fn frozen(object: &Object, old: &Object, fields: &[&str]) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if !bool_at(old, "immutable") {
        return errors;
    }
    if !bool_at(object, "immutable") {
        errors.push(FieldError::forbidden(&path("immutable"), FROZEN));
    }
    let changed = fields.iter().filter(|field| !same(&object[field], &old[field]));
    errors.extend(changed.map(|field| FieldError::forbidden(&path(field), FROZEN)));
    errors
}

pub(super) struct ConfigMap;

impl Kind for ConfigMap {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            let at = path("data").key(key);
            errors.extend(invalid(&at, key, names::config_map_key(key)));
            if object["binaryData"].get(key).is_some() {
                errors.push(FieldError::invalid(&at, key.as_str(), "duplicate of key present in binaryData"));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        for (key, value) in entries(object, "binaryData") {
            errors.extend(invalid(&path("binaryData").key(key), key, names::config_map_key(key)));
            bytes += bytes_of(value).len();
        }
        if bytes > DATA_BYTES_MAX {
            // Upstream names a field without a name.
            errors.push(FieldError::too_long(&FieldPath::new("[]"), DATA_BYTES_MAX));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = frozen(object, old, &["data", "binaryData"]);
        errors.extend(self.validate_create(object));
        errors
    }
}

pub(super) struct Secret;

impl Kind for Secret {
    fn default(&self, object: &mut Object) {
        // `stringData` is only another way to write `data`.
        let map = map_mut(object, "");
        let Some(Value::Object(texts)) = map.remove("stringData") else { return };
        let data = map_mut(object, "data");
        for (key, text) in texts {
            data.insert(key, Value::from(STANDARD.encode(text.as_str().unwrap_or_default())));
        }
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        if str_at(object, "type").is_empty() {
            map_mut(object, "").insert("type".to_owned(), old["type"].clone());
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let data = path("data");
        let mut errors = FieldErrors::new();
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            errors.extend(invalid(&data.key(key), key, names::config_map_key(key)));
            bytes += bytes_of(value).len();
        }
        if bytes > DATA_BYTES_MAX {
            errors.push(FieldError::too_long(&data, DATA_BYTES_MAX));
        }
        errors.extend(what_the_type_demands(object));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = immutable_text(&path("type"), str_at(object, "type"), str_at(old, "type"));
        errors.extend(frozen(object, old, &["data"]));
        errors.extend(self.validate_create(object));
        errors
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("type", str_at(object, "type").to_owned())]
    }
}

fn what_the_type_demands(secret: &Object) -> FieldErrors {
    let data = path("data");
    let has = |key: &str| secret["data"].get(key).is_some();
    let demand = |keys: &[&str]| -> FieldErrors {
        keys.iter().filter(|key| !has(key)).map(|key| FieldError::required(&data.key(key), "")).collect()
    };
    match str_at(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            match annotation(secret, name) {
                None | Some("") => vec![FieldError::required(&path("metadata.annotations").key(name), "")],
                Some(_) => FieldErrors::new(),
            }
        }
        "kubernetes.io/dockercfg" => json_object(secret, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_object(secret, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => demand(&["username", "password"]),
        "kubernetes.io/ssh-auth" if bytes_of(&secret["data"]["ssh-privatekey"]).is_empty() => {
            vec![FieldError::required(&data.key("ssh-privatekey"), "")]
        }
        "kubernetes.io/tls" => demand(&["tls.crt", "tls.key"]),
        _ => FieldErrors::new(),
    }
}

/// A key that must hold a JSON object.
fn json_object(secret: &Object, key: &str) -> FieldErrors {
    let at = path("data").key(key);
    let Some(value) = secret["data"].get(key) else { return vec![FieldError::required(&at, "")] };
    match json_object_problem(&bytes_of(value)) {
        None => FieldErrors::new(),
        Some(problem) => vec![FieldError::invalid(&at, "<secret contents redacted>", problem)],
    }
}

/// What Go says when these bytes aren't a JSON object; none of their content beyond what it says of syntax.
fn json_object_problem(bytes: &[u8]) -> Option<String> {
    if let Some(problem) = crate::decode::syntax_error(bytes) {
        return Some(problem);
    }
    let kind = match serde_json::from_slice(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Err(error) => return Some(error.to_string()),
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

pub(super) struct ServiceAccount;

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

fn names_of_secrets_only(object: &mut Object) {
    for secret in object.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        map_mut(secret, "").retain(|field, _| field == "name");
    }
}

impl Kind for ServiceAccount {
    fn prepare_for_create(&self, object: &mut Object) {
        names_of_secrets_only(object);
    }

    fn prepare_for_update(&self, object: &mut Object, _old: &Object) {
        names_of_secrets_only(object);
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some_and(|old| annotation(old, MOUNTABLE).is_some()) || annotation(object, MOUNTABLE).is_none() {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn what_is_frozen_stays() {
        let old = json!({"data": {"a": "1"}, "immutable": true});
        check(ConfigMap.validate_update(&old, &old), &[]);
        let new = json!({"data": {"a": "2"}});
        check(
            ConfigMap.validate_update(&new, &old),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
    }

    #[test]
    fn secrets_hold_what_their_type_demands() {
        let cases: &[(Value, &[&str])] = &[
            (json!({"type": "Opaque"}), &[]),
            (json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}), &[]),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), &["data[tls.key]: Required value"]),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}), &[]),
        ];
        for (secret, expect) in cases {
            check(Secret.validate_create(secret), expect);
        }
        let (old, new) = (json!({"type": "a"}), json!({"type": "b"}));
        check(Secret.validate_update(&new, &old), &["type: Invalid value: \"b\": field is immutable"]);
    }

    #[test]
    fn string_data_becomes_data() {
        let mut object = json!({"data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"a": "3"}});
        Kind::default(&Secret, &mut object);
        assert_eq!(object, json!({"data": {"a": "Mw==", "b": "Mg=="}}));
    }

    #[test]
    fn large_data_is_refused() {
        let value = "x".repeat(DATA_BYTES_MAX + 1);
        check(
            Secret.validate_create(&json!({"data": {"a": STANDARD.encode(&value)}})),
            &["data: Too long: may not be more than 1048576 bytes"],
        );
    }

    #[test]
    fn accounts_know_secrets_by_name() {
        let mut object = json!({"secrets": [{"name": "a", "namespace": "other"}]});
        ServiceAccount.prepare_for_create(&mut object);
        assert_eq!(object, json!({"secrets": [{"name": "a"}]}));
        let warned = json!({"metadata": {"annotations": {MOUNTABLE: "true"}}});
        assert_eq!(ServiceAccount.warnings(&warned, None).len(), 1);
        assert_eq!(ServiceAccount.warnings(&warned, Some(&warned)).len(), 0);
    }
}
