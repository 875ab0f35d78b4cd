//! Taints of nodes and tolerations of pods.

use k8s_openapi::api::core::v1::Toleration as ApiToleration;

use crate::interner::{Atom, Interner};

/// What a taint does to pods that don't tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Keeps them away.
    NoSchedule,
    /// Keeps them away where there is a choice.
    PreferNoSchedule,
    /// Evicts them, too.
    NoExecute,
}

impl Effect {
    /// By its word; none for an unknown one, which has no effect.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A node's taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taint {
    /// Its key.
    pub key: Atom,
    /// Its value.
    pub value: Atom,
    /// What it does.
    pub effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Comparison {
    Exists,
    Equal(Atom),
    Greater(i64),
    Less(i64),
    Never,
}

/// A pod's toleration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// None: every key.
    key: Option<Atom>,
    comparison: Comparison,
    /// None: every effect.
    effect: Option<Effect>,
}

impl Toleration {
    /// Of an API object; none when its effect is unknown, so that it tolerates nothing.
    pub fn of(toleration: &ApiToleration, atoms: &mut Interner) -> Option<Self> {
        let effect = match toleration.effect.as_deref().unwrap_or_default() {
            "" => None,
            word => Some(Effect::parse(word)?),
        };
        let value = toleration.value.as_deref().unwrap_or_default();
        let number = |make: fn(i64) -> Comparison| value.parse().map_or(Comparison::Never, make);
        let comparison = match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => Comparison::Equal(atoms.intern(value)),
            "Exists" => Comparison::Exists,
            "Gt" => number(Comparison::Greater),
            "Lt" => number(Comparison::Less),
            _ => Comparison::Never,
        };
        let key = toleration.key.as_deref().filter(|key| !key.is_empty()).map(|key| atoms.intern(key));
        Some(Self { key, comparison, effect })
    }

    /// Whether it tolerates a taint.
    pub fn tolerates(&self, taint: Taint, atoms: &Interner) -> bool {
        if self.effect.is_some_and(|effect| effect != taint.effect) || self.key.is_some_and(|key| key != taint.key) {
            return false;
        }
        let number = || atoms.text(taint.value).parse::<i64>().ok();
        match self.comparison {
            Comparison::Exists => true,
            Comparison::Equal(value) => value == taint.value,
            Comparison::Greater(limit) => number().is_some_and(|value| value > limit),
            Comparison::Less(limit) => number().is_some_and(|value| value < limit),
            Comparison::Never => false,
        }
    }

    /// Whether it speaks about taints that only lower a score.
    fn is_about_preferences(&self) -> bool {
        matches!(self.effect, None | Some(Effect::PreferNoSchedule))
    }
}

/// Whether a pod may run under all these taints.
pub fn tolerated(tolerations: &[Toleration], taints: &[Taint], atoms: &Interner) -> bool {
    taints
        .iter()
        .filter(|taint| taint.effect != Effect::PreferNoSchedule)
        .all(|taint| tolerations.iter().any(|toleration| toleration.tolerates(*taint, atoms)))
}

/// How many of the taints would rather keep the pod away.
pub fn intolerable(tolerations: &[Toleration], taints: &[Taint], atoms: &Interner) -> i64 {
    let count = taints
        .iter()
        .filter(|taint| taint.effect == Effect::PreferNoSchedule)
        .filter(|taint| !tolerations.iter().any(|one| one.is_about_preferences() && one.tolerates(**taint, atoms)))
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        // Toleration (key, operator, value, effect), taint (key, value, effect), tolerated?
        let cases = [
            (("a", "", "1", ""), ("a", "1", "NoSchedule"), true),
            (("a", "Equal", "1", "NoSchedule"), ("a", "2", "NoSchedule"), false),
            (("a", "Exists", "", "NoExecute"), ("a", "2", "NoExecute"), true),
            (("a", "Exists", "", "NoExecute"), ("a", "2", "NoSchedule"), false),
            (("", "Exists", "", ""), ("a", "2", "NoSchedule"), true),
            (("b", "Exists", "", ""), ("a", "2", "NoSchedule"), false),
            (("a", "Gt", "5", ""), ("a", "6", "NoSchedule"), true),
            (("a", "Lt", "5", ""), ("a", "6", "NoSchedule"), false),
            (("a", "Lt", "x", ""), ("a", "6", "NoSchedule"), false),
            (("a", "Exists", "", "Strange"), ("a", "6", "NoSchedule"), false),
        ];
        for ((key, operator, value, effect), (taint_key, taint_value, taint_effect), expect) in cases {
            let mut atoms = Interner::default();
            let toleration = ApiToleration {
                key: Some(key.to_owned()),
                operator: Some(operator.to_owned()),
                value: Some(value.to_owned()),
                effect: Some(effect.to_owned()),
                toleration_seconds: None,
            };
            let tolerations: Vec<Toleration> = Toleration::of(&toleration, &mut atoms).into_iter().collect();
            let taint = Taint {
                key: atoms.intern(taint_key),
                value: atoms.intern(taint_value),
                effect: Effect::parse(taint_effect).expect("an effect"),
            };
            assert_eq!(tolerated(&tolerations, &[taint], &atoms), expect, "{toleration:?} {taint:?}");
        }
    }

    #[test]
    fn a_preference_is_counted_unless_tolerated_as_one() {
        let mut atoms = Interner::default();
        let taint = Taint { key: atoms.intern("a"), value: Atom::EMPTY, effect: Effect::PreferNoSchedule };
        let with = |effect| Toleration { key: None, comparison: Comparison::Exists, effect };
        assert_eq!(intolerable(&[], &[taint, taint], &atoms), 2);
        assert_eq!(intolerable(&[with(Some(Effect::NoSchedule))], &[taint], &atoms), 1);
        assert_eq!(intolerable(&[with(None)], &[taint], &atoms), 0);
        assert!(tolerated(&[], &[taint], &atoms));
    }
}
