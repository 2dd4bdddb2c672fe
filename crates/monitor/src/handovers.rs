//! Asking about handovers, and deciding those that nobody answers for.

use crate::Error;
use crate::incoming::Waiting;
use crate::monitor::Monitor;
use crate::outgoing::Outgoing;
use motion::handover::{
    DirJournal, GONE, Input, Journal, JournalError, Key, Particulars, Record, Role, Side, Standing,
    Token, TokenError, Witness,
};
use qmp::Timestamp;
use qmp::command::{HandoverResolve, Owner};
use qmp::reply::{HandoverInfo, HandoverSide};
use state::Code;
use std::path::Path;
use std::sync::Arc;

impl Monitor {
    /// `x-whimbrel-handover-query`: the handovers that this process can say something of, and every record
    /// in the runtime folder.
    pub fn handovers(&self, token: Option<&str>) -> Result<Vec<HandoverInfo>, Error> {
        let token = token.map(parsed).transpose()?.map(|token| token.to_string());
        let mut handovers = on_record(&self.journal)?;
        for known in self.standings().iter().map(info_of_standing) {
            let is_it = |of: &&mut HandoverInfo| of.token == known.token && of.side == known.side;
            match handovers.iter_mut().find(is_it) {
                Some(of) => *of = HandoverInfo { state: of.state.clone(), ..known },
                None => handovers.push(known),
            }
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

    /// How the handovers stand that this process takes part in, or speaks about for a dead process.
    fn standings(&self) -> Vec<Standing> {
        let (outgoing, incoming, testimonies) = {
            let state = self.state();
            (state.outgoing.clone(), state.incoming.clone(), state.testimonies.clone())
        };
        let from_here = outgoing.and_then(|motion| motion.handover());
        let own = from_here.iter().map(|standing| (**standing).clone());
        let to_here = incoming.iter().flat_map(|waiting| waiting.handovers());
        let of_dead = testimonies.iter().flat_map(|testimony| testimony.standings());
        own.chain(to_here).chain(of_dead).collect()
    }

    /// The handover of this process of which it does not know how it ended.
    pub fn undecided_handover(&self) -> Option<HandoverInfo> {
        let undecided = self.undecided()?;
        let is_it = |known: &HandoverInfo| known.token == undecided.token;
        self.standings().iter().map(info_of_standing).find(is_it)
    }

    /// `x-whimbrel-handover-resolve`
    pub fn resolve(&self, resolve: &HandoverResolve) -> Result<(), Error> {
        let HandoverResolve { token, owner, fenced } = resolve;
        let (token, fenced) = (parsed(token)?, *fenced);
        let owner = match owner {
            Owner::Here => Side::Here,
            Owner::Peer => Side::Peer,
        };
        let (outgoing, incoming, testimonies) = {
            let state = self.state();
            (state.outgoing.clone(), state.incoming.clone(), state.testimonies.clone())
        };
        let is_it = |standing: &Standing| standing.particulars.token() == token;
        let from_here = |motion: &Arc<Outgoing>| motion.handover().is_some_and(|of| is_it(&of));
        if let Some(motion) = outgoing.filter(from_here) {
            return motion.resolve(owner, fenced);
        }
        let to_here = |waiting: &Arc<Waiting>| waiting.handovers().iter().any(is_it);
        if let Some(waiting) = incoming.filter(to_here) {
            return waiting.resolve(token, owner, fenced);
        }
        for testimony in testimonies {
            if let Some(result) = testimony.resolve(token, owner, fenced) {
                return result.map_err(Into::into);
            }
        }
        self.resolve_for_the_dead(token, owner, fenced)
    }

    /// Decides for a process that is dead, and for which nobody speaks.
    fn resolve_for_the_dead(&self, token: Token, owner: Side, fenced: bool) -> Result<(), Error> {
        let name = &self.name;
        let mut journal = DirJournal::open(&self.journal).map_err(|e| failed(&e))?;
        let mut in_use = None;
        for role in [Role::Destination, Role::Source] {
            let key = Key { token, role };
            match journal.adopt(key) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let input = Input::Resolve { owner, fenced };
                    let resolved = Witness::new(record).drive(input, &mut journal, &mut |_| {});
                    return resolved.map_err(|e| Error::new(e.code(), e.to_string()));
                }
                Err(JournalError::InUse(_)) => in_use = journal.get(key).map_err(|e| failed(&e))?,
                Err(error) => return Err(failed(&error)),
            }
        }
        if let Some(record) = in_use {
            let why = format!(
                "handover {token} is not `{name}`'s but `{}`'s, and the process that it belongs to, \
                 or one that speaks for it, lives: resolve it there",
                record.particulars.name()
            );
            return Err(Error::new(Code::InvalidState, why));
        }
        let why = format!("`{name}` has no handover {token}; see `whimbrel handover query {name}`");
        Err(Error::new(Code::NoSuchToken, why))
    }
}

fn parsed(token: &str) -> Result<Token, Error> {
    token.parse().map_err(|e: TokenError| Error::new(Code::InvalidArgument, e.to_string()))
}

fn failed(error: &JournalError) -> Error {
    Error::new(Code::Journal, error.to_string())
}

/// The handovers on record in a folder, whoever wrote them, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn on_record(folder: &Path) -> Result<Vec<HandoverInfo>, Error> {
    let journal = DirJournal::open(folder).map_err(|e| failed(&e))?;
    let mut handovers = Vec::new();
    for key in journal.list().map_err(|e| failed(&e))? {
        // It may have gone since it was listed, or be damaged: the log has to do for that.
        match journal.get(key).and_then(|record| Ok((record, journal.is_orphan(key)?))) {
            Ok((Some(record), orphan)) => handovers.push(info_of_record(&record, orphan)),
            Ok((None, _)) => {}
            Err(error) => tracing::warn!(%error, "a handover record cannot be read"),
        }
    }
    handovers.sort_by(|a, b| (a.since.seconds, &a.token).cmp(&(b.since.seconds, &b.token)));
    Ok(handovers)
}

fn info_of_record(record: &Record, orphan: bool) -> HandoverInfo {
    let Record { role, decision, particulars } = record;
    HandoverInfo {
        state: decision.name().to_owned(),
        phase: orphan.then(|| GONE.to_owned()),
        ..info(*role, record.owner(), particulars)
    }
}

fn info_of_standing(standing: &Standing) -> HandoverInfo {
    let Standing { role, phase, owner, particulars } = standing;
    let (state, phase) = ((*phase).to_owned(), Some((*phase).to_owned()));
    HandoverInfo { state, phase, ..info(*role, *owner, particulars) }
}

fn info(role: Role, owner: Option<Side>, particulars: &Particulars) -> HandoverInfo {
    let since = particulars.since();
    HandoverInfo {
        token: particulars.token().to_string(),
        side: match role {
            Role::Source => HandoverSide::Source,
            Role::Destination => HandoverSide::Destination,
        },
        state: String::new(),
        phase: None,
        owner: owner.map(|owner| match owner {
            Side::Here => Owner::Here,
            Side::Peer => Owner::Peer,
        }),
        undecided: owner.is_none(),
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
