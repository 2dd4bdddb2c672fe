//! Going on with the clients of another process.

use std::os::fd::OwnedFd;

use serde::de::IgnoredAny;

use super::connection::Connection;
use super::listener::Listener;
use super::{Server, mailbox};
use crate::carry::{AdoptError, Unpacker};
use crate::fdsets::FdSets;
use crate::json::Object;
use crate::limits::Limits;
use crate::saved::SavedServer;

impl Server {
    /// Has what another process has [suspended](super::ServerHandle::suspend): `descriptors` are
    /// those of [`Suspended`](crate::Suspended), in their order. Until it is
    /// [started](Self::start) nothing is accepted, read or written, and dropping it changes
    /// nothing for the other process, which still owns the socket files. Starting it means to own
    /// all that; by then the other process must have ceased to, and either
    /// [release](super::ServerHandle::release) it or end.
    ///
    /// # Errors
    /// [`AdoptError`] when no server can have been so, or the descriptors are not its.
    pub fn adopt(saved: SavedServer, descriptors: Vec<OwnedFd>) -> Result<Self, AdoptError> {
        Self::adopt_within(saved, descriptors, Limits::default())
    }

    /// The same, with other limits.
    pub fn adopt_within(
        saved: SavedServer,
        descriptors: Vec<OwnedFd>,
        limits: Limits,
    ) -> Result<Self, AdoptError> {
        let mut unpacker = Unpacker::new(&saved, descriptors)?;
        let SavedServer { listeners, clients, sets } = saved;
        if clients.len() > limits.clients {
            return Err(AdoptError::invalid(format!(
                "{} clients are connected; at most {} can be",
                clients.len(),
                limits.clients
            )));
        }
        let listeners = listeners
            .into_iter()
            .map(|listener| Listener::adopt(listener, &mut unpacker))
            .collect::<Result<_, _>>()?;
        let clients = clients
            .into_iter()
            .enumerate()
            .map(|(index, client)| Connection::adopt(index, client, &mut unpacker, &limits))
            .collect::<Result<_, _>>()?;
        let sets = FdSets::restore(sets, &mut unpacker, limits.set_descriptors)?;
        let (mailbox, inbox) = mailbox::new().map_err(AdoptError::Resources)?;
        Ok(Self { listeners, clients, sets, late: Vec::new(), limits, mailbox, inbox })
    }

    /// Has its events come from whoever sends them to `vacant`, which has no clients.
    #[must_use]
    pub fn in_place_of(self, vacant: Self) -> Self {
        let Self { mailbox, inbox, .. } = vacant;
        Self { mailbox, inbox, ..self }
    }

    /// Has the adopted clients that have negotiated told these
    /// [late events](super::ServerHandle::late_events) of the other process, before anything else.
    /// What is no line of a server is left out.
    pub fn deliver(&mut self, late: Vec<String>) {
        for line in late {
            let event = line.trim_end();
            let is_line = !event.contains(['\r', '\n'])
                && serde_json::from_str::<Object<IgnoredAny>>(event).is_ok();
            if is_line {
                self.late.push(format!("{event}\r\n"));
            } else {
                tracing::warn!("an event of the process before is malformed, and is left out");
            }
        }
    }
}
