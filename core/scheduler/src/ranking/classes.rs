//! Rows that differ in nothing but their local score, in buckets by that score: the best ones of a class are found
//! without looking at the others, and moving a row costs the same however many there are.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::cluster::Row;

/// What sets a class apart: raw scores that are normalised over all nodes, domains, and counts on the node itself.
pub type ClassKey = SmallVec<[i32; 6]>;

/// A class's place.
pub type ClassId = u32;

/// Rows of one class.
#[derive(Debug, Default)]
pub struct Class {
    /// What sets it apart.
    pub key: ClassKey,
    /// Rows by their local score.
    pub buckets: BTreeMap<i32, Vec<Row>>,
    /// How many rows there are.
    pub rows: u32,
}

impl Class {
    /// The best local score, and the rows that have it.
    pub fn best(&self) -> Option<(i32, &[Row])> {
        self.buckets.last_key_value().map(|(score, rows)| (*score, rows.as_slice()))
    }
}

/// All classes of a ranking.
#[derive(Debug, Default)]
pub struct Classes {
    all: Vec<Class>,
    ids: FxHashMap<ClassKey, ClassId>,
    free: Vec<ClassId>,
    /// By row: its place in its bucket.
    places: Vec<u32>,
}

impl Classes {
    /// Forgets all rows; there will be this many.
    pub fn reset(&mut self, rows: usize) {
        self.all.clear();
        self.ids.clear();
        self.free.clear();
        self.places.clear();
        self.places.resize(rows, 0);
    }

    /// Makes room for more rows.
    pub fn grow(&mut self, rows: usize) {
        if self.places.len() < rows {
            self.places.resize(rows, 0);
        }
    }

    /// Adds a row.
    pub fn insert(&mut self, key: &ClassKey, score: i32, row: Row) -> ClassId {
        let id = match self.ids.get(key) {
            Some(id) => *id,
            None => {
                let id = self.free.pop().unwrap_or_else(|| {
                    self.all.push(Class::default());
                    u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
                });
                self.all[id as usize].key = key.clone();
                self.ids.insert(key.clone(), id);
                id
            }
        };
        let class = &mut self.all[id as usize];
        class.rows += 1;
        let bucket = class.buckets.entry(score).or_default();
        self.places[row as usize] = u32::try_from(bucket.len()).unwrap_or(u32::MAX);
        bucket.push(row);
        id
    }

    /// Removes a row that is in this class with this score.
    pub fn remove(&mut self, id: ClassId, score: i32, row: Row) {
        let class = &mut self.all[id as usize];
        let Some(bucket) = class.buckets.get_mut(&score) else { return };
        let place = self.places[row as usize] as usize;
        bucket.swap_remove(place);
        if let Some(moved) = bucket.get(place) {
            self.places[*moved as usize] = place as u32;
        }
        if bucket.is_empty() {
            class.buckets.remove(&score);
        }
        class.rows -= 1;
        if class.rows == 0 {
            self.ids.remove(&class.key);
            self.free.push(id);
        }
    }

    /// A class.
    pub fn get(&self, id: ClassId) -> &Class {
        &self.all[id as usize]
    }

    /// Classes that have rows.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        (0..).zip(&self.all).filter(|(_, class)| class.rows > 0)
    }
}
