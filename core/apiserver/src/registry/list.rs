//! Lists: which revision they show, and pages that go on where the last one ended.

use std::sync::Arc;

use base64::Engine;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use gantry_api::error::{ApiError, quoted};
use gantry_api::object::Object;
use gantry_api::selectors::{FieldSelector, LabelSelector};
use serde::{Deserialize, Serialize};

use super::options::{ListOptions, VersionMatch, parse_version};
use super::{Call, Registry};
use crate::cache::entry::Entry;
use crate::cache::resource::{Snapshot, TooOld};
use crate::cache::selection::{Scope, Selection};

/// A list, ready to be written: nothing has been copied yet.
pub struct Page {
    /// What is shown.
    pub snapshot: Snapshot,
    /// Which part of it.
    pub selection: Arc<Selection>,
    /// Where it starts: behind this key.
    pub after: Option<String>,
    /// The entries of a limited list; `None` means everything selected.
    pub entries: Option<Vec<Arc<Entry>>>,
    /// The list's resourceVersion.
    pub revision: i64,
    /// The token for the next page.
    pub continue_token: Option<String>,
    /// How many items follow, if that is known.
    pub remaining: Option<usize>,
}

impl Page {
    /// All entries of the page in order.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        match &self.entries {
            Some(entries) => entries.clone(),
            None => self
                .snapshot
                .range(&self.selection.scope, self.after.as_deref())
                .filter(|entry| self.selection.matches(entry))
                .cloned()
                .collect(),
        }
    }
}

/// What a continue token says (upstream's format, with a count of what follows).
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<usize>,
}

/// As lenient as Go's decoder: bits beyond the last byte don't matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

fn encode_token(revision: i64, last: &str, remaining: Option<usize>) -> String {
    // A zero byte behind the last key: the first key that may follow.
    let token = Token { v: TOKEN_VERSION.to_owned(), rv: revision, start: format!("{last}\0"), n: remaining };
    BASE64.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_token(text: &str) -> Result<Token, ApiError> {
    let invalid =
        |detail: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {detail}"));
    let bytes = BASE64.decode(text).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) => invalid(format!("illegal base64 data at input byte {at}")),
        _ => invalid(format!("illegal base64 data at input byte {}", text.len())),
    })?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| {
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            Some(byte) if *byte != b'{' => {
                invalid(format!("invalid character {} looking for beginning of value", go_char(*byte)))
            }
            None => invalid("unexpected end of JSON input".to_owned()),
            _ => invalid(error.to_string()),
        }
    })?;
    if token.v != TOKEN_VERSION {
        return Err(ApiError::bad_request(format!(
            "invalid continue token: continue key is not valid: server does not recognize this encoded version {}",
            quoted(&token.v)
        )));
    }
    if token.start.is_empty() {
        return Err(ApiError::bad_request(
            "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
        ));
    }
    Ok(token)
}

/// A byte as Go's JSON decoder quotes it.
fn go_char(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0x80..0xa0 => format!("'\\u{byte:04x}'"),
        0xa0.. => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}

/// The scope and selectors of a call.
pub fn selection(call: &Call<'_>, options: &ListOptions) -> Result<Selection, ApiError> {
    let labels =
        LabelSelector::parse(&options.label_selector).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let fields =
        FieldSelector::parse(&options.field_selector).map_err(|error| ApiError::bad_request(error.to_string()))?;
    check_fields(call, &fields)?;
    let name = if call.name.is_empty() {
        fields.exact("metadata.name").map(str::to_owned)
    } else {
        Some(call.name.to_owned())
    };
    let namespace =
        if call.namespace.is_empty() { fields.exact("metadata.namespace").unwrap_or_default() } else { call.namespace };
    let scope = match (call.resource.namespaced, namespace, name) {
        (false, _, Some(name)) => Scope::Key(name),
        (false, _, None) | (true, "", _) => Scope::All,
        (true, namespace, Some(name)) => Scope::Key(format!("{namespace}/{name}")),
        (true, namespace, None) => Scope::Namespace(namespace.to_owned()),
    };
    Ok(Selection { scope, labels, fields })
}

/// Refuses fields that the kind can't be selected by.
fn check_fields(call: &Call<'_>, fields: &FieldSelector) -> Result<(), ApiError> {
    if fields.is_everything() {
        return Ok(());
    }
    let kind = gantry_api::kinds::kind_of(&call.resource.group, &call.resource.kind);
    let known: Vec<&str> = kind.selectable_fields(&Object::Null).into_iter().map(|(field, _)| field).collect();
    for field in fields.fields() {
        let general = field == "metadata.name" || (call.resource.namespaced && field == "metadata.namespace");
        if general || known.contains(&field) || field == "metadata.namespace" && !known.is_empty() {
            continue;
        }
        let text = if known.is_empty() {
            let supported = if call.resource.namespaced {
                "\"metadata.name\", \"metadata.namespace\""
            } else {
                "\"metadata.name\""
            };
            format!("{} is not a known field selector: only {supported}", quoted(field))
        } else {
            format!("field label not supported: {field}")
        };
        return Err(ApiError::bad_request(text));
    }
    Ok(())
}

