//! Snapshots and reports of `testdata/`, for the tests of the views.

use serde::de::DeserializeOwned;

/// Reads `testdata/NAME.json`.
pub(super) fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/src/view/testdata/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect(&path)
}
