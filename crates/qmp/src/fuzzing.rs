//! The way in for fuzz targets, which are crates of their own.

use crate::command::{AnyCommand, Capabilities, Command, Parameters};
use crate::frame::Framer;
use crate::request::{Request, answer};

/// Reads bytes as they came from a client, in these pieces, with commands of at most `longest` bytes;
/// obeys what needs no machine, and answers.
///
/// # Panics
/// When a command cannot be written and read again, or its answer is more than one line.
pub fn serve<'a>(pieces: impl Iterator<Item = &'a [u8]>, longest: usize) {
    let mut framer = Framer::new(longest);
    let (mut capabilities, mut parameters) = (Capabilities::default(), Parameters::default());
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next_command() {
                Ok(Some(frame)) => obey(frame.bytes, &mut capabilities, &mut parameters),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    if !framer.rest().is_empty() {
        let _ = Request::parse(framer.rest());
    }
}

fn obey(line: &[u8], capabilities: &mut Capabilities, parameters: &mut Parameters) {
    let request = Request::parse(line);
    let result = match &request.command {
        Ok(AnyCommand::Machine(command)) => {
            let written = serde_json::to_vec(command).expect("a command can be written");
            match Request::parse(&written).command {
                Ok(AnyCommand::Machine(read)) => assert_eq!(read, *command),
                other => panic!("{command:?} reads back as {other:?}"),
            }
            match command {
                Command::MigrateSetCapabilities(set) => capabilities.set(set).map(Into::into),
                Command::MigrateSetParameters(set) => parameters.set(set).map(Into::into),
                Command::Migrate(migrate) => migrate.address().map(|_| ().into()),
                Command::MigrateIncoming(incoming) => incoming.address().map(|_| ().into()),
                _ => Ok(().into()),
            }
        }
        Ok(AnyCommand::Session(_)) => Ok(().into()),
        Err(error) => Err(error.clone()),
    };
    let line = answer(&request.id, &result);
    assert!(line.ends_with("\r\n") && line.matches('\n').count() == 1, "{line:?}");
}
