//! Fills nodes one after another, so that the rest stay free.
//!
//! A node's score is the weighted mean over the resources of a function of the utilisation that the pod would bring it
//! to. Pods that ask for the same share a column of scores, of which only the rows of changed nodes are computed again.
//!
//! - `settings`: weights and shape
//! - `columns`: nodes and scores

mod columns;
mod settings;

use std::cell::RefCell;

use gantry_plugin_sdk::{
    export_policy,
    scheduler::{Description, Guest, NodeChanges, Pod, Row},
};

use columns::Columns;
use settings::Settings;

thread_local! {
    static COLUMNS: RefCell<Columns> = RefCell::default();
}

struct BinPack;

impl Guest for BinPack {
    fn init(settings: String) -> Result<Description, String> {
        let settings = Settings::parse(&settings)?;
        COLUMNS.with_borrow_mut(|columns| *columns = Columns::new(settings));
        // It prefers and never refuses.
        Ok(Description { reasons: Vec::new() })
    }

    fn update_nodes(changes: NodeChanges) {
        COLUMNS.with_borrow_mut(|columns| columns.apply(changes));
    }

    fn filter_and_score(pod: Pod, candidates: Vec<Row>) -> Vec<i64> {
        COLUMNS.with_borrow_mut(|columns| columns.score(&pod.requests, &candidates))
    }
}

export_policy!(BinPack);
