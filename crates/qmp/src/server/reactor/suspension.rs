//! Serving nobody for a time, or no more because another process does.

use std::io;
use std::mem;

use super::{Phase, Reactor, unwatch};
use crate::carry::{Packer, SuspendError, Suspended};
use crate::saved::SavedServer;
use crate::server::mailbox::Suspension;

impl Reactor {
    /// Takes no more clients and commands, so that there comes a time when all are answered.
    pub(super) fn begin_drain(&mut self, suspension: Suspension) {
        let refusal = match self.phase {
            Phase::Serving => {
                self.accept_again = None;
                self.unwatch_listeners();
                self.phase = Phase::Draining(suspension);
                return;
            }
            Phase::Draining(_) | Phase::Suspended(_) => SuspendError::Already,
            Phase::Released | Phase::Finishing(_) | Phase::Flushing(_) => SuspendError::Ending,
        };
        // Whoever no longer waits does not need to know.
        let _ = suspension.reply.send(Err(refusal));
    }

    /// Suspends the server if that was asked for and all commands are answered.
    pub(super) fn suspend_if_drained(&mut self) {
        let (number, reply) = match mem::replace(&mut self.phase, Phase::Serving) {
            // With something told that was not heard yet, this comes again after it was.
            Phase::Draining(Suspension { number, reply })
                if self.outstanding == 0 && self.inbox.hold() =>
            {
                (number, reply)
            }
            other => {
                self.phase = other;
                return;
            }
        };
        let packed = self.pack();
        match &packed {
            Ok(_) => {
                // A client that has hung up would be reported over and over.
                for connection in self.clients.values_mut() {
                    unwatch(&self.epoll, connection);
                }
                self.phase = Phase::Suspended(number);
                tracing::debug!("suspended");
            }
            Err(_) => {
                self.go_on();
                self.serve_all();
            }
        }
        // Whoever no longer waits has said so, or is about to: then the server goes on.
        let _ = reply.send(packed.map_err(SuspendError::System));
    }

    /// Whoever asked for this suspension waits no longer.
    pub(super) fn call_off(&mut self, number: u64) {
        let present = match &self.phase {
            Phase::Draining(suspension) => Some(suspension.number),
            Phase::Suspended(number) => Some(*number),
            Phase::Serving | Phase::Released | Phase::Finishing(_) | Phase::Flushing(_) => None,
        };
        if present == Some(number) {
            self.go_on();
        }
    }

    pub(super) fn resume(&mut self) {
        if matches!(self.phase, Phase::Suspended(_)) {
            self.go_on();
        }
    }

    pub(super) fn release(&mut self) {
        if !matches!(self.phase, Phase::Suspended(_)) {
            tracing::error!("a QMP server was to be released that nobody can have adopted");
            return self.begin_end();
        }
        for listener in &mut self.listeners {
            listener.own(false);
        }
        self.phase = Phase::Released;
    }

    /// Tells clients what they would have been told before, were it not for the suspension.
    pub(super) fn tell_held(&mut self) {
        let held = self.inbox.let_go();
        self.tell_all(held);
    }

    /// What clients are to be told and have carried out is seen to after the inbox was read.
    fn go_on(&mut self) {
        self.phase = Phase::Serving;
        self.watch_listeners();
        self.tell_held();
    }

    /// All that another process needs. What is not destructured here is not forgotten.
    fn pack(&self) -> io::Result<Suspended> {
        let Self {
            listeners,
            clients,
            sets,
            // What this process serves with: the other has its own.
            epoll: _,
            inbox: _,
            limits: _,
            handler: _,
            jobs: _,
            worker: _,
            ending: _,
            phase: _,
            buffer: _,
            // A pause in accepting ends with the suspension.
            accept_again: _,
            // Names are given anew.
            next_client: _,
            // They were told at the start.
            late: _,
            // None is.
            outstanding: _,
        } = self;
        let mut packer = Packer::default();
        let saved = SavedServer {
            listeners: listeners
                .iter()
                .map(|listener| listener.save(&mut packer))
                .collect::<io::Result<_>>()?,
            clients: clients
                .values()
                .map(|connection| connection.save(&mut packer))
                .collect::<io::Result<_>>()?,
            sets: sets.save(&mut packer)?,
        };
        Ok(Suspended::new(saved, packer))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, mpsc};

    use rustix::event::{Timespec, epoll};

    use super::*;
    use crate::command::Command;
    use crate::error::Error;
    use crate::reply::Reply;
    use crate::server::mailbox::Note;
    use crate::server::{Context, Handler, Server};

    struct Idle;

    impl Handler for Idle {
        fn execute(&self, _: Command, _: &Context) -> Result<Reply, Error> {
            Ok(().into())
        }
    }

    /// How many descriptors would wake the reactor at this moment.
    fn ready(reactor: &Reactor) -> usize {
        let mut events = [MaybeUninit::uninit(); 8];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(&reactor.epoll, &mut events, Some(&at_once)).unwrap().0.len()
    }

    #[test]
    fn nothing_that_clients_do_wakes_a_suspended_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let server = Server::bind(&[(path.clone(), 0o600)]).unwrap();
        let (mailbox, events) = (server.mailbox.clone(), server.events());
        let mut reactor = Reactor::new(server, Arc::new(Idle)).unwrap();
        let mut clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        reactor.accept(0);
        let (reply, answer) = mpsc::sync_channel(1);
        mailbox.post(Note::Suspend(Suspension { number: 0, reply }));
        reactor.read_inbox();
        let suspended = answer.try_recv().unwrap().unwrap();
        assert_eq!(suspended.into_parts().0.clients.len(), 3);
        clients[0].write_all(b"{}").unwrap();
        drop(clients.pop());
        let _waiting = UnixStream::connect(&path).unwrap();
        events.send(&crate::event::Event::Stop);
        assert_eq!(ready(&reactor), 0);
        // All of it is found when the server goes on: one that speaks, one that went, one that
        // came.
        mailbox.resume();
        reactor.read_inbox();
        assert_eq!(ready(&reactor), 3);
    }
}
