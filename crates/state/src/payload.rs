//! One saved value on its way from a source to a sink.

use minicbor::{Decode, Encode};

/// A saved type: what a device, a vCPU or the machine is, apart from RAM.
///
/// Runtime types are converted into it and back by exhaustive destructuring, so that a new field
/// does not compile until somebody has decided about it. Restoring is a constructor that checks.
pub trait Saved: Encode<()> + for<'b> Decode<'b, ()> {
    /// The schema's name, unique in the project, such as `whimbrel.uart16550`.
    const SCHEMA: &'static str;
    /// The version of the schema that this build writes. Raised whenever a field is added.
    const VERSION: u16;
    /// The least version of the schema that a reader must know to load what this build writes.
    /// Raised only when an older reader, skipping the fields it does not know, would go wrong.
    const LEAST_READER: u16;
}

/// An encoded [`Saved`] value with what is needed to decide whether it may be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Payload {
    /// [`Saved::SCHEMA`] of the value.
    #[n(0)]
    pub schema: String,
    /// Which of several of the same schema, such as `cpu3`. Empty where there is only one.
    #[n(1)]
    pub instance: String,
    /// [`Saved::VERSION`] of the build that wrote it.
    #[n(2)]
    pub version: u16,
    /// [`Saved::LEAST_READER`] of the build that wrote it.
    #[n(3)]
    pub least_reader: u16,
    /// The value, in CBOR.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub data: Vec<u8>,
}

/// Why a payload could not be loaded. The guest is where it was: loading comes before ownership.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    /// The sender has something that this build knows nothing about.
    #[error("{schema} {instance}: this build has no such state; use a build that knows it")]
    Unknown {
        /// Schema of the payload.
        schema: String,
        /// Instance of the payload.
        instance: String,
    },
    /// The machine needs this state and it did not come.
    #[error("{schema} {instance}: the state is missing from what was sent")]
    Missing {
        /// Schema that was looked for.
        schema: String,
        /// Instance that was looked for.
        instance: String,
    },
    /// The same state came twice.
    #[error("{schema} {instance}: the state was sent twice")]
    Duplicate {
        /// Schema of the payload.
        schema: String,
        /// Instance of the payload.
        instance: String,
    },
    /// Written by a build whose state this one must not load.
    #[error(
        "{schema} {instance}: written as version {version}, which needs a reader of version \
         {needed} or later; this build reads version {known}"
    )]
    TooNew {
        /// Schema of the payload.
        schema: String,
        /// Instance of the payload.
        instance: String,
        /// Version that was written.
        version: u16,
        /// Least reader version that it asks for.
        needed: u16,
        /// Version of this build.
        known: u16,
    },
    /// The bytes are not what the schema says.
    #[error("{schema} {instance}: the state is malformed: {reason}")]
    Malformed {
        /// Schema of the payload.
        schema: String,
        /// Instance of the payload.
        instance: String,
        /// What the decoder or the constructor said.
        reason: String,
    },
}

impl Payload {
    /// Encodes `value` as the state of `instance`.
    #[must_use]
    pub fn pack<S: Saved>(instance: impl Into<String>, value: &S) -> Self {
        Self {
            schema: S::SCHEMA.to_owned(),
            instance: instance.into(),
            version: S::VERSION,
            least_reader: S::LEAST_READER,
            data: minicbor::to_vec(value).expect("writing to a Vec does not fail"),
        }
    }

    /// Decodes the value, consuming every byte of it.
    ///
    /// # Errors
    /// [`LoadError`] when the schema differs, the version forbids it, or the bytes are malformed.
    pub fn unpack<S: Saved>(&self) -> Result<S, LoadError> {
        if self.schema != S::SCHEMA {
            return Err(LoadError::Unknown {
                schema: self.schema.clone(),
                instance: self.instance.clone(),
            });
        }
        if self.least_reader > S::VERSION {
            return Err(LoadError::TooNew {
                schema: self.schema.clone(),
                instance: self.instance.clone(),
                version: self.version,
                needed: self.least_reader,
                known: S::VERSION,
            });
        }
        let mut decoder = minicbor::Decoder::new(&self.data);
        let value = decoder.decode().map_err(|e| self.malformed(e))?;
        if decoder.position() != self.data.len() {
            return Err(self.malformed("bytes after its end"));
        }
        Ok(value)
    }

    /// A [`LoadError::Malformed`] that names this payload: for constructors that check a decoded
    /// value further.
    pub fn malformed(&self, reason: impl ToString) -> LoadError {
        LoadError::Malformed {
            schema: self.schema.clone(),
            instance: self.instance.clone(),
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Old {
        #[n(0)]
        a: u32,
    }
    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct New {
        #[n(0)]
        a: u32,
        #[n(1)]
        b: Option<u32>,
    }
    impl Saved for Old {
        const SCHEMA: &'static str = "test.thing";
        const VERSION: u16 = 1;
        const LEAST_READER: u16 = 1;
    }
    impl Saved for New {
        const SCHEMA: &'static str = "test.thing";
        const VERSION: u16 = 2;
        const LEAST_READER: u16 = 1;
    }

    #[test]
    fn an_older_reader_skips_an_optional_field() {
        let p = Payload::pack("x", &New { a: 7, b: Some(9) });
        assert_eq!(p.unpack::<Old>(), Ok(Old { a: 7 }));
    }

    #[test]
    fn a_newer_reader_finds_an_added_field_absent() {
        let p = Payload::pack("x", &Old { a: 7 });
        assert_eq!(p.unpack::<New>(), Ok(New { a: 7, b: None }));
    }

    #[test]
    fn a_reader_refuses_what_it_must_not_skip() {
        let mut p = Payload::pack("x", &New { a: 7, b: Some(9) });
        p.least_reader = 2;
        assert!(matches!(p.unpack::<Old>(), Err(LoadError::TooNew { needed: 2, known: 1, .. })));
    }

    #[test]
    fn every_byte_of_a_value_must_be_consumed() {
        let mut p = Payload::pack("x", &Old { a: 7 });
        p.data.push(0);
        assert!(matches!(p.unpack::<Old>(), Err(LoadError::Malformed { .. })));
        p.data.truncate(1);
        assert!(matches!(p.unpack::<Old>(), Err(LoadError::Malformed { .. })));
    }
}
