//! The schemas in `docs/schema`: generated from the types, and true of what is written.

use std::{fs, path::PathBuf};

use schemars::{JsonSchema, Schema, schema_for};
use serde_json::{Value, json};

use super::{dump::Sidecar, sample};
use crate::snapshot::{Doctor, Snapshot};

/// Files in `docs/schema` and the `schema` that objects of that form carry.
const SCHEMAS: [(&str, &str); 4] = [
    ("snapshot-1.json", "netdiag.snapshot/1"),
    ("total-1.json", "netdiag.total/1"),
    ("doctor-1.json", "netdiag.doctor/1"),
    ("record-1.json", "netdiag.snapshot/1"),
];

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schema").join(file)
}

fn generated<T: JsonSchema>(title: &str, name: &str) -> Value {
    let mut schema: Schema = schema_for!(T);
    schema.insert("title".to_owned(), json!(title));
    let mut schema = schema.to_value();
    schema["properties"]["schema"]["const"] = json!(name);
    schema
}

fn schema(file: &str, name: &str) -> Value {
    match file {
        "doctor-1.json" => generated::<Doctor>("netdiag doctor -o json", name),
        "record-1.json" => generated::<Sidecar<'_>>("a line of netdiag record's .jsonl", name),
        "total-1.json" => generated::<Snapshot>("the last line of netdiag live -d -o json", name),
        _ => generated::<Snapshot>("a line of netdiag live -o json", name),
    }
}

#[test]
fn schemas_are_generated_from_the_types() {
    let bless = std::env::var_os("NETDIAG_BLESS").is_some();
    for (file, name) in SCHEMAS {
        let mut expected = serde_json::to_string_pretty(&schema(file, name)).expect("schema");
        expected.push('\n');
        if bless {
            fs::create_dir_all(path("")).expect("docs/schema");
            fs::write(path(file), &expected).expect(file);
        }
        let found = fs::read_to_string(path(file)).unwrap_or_default();
        assert!(
            found == expected,
            "docs/schema/{file} differs from the types; regenerate it by \
             `NETDIAG_BLESS=1 cargo test -p netdiag --lib schema`"
        );
    }
}

/// Against what the file holds, by the test above: the file itself may just be written anew.
fn check(file: &str, value: &Value) -> Result<(), String> {
    let (_, name) = SCHEMAS.iter().find(|(known, _)| *known == file).expect(file);
    let validator = jsonschema::validator_for(&schema(file, name)).expect(file);
    let errors: Vec<String> = validator.iter_errors(value).map(|e| e.to_string()).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

#[test]
fn what_is_written_matches_its_schema() {
    for (file, sample) in
        [("snapshot-1.json", "ipv4"), ("snapshot-1.json", "lossy"), ("total-1.json", "total")]
    {
        let snapshot: Snapshot = sample::read(sample);
        let value = serde_json::to_value(&snapshot).expect(sample);
        assert_eq!(check(file, &value), Ok(()), "{sample}");
        assert_eq!(value, sample::read::<Value>(sample), "{sample} does not survive a round trip");
        let tags = [("f1".to_owned(), "1".to_owned())].into();
        if file == "snapshot-1.json" {
            let value = serde_json::to_value(Sidecar { snapshot: &snapshot, tags });
            assert_eq!(check("record-1.json", &value.expect(sample)), Ok(()), "{sample}");
        }
    }
    for sample in ["doctor-full", "doctor-degraded"] {
        let doctor: Doctor = sample::read(sample);
        let value = serde_json::to_value(&doctor).expect(sample);
        assert_eq!(check("doctor-1.json", &value), Ok(()), "{sample}");
    }
}

#[test]
fn what_is_wrong_does_not() {
    let right: Value = sample::read("ipv4");
    let spoil: [fn(&mut Value); 4] = [
        |value| value["schema"] = json!("netdiag.snapshot/2"),
        |value| value["complete"] = json!(null),
        |value| value["flows"][0]["id"] = json!(1),
        |value| drop(value.as_object_mut().map(|fields| fields.remove("accounting"))),
    ];
    for (at, spoil) in spoil.iter().enumerate() {
        let mut wrong = right.clone();
        spoil(&mut wrong);
        assert!(check("snapshot-1.json", &wrong).is_err(), "case {at} passes");
    }
}