impl Registry {
    /// The page that a list asks for.
    pub async fn list(&self, call: &Call<'_>, options: &ListOptions) -> Result<Page, ListError> {
        let selection = Arc::new(selection(call, options)?);
        let version = parse_version(&options.resource_version)
            .map_err(|text| ApiError::bad_request(format!("invalid resource version: {text}")))?;
        let stored = self.stored(call.resource)?;
        let cache = &stored.cache;
        if !options.continue_token.is_empty() {
            let token = decode_token(&options.continue_token)?;
            if version != 0 {
                return Err(
                    ApiError::bad_request("specifying resource version is not allowed when using continue").into()
                );
            }
            let after = token.start.trim_end_matches('\0').to_owned();
            let snapshot = if token.rv > 0 {
                self.wait_for(token.rv).await?;
                cache.snapshot_at(token.rv).map_err(|_| expired_page(&after))?
            } else {
                self.catch_up().await?;
                cache.snapshot(self.caches.applied.revision())
            };
            return Ok(page(snapshot, selection, Some(after), options.limit, token.n));
        }
        let snapshot = match (version, options.version_match) {
            (0, _) if options.resource_version == "0" => cache.snapshot(self.caches.applied.revision()),
            (0, _) => {
                self.catch_up().await?;
                cache.snapshot(self.caches.applied.revision())
            }
            (version, VersionMatch::Exact) => self.exact(call, version).await?,
            // Upstream's way with limit and without a match: as exact.
            (version, VersionMatch::Unset) if options.limit > 0 => self.exact(call, version).await?,
            (version, _) => {
                self.wait_for(version).await?;
                cache.snapshot(self.caches.applied.revision())
            }
        };
        Ok(page(snapshot, selection, None, options.limit, None))
    }

    async fn exact(&self, call: &Call<'_>, version: i64) -> Result<Snapshot, ApiError> {
        self.wait_for(version).await?;
        self.stored(call.resource)?
            .cache
            .snapshot_at(version)
            .map_err(|TooOld { .. }| ApiError::expired("The resourceVersion for the provided list is too old."))
    }
}

/// A refused list.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ListError {
    /// Why.
    pub error: ApiError,
    /// With which token the client may go on all the same.
    pub continue_token: Option<String>,
}

impl From<ApiError> for ListError {
    fn from(error: ApiError) -> Self {
        Self { error, continue_token: None }
    }
}

fn expired_page(after: &str) -> ListError {
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    ListError { error, continue_token: Some(encode_token(-1, after, None)) }
}

fn page(
    snapshot: Snapshot,
    selection: Arc<Selection>,
    after: Option<String>,
    limit: usize,
    known_rest: Option<usize>,
) -> Page {
    let revision = snapshot.revision;
    if limit == 0 {
        return Page { snapshot, selection, after, entries: None, revision, continue_token: None, remaining: None };
    }
    let mut entries = Vec::new();
    let mut more = false;
    for entry in snapshot.range(&selection.scope, after.as_deref()).filter(|entry| selection.matches(entry)) {
        if entries.len() == limit {
            more = true;
            break;
        }
        entries.push(entry.clone());
    }
    let (mut continue_token, mut remaining) = (None, None);
    if more && let Some(last) = entries.last() {
        if !selection.is_filtered() {
            let rest = known_rest.or_else(|| after.is_none().then(|| snapshot.count(&selection.scope)));
            remaining = rest.map(|rest| rest.saturating_sub(entries.len()));
        }
        continue_token = Some(encode_token(revision, &last.key, remaining));
    }
    Page { snapshot, selection, after, entries: Some(entries), revision, continue_token, remaining }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_refused_as_upstream_refuses_them() {
        let cases = [
            (
                "garbage",
                "invalid continue token: continue key is not valid: invalid character '\\u0081' looking for beginning of value",
            ),
            ("!", "invalid continue token: continue key is not valid: illegal base64 data at input byte 0"),
        ];
        for (token, expect) in cases {
            assert_eq!(decode_token(token).expect_err("not a token").message, expect);
        }
        let token = decode_token(&encode_token(7, "n/a", Some(3))).expect("our own");
        assert_eq!((token.rv, token.start.as_str(), token.n), (7, "n/a\0", Some(3)));
    }
}
