//! Walking through a chunk: which of its pages go, and in which order things are done.

use super::{Pass, PassKind, PassTotals};
use crate::rules::{Rule, keeps};
use crate::{MachineError, SourceMachine};
use memory::PageRange;
use state::Code;

/// The most pages looked at as one piece: small enough to stay in the processor's cache between
/// looking for zeroes and carrying them.
pub const PIECE_PAGES: u64 = 64;

/// Takes pages to wherever they go.
pub(crate) trait Carrier {
    /// Why it cannot.
    type Error: From<MachineError>;

    /// Takes pages that were touched: with contents, or as zero.
    fn touched(&mut self, piece: PageRange, totals: &mut PassTotals) -> Result<(), Self::Error>;

    /// Takes the word that pages are zero that may have been something else before.
    fn zero(&mut self, range: PageRange, totals: &mut PassTotals) -> Result<(), Self::Error>;
}

/// Takes the pages of one claimed chunk.
///
/// Per chunk the order is always: writes are logged again → which of its pages were ever touched →
/// read them. `pace` is told after each piece how many bytes it took, waits as long as it likes, and
/// says how many pages the next may have.
pub(crate) fn walk_chunk<C: Carrier>(
    machine: &dyn SourceMachine,
    pass: &Pass,
    chunk: PageRange,
    pace: &mut dyn FnMut(u64) -> u64,
    carrier: &mut C,
) -> Result<PassTotals, C::Error> {
    let rearm = || match pass.is_logged() {
        true => pass
            .rearm(machine.dirty_log(), chunk)
            .map_err(|e| MachineError::new(Code::Kvm, "logging writes to guest RAM", e)),
        false => Ok(true),
    };
    if keeps(Rule::RearmComesFirst) && !rearm()? {
        return Ok(PassTotals::default());
    }
    let failed = |e| MachineError::new(Code::HostIo, "looking for pages that were touched", e);
    let mut totals = PassTotals::default();
    // Whoever gives the pass up does not wait for storage that hangs.
    if !machine.ram().bring_while(chunk, &|| !pass.is_stopped()).map_err(failed)? {
        return Ok(totals);
    }
    let touched = machine.ram().touched(chunk).map_err(failed)?;
    let mut most = pace(0).clamp(1, PIECE_PAGES);
    for run in pass.set().runs_in(chunk) {
        let mut next = run.start;
        for part in touched.iter().filter_map(|part| part.intersection(run)) {
            untouched(pass, PageRange::new(next, part.start - next), &mut totals, carrier)?;
            next = part.end();
            let mut at = part.start;
            while at < part.end() {
                let piece = PageRange::new(at, most.min(part.end() - at));
                let before = totals.bytes;
                totals.seen += piece.count;
                carrier.touched(piece, &mut totals)?;
                at = piece.end();
                most = pace(totals.bytes - before).clamp(1, PIECE_PAGES);
                if pass.is_stopped() {
                    return Ok(totals);
                }
            }
        }
        untouched(pass, PageRange::new(next, run.end() - next), &mut totals, carrier)?;
    }
    if !keeps(Rule::RearmComesFirst) {
        rearm()?;
    }
    Ok(totals)
}

/// Pages that nobody has touched: never yet, or not since they were discarded.
fn untouched<C: Carrier>(
    pass: &Pass,
    range: PageRange,
    totals: &mut PassTotals,
    carrier: &mut C,
) -> Result<(), C::Error> {
    if range.count == 0 {
        return Ok(());
    }
    totals.seen += range.count;
    match pass.kind() {
        PassKind::First => totals.skipped += range.count,
        PassKind::Later => carrier.zero(range, totals)?,
    }
    Ok(())
}
