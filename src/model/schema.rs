//! The JSON Schema of a topology file, so that editors complete and check it.

use super::topology::File;

/// JSON Schema (draft 2020-12) of a file; its descriptions are the reference of the format.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(File).to_value()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_key_is_described() {
        let schema = super::schema();
        let tables = schema["$defs"].as_object().expect("definitions").values().chain([&schema]);
        for table in tables {
            for (key, value) in table["properties"].as_object().into_iter().flatten() {
                assert!(value["description"].is_string(), "{key} has no description");
            }
            assert_eq!(table["additionalProperties"], false, "unknown keys are refused: {table}");
        }
    }
}
