//! All payloads of a machine, taken out one by one until none is left.

use crate::{LoadError, Payload, Saved};

/// Bounds what a peer or a file can make us keep in memory. 64 vCPUs with a handful of payloads
/// each, and every device there may ever be, stay far below it.
const MOST_PAYLOADS: u64 = 4096;

/// Everything that was saved of one machine apart from its RAM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    payloads: Vec<Payload>,
}

impl Bundle {
    /// An empty bundle.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a saved value.
    pub fn put<S: Saved>(&mut self, instance: impl Into<String>, value: &S) {
        self.payloads.push(Payload::pack(instance, value));
    }

    /// Adds a payload that is packed already.
    pub fn put_payload(&mut self, payload: Payload) {
        self.payloads.push(payload);
    }

    /// The payloads that have not been taken, in the order in which they were saved.
    #[must_use]
    pub fn payloads(&self) -> &[Payload] {
        &self.payloads
    }

    /// Takes out and decodes the value of this schema and instance.
    ///
    /// # Errors
    /// [`LoadError::Missing`] when there is none, or why it could not be decoded.
    pub fn take<S: Saved>(&mut self, instance: &str) -> Result<S, LoadError> {
        self.take_optional(instance)?.ok_or_else(|| LoadError::Missing {
            schema: S::SCHEMA.to_owned(),
            instance: instance.to_owned(),
        })
    }

    /// As [`Self::take`], but `None` where there is none.
    ///
    /// # Errors
    /// Why it could not be decoded.
    pub fn take_optional<S: Saved>(&mut self, instance: &str) -> Result<Option<S>, LoadError> {
        let found =
            self.payloads.iter().position(|p| p.schema == S::SCHEMA && p.instance == instance);
        found.map(|at| self.payloads.remove(at).unpack()).transpose()
    }

    /// Ends the loading: every payload must have been taken.
    ///
    /// # Errors
    /// [`LoadError::Unknown`] naming the first one that was not.
    pub fn finish(self) -> Result<(), LoadError> {
        match self.payloads.into_iter().next() {
            None => Ok(()),
            Some(p) => Err(LoadError::Unknown { schema: p.schema, instance: p.instance }),
        }
    }

    /// The bundle in CBOR: an array of payloads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(&self.payloads).expect("writing to a Vec does not fail")
    }

    /// Reads what [`Self::encode`] wrote. No allocation is larger than `bytes` warrants.
    ///
    /// # Errors
    /// [`LoadError`] when the bytes are malformed, a payload comes twice, or bytes follow the end.
    pub fn decode(bytes: &[u8]) -> Result<Self, LoadError> {
        let malformed = |reason: String| LoadError::Malformed {
            schema: "bundle".to_owned(),
            instance: String::new(),
            reason,
        };
        let mut decoder = minicbor::Decoder::new(bytes);
        let count = decoder
            .array()
            .map_err(|e| malformed(e.to_string()))?
            .ok_or_else(|| malformed("its array has no length".to_owned()))?;
        if count > MOST_PAYLOADS {
            return Err(malformed(format!("{count} payloads; at most {MOST_PAYLOADS} are read")));
        }
        let mut bundle = Self::new();
        for _ in 0..count {
            let payload: Payload = decoder.decode().map_err(|e| malformed(e.to_string()))?;
            let same = |p: &Payload| p.schema == payload.schema && p.instance == payload.instance;
            if bundle.payloads.iter().any(same) {
                return Err(LoadError::Duplicate {
                    schema: payload.schema,
                    instance: payload.instance,
                });
            }
            bundle.payloads.push(payload);
        }
        if decoder.position() != bytes.len() {
            return Err(malformed("bytes after its end".to_owned()));
        }
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minicbor::{Decode, Encode};

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Thing {
        #[n(0)]
        a: u32,
    }
    impl Saved for Thing {
        const SCHEMA: &'static str = "test.thing";
        const VERSION: u16 = 1;
        const LEAST_READER: u16 = 1;
    }

    fn two() -> Bundle {
        let mut b = Bundle::new();
        b.put("one", &Thing { a: 1 });
        b.put("two", &Thing { a: 2 });
        b
    }

    #[test]
    fn what_was_sent_must_be_consumed() {
        let mut b = Bundle::decode(&two().encode()).unwrap();
        assert_eq!(b.take::<Thing>("two"), Ok(Thing { a: 2 }));
        assert!(matches!(b.clone().finish(), Err(LoadError::Unknown { instance, .. })
            if instance == "one"));
        assert_eq!(b.take::<Thing>("one"), Ok(Thing { a: 1 }));
        b.finish().unwrap();
    }

    #[test]
    fn what_is_needed_must_have_been_sent() {
        assert!(matches!(two().take::<Thing>("three"), Err(LoadError::Missing { .. })));
    }

    #[test]
    fn a_payload_sent_twice_is_refused() {
        let mut b = two();
        b.put("one", &Thing { a: 3 });
        assert!(matches!(Bundle::decode(&b.encode()), Err(LoadError::Duplicate { .. })));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = two().encode();
        for len in 0..bytes.len() {
            assert!(Bundle::decode(&bytes[..len]).is_err(), "truncated to {len}");
        }
    }

    #[test]
    fn a_count_that_lies_allocates_nothing() {
        let bytes = [0x9b, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(Bundle::decode(&bytes), Err(LoadError::Malformed { .. })));
    }
}
