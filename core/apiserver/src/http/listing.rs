//! Lists as bodies: a chunk at a time, so that a list of any length takes the memory of one chunk.

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use gantry_api::resources::Resource;
use serde_json::{Map, Value, json};

use super::body::{self, Body};
use crate::cache::entry::Entry;
use crate::registry::list::Page;

/// About the size of a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// Lists longer than this are compressed for clients that take it, as upstream does.
const GZIP_BYTES_MIN: usize = 128 << 10;

/// `metadata` of a list.
pub fn list_metadata(page: &Page) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), json!(page.revision.to_string()));
    if let Some(token) = &page.continue_token {
        metadata.insert("continue".to_owned(), json!(token));
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".to_owned(), json!(remaining));
    }
    Value::Object(metadata)
}

/// Where a walk through a page's entries is.
enum Walk {
    /// Through collected entries.
    Listed(std::vec::IntoIter<Arc<Entry>>),
    /// Through the snapshot, behind a key.
    Snapshot(Option<String>),
}

/// Writes the JSON of a typed list, chunk by chunk.
pub struct ListWriter {
    page: Page,
    walk: Walk,
    head: Option<Bytes>,
    first: bool,
    done: bool,
}

impl ListWriter {
    /// A writer of a page of a resource's objects.
    pub fn new(resource: &Resource, mut page: Page) -> Self {
        let mut head = BytesMut::new();
        head.put_slice(
            format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                resource.list_kind,
                resource.api_version(),
                list_metadata(&page)
            )
            .as_bytes(),
        );
        let walk = match page.entries.take() {
            Some(entries) => Walk::Listed(entries.into_iter()),
            None => Walk::Snapshot(page.after.clone()),
        };
        Self { page, walk, head: Some(head.freeze()), first: true, done: false }
    }

    /// The next chunk.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(4 << 10);
        if let Some(head) = self.head.take() {
            out.put_slice(&head);
        }
        match &mut self.walk {
            Walk::Listed(entries) => {
                for entry in entries {
                    item(&mut out, &mut self.first, &entry);
                    if out.len() >= CHUNK_BYTES {
                        return Some(out.freeze());
                    }
                }
            }
            Walk::Snapshot(after) => {
                let mut last = None;
                for entry in self.page.snapshot.range(&self.page.selection.scope, after.as_deref()) {
                    if self.page.selection.matches(entry) {
                        item(&mut out, &mut self.first, entry);
                    }
                    if out.len() >= CHUNK_BYTES {
                        last = Some(entry.key.to_string());
                        break;
                    }
                }
                if last.is_some() {
                    *after = last;
                    return Some(out.freeze());
                }
            }
        }
        out.put_slice(b"]}\n");
        self.done = true;
        Some(out.freeze())
    }

    /// The whole list as one text.
    pub fn collect(mut self) -> Bytes {
        let mut out = BytesMut::new();
        while let Some(chunk) = self.next_chunk() {
            out.put_slice(&chunk);
        }
        out.freeze()
    }

    /// The list as a body; short ones in one piece. Answers whether it is compressed.
    pub fn into_body(mut self, gzip: bool) -> (Body, bool) {
        let mut start = BytesMut::new();
        while start.len() < GZIP_BYTES_MIN {
            match self.next_chunk() {
                Some(chunk) if self.done && start.is_empty() => return (body::full(chunk), false),
                Some(chunk) => start.put_slice(&chunk),
                None => return (body::full(start.freeze()), false),
            }
        }
        let start = Some(start.freeze());
        if !gzip {
            let chunks = stream::unfold((start, self), async |(start, mut writer)| {
                let chunk = start.or_else(|| writer.next_chunk())?;
                Some((chunk, (None, writer)))
            });
            return (body::stream(chunks), false);
        }
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let chunks = stream::unfold((start, self, Some(encoder)), async |(start, mut writer, encoder)| {
            let mut encoder = encoder?;
            let mut start = start;
            loop {
                match start.take().or_else(|| writer.next_chunk()) {
                    Some(chunk) => {
                        // Writing to memory can't fail.
                        let _ = encoder.write_all(&chunk);
                        if encoder.get_ref().len() >= CHUNK_BYTES / 4 {
                            let out = std::mem::take(encoder.get_mut());
                            return Some((Bytes::from(out), (None, writer, Some(encoder))));
                        }
                    }
                    None => return Some((Bytes::from(encoder.finish().unwrap_or_default()), (None, writer, None))),
                }
            }
        });
        (body::stream(chunks), true)
    }
}

fn item(out: &mut BytesMut, first: &mut bool, entry: &Entry) {
    if !*first {
        out.put_u8(b',');
    }
    *first = false;
    entry.write_item(out);
}

/// A text compressed at once.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory can't fail.
    let _ = encoder.write_all(content);
    encoder.finish().unwrap_or_default()
}
