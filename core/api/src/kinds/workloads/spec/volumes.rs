//! `spec.volumes`: which volumes there are, and what must be said of each type.

use std::collections::HashMap;

use serde_json::Value;

use super::super::at::At;
use super::super::read::{entries, flag, is_set, items, number, optional_number, optional_text, quantity, text};
use super::super::report::Report;
use super::options::Options;
use super::{claim_template, projected};
use crate::error::quoted;
use crate::names;

/// A check of one type of volume: its source, and where it stands.
type Check = fn(&Value, &At<'_>, &mut Report);

/// The types in upstream's order: the field, the name that the complaint about a second type uses, the name that
/// complaints about the source use (upstream misspells some), and the check.
const TYPES: [(&str, &str, &str, Check); 30] = [
    ("emptyDir", "emptyDir", "emptyDir", empty_dir),
    ("hostPath", "hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", "gitRepo", git_repo),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk", gce_disk),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore", aws_disk),
    ("secret", "secret", "secret", secret),
    ("nfs", "nfs", "nfs", nfs),
    ("iscsi", "iscsi", "iscsi", iscsi),
    ("glusterfs", "glusterfs", "glusterfs", |source, at, report| required(source, &["endpoints", "path"], at, report)),
    ("flocker", "flocker", "flocker", flocker),
    ("persistentVolumeClaim", "persistentVolumeClaim", "persistentVolumeClaim", |source, at, report| {
        required(source, &["claimName"], at, report);
    }),
    ("rbd", "rbd", "rbd", rbd),
    ("cinder", "cinder", "cinder", cinder),
    ("cephfs", "cephFS", "cephfs", |source, at, report| required_list(source, "monitors", at, report)),
    ("quobyte", "quobyte", "quobyte", quobyte),
    ("downwardAPI", "downwarAPI", "downwardAPI", downward_api),
    ("fc", "fc", "fc", fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", flex),
    ("configMap", "configMap", "configMap", config_map),
    ("azureFile", "azureFile", "azureFile", |source, at, report| {
        required(source, &["secretName", "shareName"], at, report);
    }),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume", |source, at, report| {
        required(source, &["volumePath"], at, report);
    }),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk", |source, at, report| {
        required(source, &["pdID"], at, report);
    }),
    ("portworxVolume", "portworxVolume", "portworxVolume", |source, at, report| {
        required(source, &["volumeID"], at, report);
    }),
    ("azureDisk", "azureDisk", "azureDisk", azure_disk),
    ("storageos", "storageos", "storageos", storage_os),
    ("projected", "projected", "projected", |_, _, _| {}),
    ("scaleIO", "scaleIO", "scaleIO", |source, at, report| {
        required(source, &["gateway", "system", "volumeName"], at, report);
    }),
    ("csi", "csi", "csi", csi),
    ("ephemeral", "ephemeral", "ephemeral", |_, _, _| {}),
    ("image", "image", "image", |_, _, _| {}),
];

/// The names of all fields of a volume that say its type.
pub(in super::super) fn source_fields() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(field, ..)| *field)
}

/// The volumes that containers may mount: those without a mistake.
pub(super) type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// Checks all volumes; `pod` is the pod's name, when it is a pod and has one.
pub(super) fn check<'a>(
    spec: &'a Value,
    pod: &str,
    at: &At<'_>,
    options: &Options,
    report: &mut Report,
) -> Volumes<'a> {
    let list = items(spec, "volumes");
    let created_claims: Vec<String> = list
        .iter()
        .filter(|volume| !pod.is_empty() && is_set(volume, "ephemeral"))
        .map(|volume| format!("{pod}-{}", text(volume, "name")))
        .collect();
    let mut volumes = Volumes::with_capacity(list.len());
    for (index, volume) in list.iter().enumerate() {
        let at = at.index(index);
        let name = text(volume, "name");
        let before = report.len();
        source(volume, name, pod, &at, options, report);
        let name_at = at.field("name");
        if name.is_empty() {
            report.required(&name_at, "");
        } else {
            report.dns_label(&name_at, name);
        }
        if volumes.contains_key(name) {
            report.duplicate(&name_at, name);
        }
        if report.len() == before {
            volumes.insert(name, volume);
        }
        let claim = text(&volume["persistentVolumeClaim"], "claimName");
        if created_claims.iter().any(|created| created == claim) {
            let at = at.field("persistentVolumeClaim");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            report.invalid(&at.field("claimName"), claim, detail);
        }
    }
    volumes
}

