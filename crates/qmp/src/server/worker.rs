//! Carrying out commands.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use state::Code;

use super::mailbox::{Mailbox, Note};
use super::{Context, Handler};
use crate::command::{AnyCommand, Command, SessionCommand};
use crate::error::Error;
use crate::reply::{CommandInfo, Reply, VersionInfo};
use crate::request::{Id, answer};

/// A command on its way to its turn. What could not be read waits its turn as well, so that
/// answers come in the order of the commands.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Id,
    pub(super) command: Result<AnyCommand, Error>,
    /// What came with a `getfd`.
    pub(super) descriptor: Option<OwnedFd>,
    pub(super) context: Context,
    /// Bytes of the command.
    pub(super) cost: usize,
}

/// Answers jobs one after the other until no more can come.
pub(super) fn run(
    jobs: &Receiver<Job>,
    ending: &AtomicBool,
    handler: &Arc<dyn Handler>,
    mailbox: &Mailbox,
) {
    for Job { id, command, descriptor, context, cost } in jobs {
        let result = command.and_then(|command| {
            if ending.load(Ordering::Acquire) {
                return Err(Error::new(
                    Code::InvalidState,
                    format!("{}: not carried out, because the machine is ending", command.name()),
                ));
            }
            execute(command, descriptor, &context, handler)
        });
        let line = answer(&id, &result);
        mailbox.post(Note::Answer { client: context.client(), line, cost });
    }
    mailbox.post(Note::WorkerEnded);
}

/// Carries out one command, on whatever thread.
pub(super) fn execute(
    command: AnyCommand,
    descriptor: Option<OwnedFd>,
    context: &Context,
    handler: &Arc<dyn Handler>,
) -> Result<Reply, Error> {
    tracing::debug!(client = %context.client(), command = command.name(), oob = context.oob());
    match command {
        AnyCommand::Session(command) => session(&command, descriptor, context),
        AnyCommand::Machine(command) => machine(command, context, handler),
    }
}

fn session(
    command: &SessionCommand,
    descriptor: Option<OwnedFd>,
    context: &Context,
) -> Result<Reply, Error> {
    match command {
        SessionCommand::Negotiate(_) => Err(Error::command_not_found(
            Code::InvalidState,
            "qmp_capabilities: capabilities have been negotiated already, and are only once",
        )),
        SessionCommand::QueryVersion => Ok(VersionInfo::this().into()),
        SessionCommand::QueryCommands => {
            let commands = AnyCommand::names().into_iter().map(|name| CommandInfo { name });
            Ok(commands.collect::<Vec<_>>().into())
        }
        SessionCommand::GetFd(name) => {
            context.descriptors.insert(&name.fdname, descriptor).map(Into::into)
        }
        SessionCommand::CloseFd(name) => context.descriptors.close(&name.fdname).map(Into::into),
        SessionCommand::AddFd(add) => context.sets.add(add, descriptor).map(Into::into),
        SessionCommand::RemoveFd(remove) => context.sets.remove(remove).map(Into::into),
        SessionCommand::QueryFdSets => Ok(context.sets.list().into()),
    }
}

fn machine(
    command: Command,
    context: &Context,
    handler: &Arc<dyn Handler>,
) -> Result<Reply, Error> {
    let name = command.name();
    // A defect in one command must not take the control of the machine away.
    catch_unwind(AssertUnwindSafe(|| handler.execute(command, context))).unwrap_or_else(|_| {
        tracing::error!(command = name, "the command panicked");
        Err(Error::new(
            Code::Internal,
            format!("{name}: failed because of a defect; the log has the details"),
        ))
    })
}
