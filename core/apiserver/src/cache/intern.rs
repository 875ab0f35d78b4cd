//! Shared strings: thousands of objects carry the same few labels.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// A table of shared strings. Strings that nobody holds any more are dropped when it has doubled in size.
#[derive(Debug)]
pub struct Interner {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    strings: HashSet<Arc<str>>,
    sweep_at: usize,
}

/// Below this many strings a sweep isn't worth its walk.
const SWEEP_STRINGS_MIN: usize = 1024;

impl Default for Interner {
    fn default() -> Self {
        Self { state: Mutex::new(State { strings: HashSet::new(), sweep_at: SWEEP_STRINGS_MIN }) }
    }
}

impl Interner {
    /// The shared copy of a string.
    pub fn get(&self, text: &str) -> Arc<str> {
        let mut state = self.state.lock();
        if let Some(shared) = state.strings.get(text) {
            return shared.clone();
        }
        if state.strings.len() >= state.sweep_at {
            state.strings.retain(|shared| Arc::strong_count(shared) > 1);
            state.sweep_at = (state.strings.len() * 2).max(SWEEP_STRINGS_MIN);
        }
        let shared: Arc<str> = Arc::from(text);
        state.strings.insert(shared.clone());
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_the_unused_are_dropped() {
        let interner = Interner::default();
        let one = interner.get("app");
        assert!(Arc::ptr_eq(&one, &interner.get("app")));
        for number in 0..SWEEP_STRINGS_MIN * 2 {
            interner.get(&number.to_string());
        }
        assert!(interner.state.lock().strings.len() <= SWEEP_STRINGS_MIN + 1);
        assert!(Arc::ptr_eq(&one, &interner.get("app")));
    }
}