fn source(volume: &Value, name: &str, pod: &str, at: &At<'_>, options: &Options, report: &mut Report) {
    let mut found = false;
    for (field, second, own, check) in TYPES {
        if !is_set(volume, field) {
            continue;
        }
        let source = &volume[field];
        if found {
            report.forbidden(&at.field(second), "may not specify more than 1 volume type");
        } else {
            found = true;
            let source_at = at.field(own);
            match field {
                "projected" => projected::check(source, &source_at, options, report),
                "image" => image(source, &source_at, options, report),
                "ephemeral" => claim_template::ephemeral(source, &source_at, report),
                _ => check(source, &source_at, report),
            }
            if field == "ephemeral" && !pod.is_empty() && !name.is_empty() {
                let claim = format!("{pod}-{name}");
                let claim_name = quoted(&claim);
                for problem in names::dns1123_subdomain(&claim) {
                    report.invalid(&at.field("name"), name, format!("PVC name {claim_name}: {problem}"));
                }
            }
        }
        if field == "iscsi" && is_set(source, "initiatorName") {
            let target = text(source, "targetPortal");
            if name.len() + 1 + target.len() > 64 {
                let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
                report.invalid(&at.field("name"), name, detail);
            }
        }
    }
    if !found {
        report.required(at, "must specify a volume type");
    }
}

fn required(source: &Value, fields: &[&str], at: &At<'_>, report: &mut Report) {
    for field in fields {
        report.required_text(&at.field(field), text(source, field));
    }
}

fn required_list(source: &Value, field: &str, at: &At<'_>, report: &mut Report) {
    if items(source, field).is_empty() {
        report.required(&at.field(field), "");
    }
}

fn secret_reference(source: &Value, field: &str, at: &At<'_>, report: &mut Report) {
    if is_set(source, field) {
        report.required_text(&at.field(field).field("name"), text(&source[field], "name"));
    }
}

fn partition(source: &Value, at: &At<'_>, report: &mut Report) {
    let partition = number(source, "partition");
    if !(0..=255).contains(&partition) {
        report.invalid(&at.field("partition"), partition, names::range_error(1, 255));
    }
}

fn empty_dir(source: &Value, at: &At<'_>, report: &mut Report) {
    if quantity(&source["sizeLimit"]).sign() < 0 {
        report.forbidden(&at.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(source: &Value, at: &At<'_>, report: &mut Report) {
    let path = text(source, "path");
    if path.is_empty() {
        return report.required(&at.field("path"), "");
    }
    report.no_backsteps(&at.field("path"), path);
    if let Some(kind) = optional_text(source, "type") {
        let kinds =
            ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
        report.one_of(&at.field("type"), kind, &kinds);
    }
}

fn git_repo(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["repository"], at, report);
    report.descending_path(&at.field("directory"), text(source, "directory"));
}

fn gce_disk(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["pdName"], at, report);
    partition(source, at, report);
}

fn aws_disk(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["volumeID"], at, report);
    partition(source, at, report);
}

fn keyed_files(source: &Value, name: &str, at: &At<'_>, report: &mut Report) {
    required(source, &[name], at, report);
    report.file_mode(&at.field("defaultMode"), optional_number(source, "defaultMode"));
    let items_at = at.field("items");
    for (index, item) in items(source, "items").iter().enumerate() {
        key_to_path(item, &items_at.index(index), report);
    }
}

/// A key that becomes a file.
pub(super) fn key_to_path(item: &Value, at: &At<'_>, report: &mut Report) {
    required(item, &["key", "path"], at, report);
    report.non_reserved_path(&at.field("path"), text(item, "path"));
    report.file_mode(&at.field("mode"), optional_number(item, "mode"));
}

fn secret(source: &Value, at: &At<'_>, report: &mut Report) {
    keyed_files(source, "secretName", at, report);
}

fn config_map(source: &Value, at: &At<'_>, report: &mut Report) {
    keyed_files(source, "name", at, report);
}

fn downward_api(source: &Value, at: &At<'_>, report: &mut Report) {
    report.file_mode(&at.field("defaultMode"), optional_number(source, "defaultMode"));
    for file in items(source, "items") {
        projected::downward_file(file, at, report);
    }
}

