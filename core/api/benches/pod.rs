//! What the API layer adds to a write: reading, defaulting and validating a pod.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gantry_api::decode::{FieldValidation, MediaType, decode};
use gantry_api::kinds::kind_of;
use gantry_api::metadata;
use gantry_api::patch::{PatchType, apply};
use gantry_api::resources::ResourceTable;
use gantry_api::schema::apply_defaults;

const POD: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default","labels":{"app":"web","tier":"front"}},
"spec":{"containers":[{"name":"web","image":"example.org/web:1","ports":[{"containerPort":80}],"env":[{"name":"A","value":"1"}],
"resources":{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"memory":"128Mi"}},"readinessProbe":{"httpGet":{"path":"/","port":80}}}],
"volumes":[{"name":"data","emptyDir":{}}]}}"#;

fn pod(criterion: &mut Criterion) {
    let pods = ResourceTable::builtin().get("", "v1", "pods").expect("pods");
    let kind = kind_of("", "Pod");
    let read = || decode(POD, MediaType::Json, pods, FieldValidation::Warn).expect("a pod").object;
    criterion.bench_function("pod/decode", |bench| bench.iter(|| black_box(read())));
    criterion.bench_function("pod/decode+default+validate", |bench| {
        bench.iter(|| {
            let mut object = read();
            apply_defaults(pods, &mut object);
            let mut errors = metadata::validate(&object, true, kind.name_rule());
            errors.extend(kind.validate_create(&object));
            assert!(errors.is_empty(), "{errors:?}");
            black_box(object)
        });
    });
    let mut current = read();
    apply_defaults(pods, &mut current);
    let patch = br#"{"metadata":{"labels":{"x":"1"}}}"#;
    for (name, patch_type) in [("merge", PatchType::Merge), ("strategic", PatchType::Strategic)] {
        criterion.bench_function(&format!("pod/patch/{name}"), |bench| {
            bench.iter(|| black_box(apply(patch_type, pods, &current, patch, FieldValidation::Warn)));
        });
    }
}

criterion_group!(benches, pod);
criterion_main!(benches);
