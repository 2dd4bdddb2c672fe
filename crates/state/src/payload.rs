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
    /// The least version of the schema that a reader must know to load what this build writes, whatever
    /// is in it. Raised only when an older reader, skipping the fields it does not know, would always go
    /// wrong; where it depends on what they hold, [`Self::in_use`] says so.
    const LEAST_READER: u16;

    /// Which field of this value no reader may skip that is older than the field, if there is one: a field
    /// that was added after [`Self::LEAST_READER`], and holds what it would never hold if nobody had used
    /// what is new. Where there are several, the youngest.
    fn in_use(&self) -> Option<InUse> {
        None
    }
}

/// A field that is in use, and that older readers must not skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// What people call it.
    pub field: &'static str,
    /// The version of the schema that it was added in.
    pub since: u16,
}

/// What a reader has to know of a payload before it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// [`Saved::SCHEMA`].
    pub schema: String,
    /// [`Saved::VERSION`].
    pub version: u16,
    /// [`Payload::least_reader`].
    pub least_reader: u16,
    /// [`Payload::in_use`].
    pub in_use: Option<String>,
}

impl Declared {
    /// That of values which nobody can look at yet, and of which no [field](Saved::in_use) counts as in
    /// use: one that is in the end is found when it is loaded.
    #[must_use]
    pub fn of<S: Saved>() -> Self {
        Self {
            schema: S::SCHEMA.to_owned(),
            version: S::VERSION,
            least_reader: S::LEAST_READER,
            in_use: None,
        }
    }
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
    /// [`Saved::LEAST_READER`] of the build that wrote it, or [`InUse::since`] if that is more.
    #[n(3)]
    pub least_reader: u16,
    /// The value, in CBOR.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub data: Vec<u8>,
    /// The field because of which `least_reader` is what it is, if it is for a [field](InUse::field).
    #[n(5)]
    pub in_use: Option<String>,
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
        "{schema} {instance}: written as version {version}{}, which needs a reader of version \
         {needed} or later; this build reads version {known}", used(.in_use)
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
        /// What it asks for it for, if it is for one field.
        in_use: Option<String>,
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

fn used(field: &Option<String>) -> String {
    field.as_ref().map(|field| format!(" with `{field}` in use")).unwrap_or_default()
}

impl Payload {
    /// Encodes `value` as the state of `instance`.
    #[must_use]
    pub fn pack<S: Saved>(instance: impl Into<String>, value: &S) -> Self {
        let in_use = value.in_use().filter(|used| used.since > S::LEAST_READER);
        Self {
            schema: S::SCHEMA.to_owned(),
            instance: instance.into(),
            version: S::VERSION,
            least_reader: in_use.map_or(S::LEAST_READER, |used| used.since),
            data: minicbor::to_vec(value).expect("writing to a Vec does not fail"),
            in_use: in_use.map(|used| used.field.to_owned()),
        }
    }

    /// What a reader has to know of it before it comes.
    #[must_use]
    pub fn declared(&self) -> Declared {
        Declared {
            schema: self.schema.clone(),
            version: self.version,
            least_reader: self.least_reader,
            in_use: self.in_use.clone(),
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
                in_use: self.in_use.clone(),
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

        fn in_use(&self) -> Option<InUse> {
            self.b.filter(|b| *b != 0).map(|_| InUse { field: "b", since: 2 })
        }
    }

    #[test]
    fn an_older_reader_skips_an_optional_field() {
        for b in [None, Some(0)] {
            let p = Payload::pack("x", &New { a: 7, b });
            assert_eq!(p.declared(), Declared::of::<New>());
            assert_eq!(p.unpack::<Old>(), Ok(Old { a: 7 }));
        }
    }

    #[test]
    fn an_older_reader_refuses_a_field_that_is_in_use_by_its_name() {
        let p = Payload::pack("x", &New { a: 7, b: Some(9) });
        assert_eq!(p.declared().in_use.as_deref(), Some("b"));
        let error = p.unpack::<Old>().unwrap_err();
        assert!(matches!(error, LoadError::TooNew { version: 2, needed: 2, known: 1, .. }));
        assert!(error.to_string().contains("version 2 with `b` in use"), "{error}");
        assert_eq!(p.unpack::<New>(), Ok(New { a: 7, b: Some(9) }));
    }

    /// A reader whose versions begin where the others' end.
    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Newest {
        #[n(0)]
        a: u32,
    }
    impl Saved for Newest {
        const SCHEMA: &'static str = "test.thing";
        const VERSION: u16 = 4;
        const LEAST_READER: u16 = 3;

        fn in_use(&self) -> Option<InUse> {
            Some(InUse { field: "a", since: 2 })
        }
    }

    #[test]
    fn a_field_that_every_reader_knows_makes_no_difference() {
        let p = Payload::pack("x", &Newest { a: 7 });
        assert_eq!((p.least_reader, &p.in_use), (3, &None));
    }

    #[test]
    fn payloads_are_written_as_the_document_says() {
        let document = include_str!("../../../docs/snapshot-format.md");
        for b in [None, Some(9)] {
            let bytes = minicbor::to_vec(Payload::pack("x", &New { a: 7, b })).unwrap();
            let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let hex = hex.join(" ");
            assert!(document.contains(&format!("`{hex}`")), "docs/snapshot-format.md: no {hex}");
            let read: Payload = minicbor::decode(&bytes).unwrap();
            assert_eq!(read.unpack::<New>(), Ok(New { a: 7, b }));
        }
    }

    #[test]
    fn a_newer_reader_finds_an_added_field_absent() {
        let p = Payload::pack("x", &Old { a: 7 });
        assert_eq!(p.unpack::<New>(), Ok(New { a: 7, b: None }));
    }

    #[test]
    fn a_reader_refuses_what_it_must_not_skip() {
        let mut p = Payload::pack("x", &New { a: 7, b: None });
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
