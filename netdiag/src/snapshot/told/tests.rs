use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::*;
use crate::event::Stack;

#[test]
fn kinds_and_their_fields_have_names_of_their_own() {
    let mut names: Vec<_> = kinds().map(|kind| kind.name).collect();
    names.extend(["suppressed", "end"]);
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "{names:?}");
    for kind in kinds() {
        let mut fields: Vec<_> = kind.fields.iter().map(|field| field.name).collect();
        fields.extend(["schema", "kind", "time", "flow", "stack"]);
        let distinct: BTreeSet<_> = fields.iter().collect();
        assert_eq!(distinct.len(), fields.len(), "{}: {fields:?}", kind.name);
    }
}

fn telling(stack: Option<Option<Vec<u64>>>) -> Telling {
    const KIND: Kind = Kind {
        name: "sample",
        help: "",
        fields: &[
            Field::new("where", "", Form::Text, Shown::Bare),
            Field::new("why", "", Form::Text, Shown::Bare),
            Field::new("n", "", Form::Number, Shown::Bare),
        ],
        has_stack: true,
        has_packet: false,
        counted: &[],
    };
    let values = vec![Value::Place(16), Value::Reason(3), Value::Unknown];
    Telling {
        time: SystemTime::UNIX_EPOCH + Duration::from_micros(7),
        told: Told { kind: &KIND, time_ns: 0, events: 1, values, stack: Stack::None, packet: None },
        flow: Frozen { id: 12, pid: Some(7), ..Frozen::default() },
        stack,
    }
}

fn event(telling: &Telling, places: &[(u64, Option<&str>)]) -> serde_json::Value {
    let labels =
        Labels { reasons: BTreeMap::from([(3, "NO_SOCKET".to_owned())]), ..Labels::default() };
    let places = places.iter().map(|(at, name)| (*at, name.map(str::to_owned))).collect();
    let names = Names { labels: &labels, places: &places, signals: &[] };
    serde_json::to_value(names.event(telling)).expect("JSON")
}

#[test]
fn values_are_named_and_the_unknown_is_null() {
    let known = event(&telling(None), &[(16, Some("nf_hook_slow+0x4"))]);
    assert_eq!(known["where"], "nf_hook_slow+0x4");
    assert_eq!(known["why"], "NO_SOCKET");
    assert_eq!(known["time"], "1970-01-01T00:00:00.000007000Z");
    assert_eq!((&known["flow"]["id"], &known["flow"]["owner"]["pid"]), (&json!("f12"), &json!(7)));
    let unknown = event(&telling(None), &[]);
    assert_eq!((&unknown["where"], &unknown["n"]), (&json!(null), &json!(null)));
    assert!(unknown.as_object().expect("an object").contains_key("n"));
    assert!(!unknown.as_object().expect("an object").contains_key("stack"));
}

#[test]
fn a_stack_begins_behind_the_tracing() {
    let places = [
        (1, None),
        (2, Some("bpf_trace_run4+0x8")),
        (3, Some("__traceiter_kfree_skb+0x8")),
        (4, Some("nf_hook_slow+0x8")),
        (5, None),
        (6, Some("ip_rcv+0x8")),
    ];
    let stack =
        |addresses: Option<Vec<u64>>| event(&telling(Some(addresses)), &places)["stack"].take();
    let named = json!(["nf_hook_slow+0x8", null, "ip_rcv+0x8"]);
    assert_eq!(stack(Some(vec![1, 2, 3, 4, 5, 6])), named);
    assert_eq!(stack(Some(vec![5, 1])), json!(null), "nothing has a name");
    assert_eq!(stack(None), json!(null), "not taken");
    let places: Vec<_> = telling(Some(Some(vec![4, 6]))).places().collect();
    assert_eq!(places, [16, 4, 6]);
}
