//! `DefaultTolerationSeconds`: how long pods stay on a node that isn't ready or can't be reached.

use gantry_api::object::{Object, items_at, map_mut, str_at};
use serde_json::json;

use super::{AdmissionRequest, Operation};

const SECONDS: i64 = 300;

pub(super) fn admit(request: &AdmissionRequest<'_>, pod: &mut Object) {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !request.is_for_object("", "pods") {
        return;
    }
    let mut tolerations = items_at(pod, "spec.tolerations").to_vec();
    let before = tolerations.len();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations[..before].iter().any(|toleration| {
            let tolerated = str_at(toleration, "key");
            (tolerated.is_empty() || tolerated == key) && matches!(str_at(toleration, "effect"), "" | "NoExecute")
        });
        if !tolerated {
            tolerations
                .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
    if tolerations.len() > before {
        map_mut(pod, "spec").insert("tolerations".to_owned(), json!(tolerations));
    }
}
