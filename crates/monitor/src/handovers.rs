//! Asking about handovers, and deciding those that nobody answers for.

use crate::Error;
use crate::monitor::Monitor;
use motion::handover::{Decision, DirJournal, Journal, Record, Role, Side, Token};
use qmp::Timestamp;
use qmp::command::{HandoverResolve, Owner};
use qmp::reply::{HandoverInfo, HandoverSide};
use state::Code;
use std::path::Path;

impl Monitor {
    /// `x-whimbrel-handover-query`: this machine's own handover if it is undecided, and every record
    /// in the runtime folder.
    pub fn handovers(&self, token: Option<&str>) -> Result<Vec<HandoverInfo>, Error> {
        if let Some(token) = token {
            token.parse::<Token>().map_err(|e| Error::new(Code::InvalidArgument, e.to_string()))?;
        }
        let mut handovers = on_record(&self.journal)?;
        if let Some(undecided) = self.undecided()
            && !handovers.iter().any(|handover| handover.token == undecided.token)
        {
            handovers.push(self.own(&undecided));
        }
        if let Some(token) = token {
            handovers.retain(|handover| handover.token == token);
            if handovers.is_empty() {
                let why = format!("no handover {token} is on record here");
                return Err(Error::new(Code::NoSuchToken, why));
            }
        }
        Ok(handovers)
    }

    /// The handover of this process, of which it does not know how it ended.
    pub fn own(&self, undecided: &motion::Undecided) -> HandoverInfo {
        let source = self.motion_under_way().is_some();
        let began = std::time::Duration::from_nanos(undecided.since_ns);
        let since = std::time::SystemTime::now().checked_sub(began);
        HandoverInfo {
            token: undecided.token.clone(),
            side: if source { HandoverSide::Source } else { HandoverSide::Destination },
            state: if source { "undecided" } else { "holding" }.to_owned(),
            undecided: true,
            machine: Some(self.name.to_string()),
            peer: Some(undecided.peer.clone()),
            since: since.map_or_else(Timestamp::now, timestamp),
        }
    }

    /// `x-whimbrel-handover-resolve`
    pub fn resolve(&self, resolve: &HandoverResolve) -> Result<(), Error> {
        let HandoverResolve { token, owner, fenced } = resolve;
        let owner = match owner {
            Owner::Here => Side::Here,
            Owner::Peer => Side::Peer,
        };
        if self.undecided().is_none_or(|undecided| undecided.token != *token) {
            let name = &self.name;
            return Err(Error::new(
                Code::NoSuchToken,
                format!(
                    "`{name}` has no undecided handover {token}; see `whimbrel handover query \
                     {name}`"
                ),
            ));
        }
        let (outgoing, incoming) = {
            let state = self.state();
            (state.outgoing.clone(), state.incoming.clone())
        };
        match (outgoing.filter(|motion| motion.progress().undecided.is_some()), incoming) {
            (Some(motion), _) => motion.resolve(owner, *fenced),
            (None, Some(waiting)) => waiting.resolve(owner, *fenced),
            (None, None) => Err(Error::new(Code::InvalidState, "nothing is undecided any more")),
        }
    }
}

/// The handovers on record in a folder, whoever wrote them, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn on_record(folder: &Path) -> Result<Vec<HandoverInfo>, Error> {
    let failed = |e: motion::handover::JournalError| Error::new(Code::Journal, e.to_string());
    let journal = DirJournal::open(folder).map_err(failed)?;
    let mut handovers = Vec::new();
    for key in journal.list().map_err(failed)? {
        // It may have gone since it was listed, or be damaged: the log has to do for that.
        match journal.get(key) {
            Ok(Some(record)) => handovers.push(info(&record)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a handover record cannot be read"),
        }
    }
    handovers.sort_by(|a, b| (a.since.seconds, &a.token).cmp(&(b.since.seconds, &b.token)));
    Ok(handovers)
}

fn info(record: &Record) -> HandoverInfo {
    let Record { role, decision, particulars } = record;
    let since = particulars.since();
    HandoverInfo {
        token: particulars.token().to_string(),
        side: match role {
            Role::Source => HandoverSide::Source,
            Role::Destination => HandoverSide::Destination,
        },
        state: decision.name().to_owned(),
        undecided: *decision == Decision::Open,
        machine: Some(particulars.name().to_owned()),
        peer: Some(particulars.peer().to_owned()),
        since: Timestamp {
            seconds: since / 1000,
            microseconds: u32::try_from(since % 1000 * 1000).unwrap_or(0),
        },
    }
}

pub(crate) fn timestamp(time: std::time::SystemTime) -> Timestamp {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs(), microseconds: since.subsec_micros() }
}
