//! Saved state as JSON, without knowing its schema: fields have numbers.

use minicbor::Decoder;
use minicbor::data::Type;
use minicbor::decode::Error;
use serde_json::{Map, Value, json};

/// Most bytes that are shown of a run of bytes.
const SHOWN: usize = 64;
/// Deeper than this, nothing that we write is.
const DEEPEST: u32 = 32;

/// What these bytes say. Whatever is left of them that is not CBOR is named.
pub fn to_json(bytes: &[u8]) -> Value {
    let mut decoder = Decoder::new(bytes);
    match value(&mut decoder, 0) {
        Ok(value) if decoder.position() == bytes.len() => value,
        Ok(value) => json!({ "value": value, "trailing": bytes.len() - decoder.position() }),
        Err(error) => json!({ "malformed": error.to_string() }),
    }
}

fn value(decoder: &mut Decoder<'_>, depth: u32) -> Result<Value, Error> {
    if depth > DEEPEST {
        return Err(Error::message("nested too deeply"));
    }
    Ok(match decoder.datatype()? {
        Type::Bool => decoder.bool()?.into(),
        Type::Null => decoder.null().map(|()| Value::Null)?,
        Type::Undefined => decoder.undefined().map(|()| Value::Null)?,
        Type::F32 => decoder.f32()?.into(),
        Type::F64 => decoder.f64()?.into(),
        Type::Simple => decoder.simple()?.into(),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64()?.into(),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => integer(decoder)?,
        Type::String => decoder.str()?.into(),
        Type::StringIndef => decoder.str_iter()?.collect::<Result<Vec<_>, _>>()?.concat().into(),
        Type::Bytes => hex(decoder.bytes()?).into(),
        Type::BytesIndef => {
            hex(&decoder.bytes_iter()?.collect::<Result<Vec<_>, _>>()?.concat()).into()
        }
        Type::Array | Type::ArrayIndef => {
            let mut items = Vec::new();
            let length = decoder.array()?;
            each(decoder, length, |decoder| {
                items.push(value(decoder, depth + 1)?);
                Ok(())
            })?;
            items.into()
        }
        Type::Map | Type::MapIndef => {
            let mut fields = Map::new();
            let length = decoder.map()?;
            each(decoder, length, |decoder| {
                let key = match value(decoder, depth + 1)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                fields.insert(key, value(decoder, depth + 1)?);
                Ok(())
            })?;
            fields.into()
        }
        Type::Tag => {
            decoder.tag()?;
            value(decoder, depth + 1)?
        }
        other => return Err(Error::message(format!("{other} is not expected here"))),
    })
}

/// Reads so many entries, or those up to the break.
fn each<'b>(
    decoder: &mut Decoder<'b>,
    length: Option<u64>,
    mut entry: impl FnMut(&mut Decoder<'b>) -> Result<(), Error>,
) -> Result<(), Error> {
    match length {
        // A length that lies ends with the bytes.
        Some(length) => (0..length).try_for_each(|_| entry(decoder)),
        None => {
            while decoder.datatype()? != Type::Break {
                entry(decoder)?;
            }
            decoder.skip()
        }
    }
}

/// JSON has no integers below those of 64 bits.
fn integer(decoder: &mut Decoder<'_>) -> Result<Value, Error> {
    let number = i128::from(decoder.int()?);
    Ok(i64::try_from(number).map_or_else(|_| number.to_string().into(), Value::from))
}

/// The bytes in hexadecimal, or the first of them and how many there are.
fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    match bytes.len() {
        0..=SHOWN => format!("0x{shown}"),
        length => format!("0x{shown}… ({length} bytes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minicbor::{Encode, Encoder};
    use proptest::prelude::*;

    #[derive(Encode)]
    #[cbor(map)]
    struct Thing {
        #[n(0)]
        count: u32,
        #[n(2)]
        below: i64,
        #[n(3)]
        names: Vec<String>,
        #[n(4)]
        #[cbor(with = "minicbor::bytes")]
        data: Vec<u8>,
        #[n(5)]
        on: Option<bool>,
    }

    #[test]
    fn saved_fields_are_told_by_their_numbers() {
        let names = vec!["a".to_owned()];
        let thing = Thing { count: 7, below: -9, names, data: vec![1, 0xff], on: Some(true) };
        let value = to_json(&minicbor::to_vec(thing).unwrap());
        assert_eq!(value, json!({ "0": 7, "2": -9, "3": ["a"], "4": "0x01ff", "5": true }));
    }

    #[test]
    fn long_bytes_are_cut_and_what_follows_is_named() {
        let mut bytes = Vec::new();
        Encoder::new(&mut bytes).bytes(&[0xab; 65]).unwrap();
        let text = to_json(&bytes).to_string();
        assert!(text.contains("… (65 bytes)"), "{text}");
        assert_eq!(to_json(&[1, 2]), json!({ "value": 1, "trailing": 1 }));
        assert!(to_json(&[0x81; 5000]).to_string().contains("malformed"));
    }

    #[test]
    fn what_has_no_length_ends_with_a_break() {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        encoder.begin_array().unwrap().u8(1).unwrap().begin_map().unwrap();
        encoder.str("k").unwrap().null().unwrap().end().unwrap().end().unwrap();
        assert_eq!(to_json(&bytes), json!([1, { "k": null }]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_told(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = to_json(&bytes);
        }
    }
}
