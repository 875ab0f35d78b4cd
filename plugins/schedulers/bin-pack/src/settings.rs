//! Weights and shape.

use std::collections::BTreeMap;

use gantry_plugin_sdk::{serde::Deserialize, serde_json};

/// The settings; the host has checked their shape and filled the defaults in.
#[derive(Debug, Default, Deserialize)]
#[serde(crate = "gantry_plugin_sdk::serde")]
pub struct Settings {
    /// Weights by resource.
    pub resources: BTreeMap<String, f64>,
    shape: Vec<Point>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(crate = "gantry_plugin_sdk::serde")]
struct Point {
    utilization: f64,
    score: f64,
}

impl Settings {
    pub fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(text).map_err(|reason| reason.to_string())?;
        if !settings.resources.values().any(|weight| *weight > 0.0) {
            return Err("resources: one of them must have a weight above 0".to_owned());
        }
        if !settings.shape.is_sorted_by(|a, b| a.utilization < b.utilization) {
            return Err("shape: each point's utilization must be above that of the one before".to_owned());
        }
        Ok(settings)
    }

    /// Score, 0 to 100, at a utilisation, 0 to 1.
    pub fn at(&self, utilization: f64) -> f64 {
        let at = utilization * 100.0;
        let after = self.shape.iter().position(|point| point.utilization >= at);
        match after.map(|index| (index.checked_sub(1).and_then(|before| self.shape.get(before)), self.shape[index])) {
            Some((Some(before), after)) => {
                let part = (at - before.utilization) / (after.utilization - before.utilization);
                before.score + part * (after.score - before.score)
            }
            Some((None, first)) => first.score,
            None => self.shape.last().map_or(0.0, |point| point.score),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(shape: &str) -> Result<Settings, String> {
        Settings::parse(&format!("{{\"resources\":{{\"cpu\":1}},\"shape\":{shape}}}"))
    }

    #[test]
    fn the_shape_is_a_line_between_points() {
        let shape = r#"[{"utilization":20,"score":10},{"utilization":80,"score":100},{"utilization":90,"score":0}]"#;
        let settings = settings(shape).unwrap();
        for (utilization, expect) in [(0.0, 10.0), (0.2, 10.0), (0.5, 55.0), (0.8, 100.0), (0.85, 50.0), (1.0, 0.0)] {
            assert!((settings.at(utilization) - expect).abs() < 1e-9, "{utilization}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(settings(r#"[{"utilization":9,"score":1},{"utilization":9,"score":2}]"#).is_err());
        assert!(Settings::parse(r#"{"resources":{"cpu":0},"shape":[]}"#).is_err());
    }
}