fn nfs(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["server", "path"], at, report);
    let path = text(source, "path");
    if !path.starts_with('/') {
        report.invalid(&at.field("path"), path, "must be an absolute path");
    }
}

/// Whether an iSCSI name has the form of its kind (RFC 3720).
fn is_iscsi_name(name: &str) -> bool {
    let alphanumeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name.get(..3) {
        Some("iqn") => {
            let form = || {
                let (date, rest) = name.strip_prefix("iqn.")?.split_once('.')?;
                let (year, month) = date.split_once('-')?;
                let (authority, unique) = rest.split_once(':')?;
                let domain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
                let valid = year.len() == 4
                    && month.len() == 2
                    && all_digits(year)
                    && all_digits(month)
                    && !authority.is_empty()
                    && authority.bytes().all(domain)
                    && !unique.is_empty()
                    && !unique.chars().any(|c| ",;*&$|".contains(c) || c.is_whitespace());
                Some(valid)
            };
            form().unwrap_or(false)
        }
        Some("eui") => name.len() == 20 && name.get(4..).is_some_and(alphanumeric),
        Some("naa") => name.len() == 36 && name.get(4..).is_some_and(alphanumeric),
        _ => false,
    }
}

fn iscsi_name(name: &str, at: &At<'_>, report: &mut Report) {
    if !["iqn", "eui", "naa"].iter().any(|prefix| name.starts_with(prefix)) {
        report.invalid(at, name, "must be valid format starting with iqn, eui, or naa");
    } else if !is_iscsi_name(name) {
        report.invalid(at, name, "must be valid format");
    }
}

fn iscsi(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["targetPortal"], at, report);
    match text(source, "iqn") {
        "" => report.required(&at.field("iqn"), ""),
        name => iscsi_name(name, &at.field("iqn"), report),
    }
    lun(number(source, "lun"), at, report);
    let authenticated = flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession");
    if authenticated && !is_set(source, "secretRef") {
        report.required(&at.field("secretRef"), "");
    }
    if let Some(name) = optional_text(source, "initiatorName") {
        iscsi_name(name, &at.field("initiatorname"), report);
    }
}

fn lun(lun: i64, at: &At<'_>, report: &mut Report) {
    for problem in names::in_range(lun, 0, 255) {
        report.invalid(&at.field("lun"), lun, problem);
    }
}

fn fibre_channel(source: &Value, at: &At<'_>, report: &mut Report) {
    let (targets, ids) = (items(source, "targetWWNs"), items(source, "wwids"));
    let targets_at = at.field("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        report.required(&targets_at, "must specify either targetWWNs or wwids, but not both");
    }
    if !targets.is_empty() && !ids.is_empty() {
        report.invalid(&targets_at, targets.to_vec(), "targetWWNs and wwids can not be specified simultaneously");
    }
    if !targets.is_empty() {
        match optional_number(source, "lun") {
            None => report.required(&at.field("lun"), "lun is required if targetWWNs is specified"),
            Some(number) => lun(number, at, report),
        }
    }
}

fn flocker(source: &Value, at: &At<'_>, report: &mut Report) {
    let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && id.is_empty() {
        report.required(at, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        report.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        report.invalid(&at.field("datasetName"), name, "must not contain '/'");
    }
}

fn rbd(source: &Value, at: &At<'_>, report: &mut Report) {
    required_list(source, "monitors", at, report);
    required(source, &["image"], at, report);
}

fn cinder(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["volumeID"], at, report);
    secret_reference(source, "secretRef", at, report);
}

fn quobyte(source: &Value, at: &At<'_>, report: &mut Report) {
    let registry = text(source, "registry");
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        report.required(&at.field("registry"), detail);
    } else if text(source, "tenant").len() >= 65 {
        report.required(&at.field("tenant"), "must be a UUID and may not exceed a length of 64 characters");
    } else {
        let is_pair = |pair: &str| {
            pair.rsplit_once(':')
                .is_some_and(|(host, _)| !host.contains(':') || host.starts_with('[') && host.ends_with(']'))
        };
        for _ in registry.split(',').filter(|pair| !is_pair(pair)) {
            report.invalid(&at.field("registry"), registry, detail);
        }
    }
    required(source, &["volume"], at, report);
}

