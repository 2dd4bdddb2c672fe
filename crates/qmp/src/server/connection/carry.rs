//! A client on its way from one process to another.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use super::{Connection, READ_AT_ONCE};
use crate::carry::{AdoptError, Packer, Unpacker};
use crate::descriptors::Descriptors;
use crate::frame::Framer;
use crate::limits::Limits;
use crate::saved::{Role, SavedClient, SavedNamed, SavedUnclaimed};

impl Connection {
    /// What is needed to go on in another process. No command of it may be under way.
    pub(in crate::server) fn save(&self, packer: &mut Packer) -> io::Result<SavedClient> {
        let Self {
            socket,
            framer,
            output,
            negotiated,
            oob,
            descriptors,
            unclaimed,
            // None is: they were all answered.
            in_flight: _,
            in_flight_bytes: _,
            end_of_input,
            input_done,
            deaf,
            overflowed,
            // The other process has an epoll of its own.
            watched: _,
        } = self;
        let socket = packer.pack(socket.as_fd())?;
        let unclaimed = unclaimed
            .iter()
            .map(|(end, fd)| Ok(SavedUnclaimed { end: *end, descriptor: packer.pack(fd.as_fd())? }))
            .collect::<io::Result<_>>()?;
        Ok(SavedClient {
            socket,
            negotiated: *negotiated,
            oob: *oob,
            input: framer.save(),
            output: output.iter().copied().collect(),
            end_of_input: *end_of_input,
            input_done: *input_done,
            deaf: *deaf,
            overflowed: *overflowed,
            unclaimed,
            named: descriptors.save(packer)?,
        })
    }

    /// Goes on with the client of this index, if any can be like that.
    pub(in crate::server) fn adopt(
        client: usize,
        saved: SavedClient,
        unpacker: &mut Unpacker,
        limits: &Limits,
    ) -> Result<Self, AdoptError> {
        let SavedClient {
            socket,
            negotiated,
            oob,
            input,
            output,
            end_of_input,
            input_done,
            deaf,
            overflowed,
            unclaimed,
            named,
        } = saved;
        let invalid = |reason: String| AdoptError::invalid(format!("client {client}: {reason}"));
        let rules = [
            (
                input.bytes.len() <= limits.line.saturating_add(READ_AT_ONCE),
                "more was read than a command and what is read at once",
            ),
            (negotiated || !oob, "`exec-oob` was negotiated and nothing was"),
            (output.is_empty() || !deaf, "it is to be told something and takes nothing"),
            (
                unclaimed.len() <= limits.unclaimed_descriptors,
                "more descriptors are unclaimed than can be",
            ),
            (
                unclaimed.is_sorted_by_key(|one| one.end),
                "the unclaimed descriptors are not in the order in which they came",
            ),
        ];
        if let Some((_, broken)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(invalid((*broken).to_owned()));
        }
        let framer = Framer::restore(input, limits.line).map_err(invalid)?;
        if unclaimed.last().is_some_and(|last| last.end > framer.end()) {
            return Err(invalid("a descriptor came with bytes that did not".to_owned()));
        }
        let socket = unpacker.unpack_socket(Role::Client { client }, socket, false)?;
        let unclaimed = unclaimed
            .into_iter()
            .map(|SavedUnclaimed { end, descriptor }| {
                Ok((end, unpacker.unpack(Role::Unclaimed { client }, descriptor)?))
            })
            .collect::<Result<_, _>>()?;
        let named = named
            .into_iter()
            .map(|SavedNamed { name, descriptor }| {
                let role = Role::Named { client, name: name.clone() };
                Ok((name, unpacker.unpack(role, descriptor)?))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            socket,
            framer,
            output: VecDeque::from(output),
            negotiated,
            oob,
            descriptors: Descriptors::restore(named, limits.named_descriptors).map_err(invalid)?,
            unclaimed,
            in_flight: 0,
            in_flight_bytes: 0,
            end_of_input,
            input_done,
            deaf,
            overflowed,
            watched: None,
        })
    }
}
