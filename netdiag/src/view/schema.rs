//! The schemas in `docs/schema`: generated from the types, and true of what is written.

use std::{collections::BTreeMap, fs, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, schema_for};
use serde_json::{Value, json};

use super::{dump::Sidecar, sample};
use crate::{
    diagnosis::{self, Report},
    event::{Form, Kind},
    report,
    snapshot::{
        CountValue, Doctor, Endpoint, Owner, Snapshot, Tuple,
        told::{self, End, EventFlow, Suppressed},
    },
};

/// Files in `docs/schema` and the `schema` that objects of that form carry.
const SCHEMAS: [(&str, &str); 7] = [
    ("snapshot-1.json", "netdiag.snapshot/1"),
    ("total-1.json", "netdiag.total/1"),
    ("doctor-1.json", "netdiag.doctor/1"),
    ("record-1.json", "netdiag.snapshot/1"),
    ("event-1.json", told::SCHEMA),
    ("diagnose-1.json", diagnosis::SCHEMA),
    ("report-1.json", report::told::SCHEMA),
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

/// One object for each kind of event, by its fields, and those that tell of the stream.
fn events(name: &str) -> Value {
    let mut generator = SchemaGenerator::default();
    let flow = generator.subschema_for::<EventFlow>().to_value();
    let counts = generator.subschema_for::<BTreeMap<String, CountValue>>().to_value();
    let owner = generator.subschema_for::<Option<Owner>>().to_value();
    let endpoint = generator.subschema_for::<Option<Endpoint>>().to_value();
    let tuple = generator.subschema_for::<Option<Tuple>>().to_value();
    let one = |kind: &Kind| {
        let mut properties = json!({
            "schema": {"const": name},
            "kind": {"const": kind.name},
            "time": {"description": "when it happened, RFC 3339 UTC", "type": "string"},
            "flow": flow.clone(),
        });
        for field in kind.fields {
            let mut schema = match field.form {
                Form::Number => json!({"type": ["integer", "null"], "minimum": 0}),
                Form::Text => json!({"type": ["string", "null"]}),
                Form::Flag => json!({"type": ["boolean", "null"]}),
                Form::Owner => owner.clone(),
                Form::Endpoint => endpoint.clone(),
                Form::Tuple => tuple.clone(),
                Form::Counts => counts.clone(),
            };
            schema["description"] = json!(field.help);
            properties[field.name] = schema;
        }
        let required: Vec<String> =
            properties.as_object().expect("an object").keys().cloned().collect();
        if kind.has_stack {
            properties["stack"] = json!({
                "description": "with --stack: functions of the kernel from the innermost on, null \
                    for one without a name; null where it could not be taken or named",
                "type": ["array", "null"],
                "items": {"type": ["string", "null"]},
            });
        }
        json!({
            "description": kind.help,
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    };
    let mut all: Vec<Value> = told::kinds().map(one).collect();
    for (kind, mut schema) in [
        ("suppressed", Suppressed::json_schema(&mut generator).to_value()),
        ("end", End::json_schema(&mut generator).to_value()),
    ] {
        schema["properties"]["schema"] = json!({"const": name});
        schema["properties"]["kind"] = json!({"const": kind});
        all.push(schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a line of netdiag events -o json",
        "oneOf": all,
        "$defs": generator.take_definitions(true),
    })
}

fn schema(file: &str, name: &str) -> Value {
    match file {
        "doctor-1.json" => generated::<Doctor>("netdiag doctor -o json", name),
        "record-1.json" => generated::<Sidecar<'_>>("a line of netdiag record's .jsonl", name),
        "event-1.json" => events(name),
        "diagnose-1.json" => generated::<Report>("netdiag diagnose -o json", name),
        "report-1.json" => generated::<report::Report>("netdiag report -o json", name),
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
pub(super) fn check(file: &str, value: &Value) -> Result<(), String> {
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