fn flex(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["driver"], at, report);
    for (key, _) in entries(source, "options") {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace).to_lowercase();
        let reserved = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
        if reserved("kubernetes.io") || reserved("k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            report.invalid(&at.field("options").key(key), key, detail);
        }
    }
}

fn azure_disk(source: &Value, at: &At<'_>, report: &mut Report) {
    required(source, &["diskName", "diskURI"], at, report);
    let (uri, kind) = (text(source, "diskURI"), optional_text(source, "kind"));
    if let Some(mode) = optional_text(source, "cachingMode") {
        report.one_of(&at.field("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]);
    }
    if let Some(kind) = kind {
        report.one_of(&at.field("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    }
    let form = match kind {
        Some("Managed") if !uri.starts_with("/subscriptions/") => {
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
        }
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
        }
        _ => return,
    };
    report.not_supported(&at.field("diskURI"), uri, &[form]);
}

fn storage_os(source: &Value, at: &At<'_>, report: &mut Report) {
    match text(source, "volumeName") {
        "" => report.required(&at.field("volumeName"), ""),
        name => report.dns_label(&at.field("volumeName"), name),
    }
    match text(source, "volumeNamespace") {
        "" => {}
        namespace => report.dns_label(&at.field("volumeNamespace"), namespace),
    }
    secret_reference(source, "secretRef", at, report);
}

fn csi(source: &Value, at: &At<'_>, report: &mut Report) {
    let driver = text(source, "driver");
    let driver_at = at.field("driver");
    report.required_text(&driver_at, driver);
    if driver.len() > 63 {
        report.too_long(&driver_at, 63);
    }
    report.problems(&driver_at, driver, names::dns1123_subdomain(&driver.to_lowercase()));
    if is_set(source, "nodePublishSecretRef") {
        match text(&source["nodePublishSecretRef"], "name") {
            "" => report.required(&at.field("nodePublishSecretRef").field("name"), ""),
            name => report.dns_subdomain(&at.field("name"), name),
        }
    }
}

fn image(source: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    if options.is_pod {
        required(source, &["reference"], at, report);
    }
    super::containers::pull_policy(text(source, "pullPolicy"), &at.field("pullPolicy"), report);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::at::At;
    use super::*;

    fn complaints(volume: Value) -> Vec<String> {
        let mut report = Report::default();
        let spec = json!({"volumes": [volume]});
        check(&spec, "pod", &At::root("v"), &Options::for_create(true), &mut report);
        report.into_errors().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sources_are_checked() {
        let cases: &[(Value, &[&str])] = &[
            (json!({"name": "a", "emptyDir": {"sizeLimit": "1Gi"}}), &[]),
            (json!({"name": "a"}), &["v[0]: Required value: must specify a volume type"]),
            (
                json!({"name": "A_", "hostPath": {"path": "/a/../b", "type": "Sock"}}),
                &[
                    "v[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                    "v[0].hostPath.type: Unsupported value: \"Sock\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                    "v[0].name: Invalid value: \"A_\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                json!({"name": "a", "nfs": {"server": "", "path": "x"}, "csi": {"driver": "d"}}),
                &[
                    "v[0].nfs.server: Required value",
                    "v[0].nfs.path: Invalid value: \"x\": must be an absolute path",
                    "v[0].csi: Forbidden: may not specify more than 1 volume type",
                ],
            ),
            (
                json!({"name": "a", "iscsi": {"targetPortal": "p", "iqn": "iqn.2015-02.example.com:test", "lun": 1}}),
                &[],
            ),
            (
                json!({"name": "a", "iscsi": {"targetPortal": "p", "iqn": "iqn.x", "lun": 256, "chapAuthSession": true}}),
                &[
                    "v[0].iscsi.iqn: Invalid value: \"iqn.x\": must be valid format",
                    "v[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                    "v[0].iscsi.secretRef: Required value",
                ],
            ),
            (
                json!({"name": "a", "secret": {"secretName": "s", "defaultMode": 512, "items": [{"key": "k", "path": "../x"}]}}),
                &[
                    "v[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                    "v[0].secret.items[0].path: Invalid value: \"../x\": must not contain '..'",
                ],
            ),
            (
                json!({"name": "a", "flexVolume": {"driver": "d", "options": {"a.k8s.io/x": ""}}}),
                &[
                    "v[0].flexVolume.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
        ];
        for (volume, expect) in cases {
            assert_eq!(complaints(volume.clone()), *expect);
        }
    }
}
