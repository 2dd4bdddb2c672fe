//! What it means to save, restore, or refuse to.
//!
//! A running machine is RAM plus *state*. This crate is the contract that every piece of state
//! keeps, and depends on nothing else of the project:
//!
//! * A saved type is a [`Saved`] type of its own, beside the device or vCPU that it belongs to,
//!   with a schema name and a version. Encoding is CBOR with numbered fields
//!   (`#[derive(minicbor::Encode, minicbor::Decode)] #[cbor(map)]`): an unknown field is skipped,
//!   a missing one that is not an `Option` is an error, a number is never used again for something
//!   else.
//! * A field that is added is an `Option`: older builds do not write it, and older builds read past it. While
//!   it is in [use](Saved::in_use) they refuse the value instead, by the field's name, and they are asked
//!   before the guest stops ([`Declared`]).
//! * A [`Payload`] is one such value on its way, and a [`Bundle`] all of them. Whatever was sent
//!   must be consumed: [`Bundle::finish`] names what was not.
//! * A [`Refusal`] is data, asked for before anything is paused.
#![forbid(unsafe_code)]

mod bundle;
mod code;
mod payload;
mod refusal;

pub use bundle::Bundle;
pub use code::Code;
pub use payload::{Declared, InUse, LoadError, Payload, Saved};
pub use refusal::Refusal;
