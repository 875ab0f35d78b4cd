//! The difference between two specs as upstream prints it in a refusal: a unified diff of its own structs.

use serde_json::Value;

use crate::object::is_empty;

/// Lines around a change.
const CONTEXT: usize = 3;

/// How upstream's Go struct prints.
enum Form {
    /// As the API has it; null when it isn't set.
    Plain,
    /// A text, empty when it isn't set.
    Text,
    /// A struct with these fields: the name in Go, the name in the API, the form.
    Struct(&'static [(&'static str, &'static str, Form)]),
    /// The same, null when it isn't set.
    Pointer(&'static [(&'static str, &'static str, Form)]),
}

const SOURCE: &[(&str, &str, Form)] =
    &[("APIGroup", "apiGroup", Form::Plain), ("Kind", "kind", Form::Text), ("Name", "name", Form::Text)];
const REFERENCE: &[(&str, &str, Form)] = &[
    ("APIGroup", "apiGroup", Form::Plain),
    ("Kind", "kind", Form::Text),
    ("Name", "name", Form::Text),
    ("Namespace", "namespace", Form::Plain),
];
const RESOURCES: &[(&str, &str, Form)] = &[("Limits", "limits", Form::Plain), ("Requests", "requests", Form::Plain)];
const CLAIM: &[(&str, &str, Form)] = &[
    ("AccessModes", "accessModes", Form::Plain),
    ("Selector", "selector", Form::Plain),
    ("Resources", "resources", Form::Struct(RESOURCES)),
    ("VolumeName", "volumeName", Form::Text),
    ("StorageClassName", "storageClassName", Form::Plain),
    ("VolumeMode", "volumeMode", Form::Plain),
    ("DataSource", "dataSource", Form::Pointer(SOURCE)),
    ("DataSourceRef", "dataSourceRef", Form::Pointer(REFERENCE)),
    ("VolumeAttributesClassName", "volumeAttributesClassName", Form::Plain),
];

/// The difference between the specs of two claims.
pub(super) fn of_claims(old: &Value, new: &Value) -> String {
    let lines = |spec: &Value| {
        let mut lines = Vec::new();
        print(spec, &Form::Struct(CLAIM), 0, "", &mut lines);
        lines
    };
    unified(&lines(old), &lines(new))
}

/// Prints a value as Go's `MarshalIndent` with one space does; `lead` is what stands before it on its line.
fn print(value: &Value, form: &Form, depth: usize, lead: &str, lines: &mut Vec<String>) {
    let indent = " ".repeat(depth);
    match form {
        Form::Text => lines.push(format!("{indent}{lead}{}", Value::from(value.as_str().unwrap_or_default()))),
        Form::Pointer(_) if value.is_null() => lines.push(format!("{indent}{lead}null")),
        Form::Struct(fields) | Form::Pointer(fields) => {
            lines.push(format!("{indent}{lead}{{"));
            for (index, (name, field, form)) in fields.iter().enumerate() {
                print(&value[field], form, depth + 1, &format!("\"{name}\": "), lines);
                comma(index + 1 < fields.len(), lines);
            }
            lines.push(format!("{indent}}}"));
        }
        Form::Plain => match value {
            Value::Object(map) if !map.is_empty() => {
                lines.push(format!("{indent}{lead}{{"));
                for (index, (key, value)) in map.iter().enumerate() {
                    print(value, &Form::Plain, depth + 1, &format!("{}: ", Value::from(key.as_str())), lines);
                    comma(index + 1 < map.len(), lines);
                }
                lines.push(format!("{indent}}}"));
            }
            Value::Array(items) if !items.is_empty() => {
                lines.push(format!("{indent}{lead}["));
                for (index, value) in items.iter().enumerate() {
                    print(value, &Form::Plain, depth + 1, "", lines);
                    comma(index + 1 < items.len(), lines);
                }
                lines.push(format!("{indent}]"));
            }
            Value::String(_) | Value::Bool(_) | Value::Number(_) => lines.push(format!("{indent}{lead}{value}")),
            empty if is_empty(empty) && !empty.is_null() => lines.push(format!("{indent}{lead}{empty}")),
            _ => lines.push(format!("{indent}{lead}null")),
        },
    }
}

fn comma(more: bool, lines: &mut [String]) {
    if let Some(last) = lines.last_mut().filter(|_| more) {
        last.push(',');
    }
}

/// One line of a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Same,
    Gone,
    Come,
}

/// The shortest way from one text to the other.
fn steps(old: &[String], new: &[String]) -> Vec<Step> {
    let mut common = vec![vec![0usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut steps) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            steps.push(Step::Same);
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            steps.push(Step::Gone);
            i += 1;
        } else {
            steps.push(Step::Come);
            j += 1;
        }
    }
    steps
}

/// A unified diff without a head.
fn unified(old: &[String], new: &[String]) -> String {
    let steps = steps(old, new);
    let changed: Vec<usize> = (0..steps.len()).filter(|&at| steps[at] != Step::Same).collect();
    let mut out = String::new();
    let mut next = 0;
    while let Some(&first) = changed.get(next) {
        let mut last = first;
        while let Some(&at) = changed.get(next).filter(|at| **at <= last + 2 * CONTEXT) {
            last = at;
            next += 1;
        }
        let (start, end) = (first.saturating_sub(CONTEXT), (last + CONTEXT + 1).min(steps.len()));
        let count = |range: &[Step], not: Step| range.iter().filter(|step| **step != not).count();
        let (mut i, mut j) = (count(&steps[..start], Step::Come), count(&steps[..start], Step::Gone));
        let (olds, news) = (count(&steps[start..end], Step::Come), count(&steps[start..end], Step::Gone));
        out.push_str(&format!("@@ -{} +{} @@\n", range(i, olds), range(j, news)));
        for step in &steps[start..end] {
            match step {
                Step::Same => {
                    out.push_str(&format!(" {}\n", old[i]));
                    (i, j) = (i + 1, j + 1);
                }
                Step::Gone => {
                    out.push_str(&format!("-{}\n", old[i]));
                    i += 1;
                }
                Step::Come => {
                    out.push_str(&format!("+{}\n", new[j]));
                    j += 1;
                }
            }
        }
    }
    out
}

fn range(start: usize, count: usize) -> String {
    match count {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{count}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_differ_as_upstream_prints_it() {
        let old = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "resources": {"requests": {"storage": "1Gi"}}});
        let mut new = old.clone();
        new["resources"]["requests"]["storage"] = json!("2Gi");
        insta::assert_snapshot!(of_claims(&old, &new), @r###"
        @@ -6,7 +6,7 @@
          "Resources": {
           "Limits": null,
           "Requests": {
        -   "storage": "1Gi"
        +   "storage": "2Gi"
           }
          },
          "VolumeName": "",
        "###);
    }
}
