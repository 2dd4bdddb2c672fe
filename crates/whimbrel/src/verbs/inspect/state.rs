//! What a machine's saved state says.

use super::cbor::to_json;
use crate::exit::Exit;
use crate::output::print_line;
use serde_json::{Value, json};
use snapshot::Reader;
use state::{Bundle, Payload};

/// `whimbrel inspect FILE --state`
pub fn run(reader: &Reader) -> anyhow::Result<Exit> {
    let all = json!({ "description": told(reader.description()), "state": told(reader.state()) });
    print_line(&serde_json::to_string_pretty(&all)?);
    Ok(Exit::Done)
}

fn told(bytes: &[u8]) -> Value {
    match Bundle::decode(bytes) {
        Ok(bundle) => bundle.payloads().iter().map(payload).collect(),
        Err(error) => json!({ "malformed": error.to_string() }),
    }
}

fn payload(payload: &Payload) -> Value {
    let Payload { schema, instance, version, least_reader, data, in_use } = payload;
    let mut told = json!({
        "schema": schema,
        "instance": instance,
        "version": version,
        "least_reader": least_reader,
        "length": data.len(),
        "fields": to_json(data),
    });
    if let Some(field) = in_use {
        told["in_use"] = json!(field);
    }
    told
}
