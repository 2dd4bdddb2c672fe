use super::*;
use crate::handover::{MemoryJournal, Notice, Timer, Verdict};
use state::Code;
use uuid::Uuid;

const TOKEN: Token = Token([7; 16]);

fn particulars() -> Particulars {
    Particulars::new(TOKEN, Uuid::nil(), "web-1", "tcp:192.0.2.7:7000", 5).expect("it is short")
}

fn source() -> SourceHandover {
    SourceHandover::begin(particulars(), RunPermit::for_new_machine())
}

fn heard(word: Word) -> Input {
    Input::Received(TOKEN.says(word))
}

fn resolve(owner: Side) -> Input {
    Input::Resolve { owner, fenced: true }
}

/// What a process did.
#[derive(Default)]
struct Process {
    journal: MemoryJournal,
    permits: Vec<RunPermit>,
    sent: Vec<Word>,
    /// Everything but timers, in order: `grant`, `record …`, `send …`.
    done: Vec<String>,
}

impl Process {
    fn act<P: Into<Option<RunPermit>>>(
        permits: &mut Vec<RunPermit>,
        sent: &mut Vec<Word>,
        done: &mut Vec<String>,
        output: Output<Message, Record, P>,
    ) {
        match output {
            Output::Send(message) => {
                assert_eq!(message.token, TOKEN);
                sent.push(message.word);
                done.push(format!("send {:?}", message.word));
            }
            Output::Grant(permit) => {
                permits.extend(permit.into());
                done.push("grant".into());
            }
            Output::Discard => done.push("discard".into()),
            Output::Notice(notice) => done.push(format!("notice {notice:?}")),
            Output::Forget => done.push("forget".into()),
            Output::SetTimer(_) | Output::ClearTimer(_) => {}
            Output::Record(_) => panic!("the journal's part was not done"),
        }
    }

    fn source(&mut self, handover: &mut SourceHandover, input: Input) -> Result<(), DriveError> {
        let Self { journal, permits, sent, done } = self;
        handover.drive(input, journal, &mut |output| Self::act(permits, sent, done, output))
    }

    fn destination(
        &mut self,
        handover: &mut DestinationHandover,
        input: Input,
    ) -> Result<(), DriveError> {
        let Self { journal, permits, sent, done } = self;
        handover.drive(input, journal, &mut |output| Self::act(permits, sent, done, output))
    }

    fn record(&self, key: Key) -> Option<Decision> {
        self.journal.get(key).expect("memory can be read").map(|record| record.decision)
    }
}

#[test]
fn a_handover_moves_the_one_permit_and_leaves_no_record() {
    let (mut source, mut destination) = (source(), DestinationHandover::begin(particulars()));
    let (mut here, mut there) = (Process::default(), Process::default());

    there.destination(&mut destination, Input::Complete).unwrap();
    assert_eq!(there.record(destination.key()), Some(Decision::Open));
    here.source(&mut source, heard(Word::Ready)).unwrap();
    assert_eq!(here.record(source.key()), Some(Decision::Open));
    assert_eq!((source.owner(), here.permits.len()), (None, 0));
    there.destination(&mut destination, heard(Word::Commit)).unwrap();
    assert_eq!((destination.owner(), there.permits.len()), (Some(Side::Here), 1));
    assert_eq!(there.record(destination.key()), Some(Decision::Committed));
    here.source(&mut source, heard(Word::Running)).unwrap();
    assert_eq!((source.owner(), here.permits.len()), (Some(Side::Peer), 0));
    there.destination(&mut destination, heard(Word::Answer(Verdict::Committed))).unwrap();

    assert_eq!(here.sent, [Word::Commit, Word::Answer(Verdict::Committed)]);
    assert_eq!(there.sent, [Word::Ready, Word::Running]);
    assert_eq!(there.done.last().map(String::as_str), Some("forget"));
    assert_eq!(here.journal, MemoryJournal::default());
    assert_eq!(there.journal, MemoryJournal::default());
}

#[test]
fn the_guest_runs_before_anything_is_written_or_said_about_it() {
    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Complete).unwrap();
    let outputs = destination.step(heard(Word::Commit)).unwrap();
    assert!(matches!(outputs[0], Output::Grant(_)));
    let outputs = source().step(Input::Expired(Timer::Ready)).unwrap();
    assert!(matches!(outputs[0], Output::Grant(_)));
}

#[test]
fn each_way_to_give_up_before_commit_returns_the_permit_and_says_so() {
    for input in [
        Input::Cancel,
        Input::LinkLost,
        Input::Failed,
        Input::Expired(Timer::Ready),
        heard(Word::Answer(Verdict::Refused)),
    ] {
        let (mut source, mut here) = (source(), Process::default());
        here.source(&mut source, input).unwrap();
        assert_eq!((here.permits.len(), source.owner()), (1, Some(Side::Here)), "{input:?}");
        assert_eq!(here.sent, [Word::Abort]);
        assert_eq!(here.record(source.key()), Some(Decision::Refused));
        here.source(&mut source, Input::Expired(Timer::Retry)).unwrap();
        assert_eq!(here.sent, [Word::Abort, Word::Abort]);
        here.source(&mut source, heard(Word::Answer(Verdict::Refused))).unwrap();
        here.source(&mut source, Input::Expired(Timer::Retry)).unwrap();
        assert_eq!((here.sent.len(), here.permits.len()), (2, 1));
        assert_eq!(here.journal, MemoryJournal::default());
    }
}

#[test]
fn commit_does_not_go_out_unrecorded() {
    let (mut source, mut here) = (source(), Process::default());
    here.journal.failures = 1;
    let error = here.source(&mut source, heard(Word::Ready)).unwrap_err();
    assert_eq!(error.code(), Code::Journal);
    assert_eq!((source.owner(), here.permits.len()), (Some(Side::Here), 1));
    assert_eq!(here.sent, [Word::Abort]);
}

#[test]
fn the_guest_resumes_even_if_nothing_can_be_written() {
    let (mut source, mut here) = (source(), Process::default());
    here.journal.failures = u32::MAX;
    assert_eq!(here.source(&mut source, Input::Cancel).unwrap_err().code(), Code::Journal);
    assert_eq!((source.owner(), here.permits.len()), (Some(Side::Here), 1));
    assert_eq!(here.sent, [Word::Abort]);
}

#[test]
fn ready_and_refused_are_not_said_unrecorded_but_a_committed_guest_runs() {
    let mut there = Process::default();
    there.journal.failures = 1;
    let mut unready = DestinationHandover::begin(particulars());
    assert!(there.destination(&mut unready, Input::Complete).is_err());
    assert_eq!((there.sent.len(), unready.phase().name()), (0, "refused"));
    assert!(there.done.contains(&"discard".into()));

    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Complete).unwrap();
    there.journal.failures = 1;
    assert!(there.destination(&mut destination, heard(Word::Query)).is_err());
    assert_eq!(there.sent, [Word::Ready, Word::Answer(Verdict::Unknown)]);
    assert_eq!(destination.phase(), DestinationPhase::Ready);
    there.journal.failures = 1;
    assert!(there.destination(&mut destination, heard(Word::Commit)).is_err());
    assert_eq!((destination.owner(), there.permits.len()), (Some(Side::Here), 1));
    assert_eq!(there.sent.last(), Some(&Word::Running));
}

#[test]
fn a_copy_that_cannot_be_refused_on_record_is_kept_when_the_hold_is_over() {
    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Complete).unwrap();
    there.destination(&mut destination, Input::LinkLost).unwrap();
    there.journal.failures = 1;
    assert!(there.destination(&mut destination, Input::Expired(Timer::Hold)).is_err());
    assert_eq!(destination.phase(), DestinationPhase::Holding);
    assert!(!there.done.contains(&"discard".into()));
    there.destination(&mut destination, Input::Expired(Timer::Hold)).unwrap();
    assert_eq!(destination.owner(), Some(Side::Peer));
    assert_eq!(there.done.iter().filter(|done| *done == "discard").count(), 1);
}

#[test]
fn a_ready_destination_that_fails_refuses_on_record_and_says_so_at_once() {
    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Complete).unwrap();
    there.destination(&mut destination, Input::Failed).unwrap();
    assert_eq!(there.sent, [Word::Ready, Word::Answer(Verdict::Refused)]);
    assert_eq!(there.record(destination.key()), Some(Decision::Refused));
    there.destination(&mut destination, heard(Word::Commit)).unwrap();
    assert!(there.permits.is_empty());

    // Before READY nobody waits for its word, and nothing is left behind.
    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Failed).unwrap();
    assert_eq!((there.sent.len(), &there.journal), (0, &MemoryJournal::default()));
}

#[test]
fn an_operators_word_that_cannot_be_recorded_changes_nothing() {
    let (mut source, mut here) = (source(), Process::default());
    here.source(&mut source, heard(Word::Ready)).unwrap();
    here.source(&mut source, Input::LinkLost).unwrap();
    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Complete).unwrap();
    for owner in [Side::Here, Side::Peer] {
        here.journal.failures = 1;
        let error = here.source(&mut source, resolve(owner)).unwrap_err();
        assert_eq!(error.code(), Code::Journal);
        assert_eq!((source.owner(), here.permits.len()), (None, 0));
        there.journal.failures = 1;
        assert!(there.destination(&mut destination, resolve(owner)).is_err());
        assert_eq!((destination.owner(), there.permits.len()), (None, 0));
    }
}

#[test]
fn after_commit_the_operator_hears_why_not_and_with_which_token() {
    let (mut source, mut here) = (source(), Process::default());
    assert_eq!(source.step(Input::Cont).unwrap_err().code(), Code::Busy);
    assert_eq!(source.step(resolve(Side::Here)).unwrap_err().code(), Code::InvalidState);
    assert!(source.may_end().is_ok());
    here.source(&mut source, heard(Word::Ready)).unwrap();
    assert_eq!(source.step(Input::Cancel).unwrap_err().code(), Code::TooLate);
    assert_eq!(source.step(Input::Cont).unwrap_err().code(), Code::Undecided);
    let unfenced = Input::Resolve { owner: Side::Here, fenced: false };
    assert_eq!(source.step(unfenced).unwrap_err().code(), Code::NotFenced);
    let error = source.may_end().unwrap_err();
    assert_eq!(error.code(), Code::Undecided);
    assert!(error.to_string().contains(&TOKEN.to_string()));
    here.source(&mut source, heard(Word::Running)).unwrap();
    assert_eq!(source.step(Input::Cont).unwrap_err().code(), Code::NotOwner);
    assert_eq!(source.step(resolve(Side::Here)).unwrap_err().code(), Code::InvalidState);
    assert!(source.may_end().is_ok());
}

#[test]
fn a_waiting_destination_is_neither_cancelled_nor_continued_nor_killed() {
    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    assert_eq!(destination.step(Input::Cont).unwrap_err().code(), Code::NotOwner);
    assert!(destination.may_end().is_ok());
    there.destination(&mut destination, Input::Complete).unwrap();
    for _ in ["ready", "holding"] {
        assert_eq!(destination.step(Input::Cont).unwrap_err().code(), Code::Undecided);
        assert_eq!(destination.step(Input::Cancel).unwrap_err().code(), Code::Undecided);
        assert!(destination.may_end().is_err());
        there.destination(&mut destination, Input::LinkLost).unwrap();
    }
    assert_eq!(there.done.iter().filter(|done| *done == "notice Holding").count(), 1);
    there.destination(&mut destination, resolve(Side::Here)).unwrap();
    assert_eq!(there.permits.len(), 1);
    assert_eq!(destination.step(Input::Cancel).unwrap_err().code(), Code::TooLate);
    assert!(destination.step(Input::Cont).is_ok());
    assert_eq!(destination.step(resolve(Side::Peer)).unwrap_err().code(), Code::InvalidState);
}

#[test]
fn a_destination_that_runs_although_nothing_was_committed_is_never_joined() {
    // Only an untrue `fenced` leads here; what is left is not to make it worse.
    let (mut source, mut here) = (source(), Process::default());
    here.source(&mut source, heard(Word::Running)).unwrap();
    assert_eq!((source.owner(), here.permits.len()), (Some(Side::Peer), 0));
    assert_eq!(source.step(Input::Cont).unwrap_err().code(), Code::NotOwner);
}

#[test]
fn a_contradiction_is_reported_and_changes_nothing() {
    let (mut source, mut here) = (source(), Process::default());
    here.source(&mut source, Input::Cancel).unwrap();
    let error = source.step(heard(Word::Running)).unwrap_err();
    assert_eq!(error.why, Denial::Contradiction(Word::Running));
    assert_eq!(source.owner(), Some(Side::Here));

    let (mut moved, mut away) = (self::source(), Process::default());
    away.source(&mut moved, heard(Word::Ready)).unwrap();
    away.source(&mut moved, heard(Word::Running)).unwrap();
    let refused = Word::Answer(Verdict::Refused);
    let error = moved.step(heard(refused)).unwrap_err();
    assert_eq!(error.why, Denial::Contradiction(refused));
    assert_eq!((moved.owner(), away.permits.len()), (Some(Side::Peer), 0));

    let mut there = Process::default();
    let mut destination = DestinationHandover::begin(particulars());
    there.destination(&mut destination, Input::Complete).unwrap();
    there.destination(&mut destination, heard(Word::Commit)).unwrap();
    let error = destination.step(heard(Word::Abort)).unwrap_err();
    assert_eq!(error.why, Denial::Contradiction(Word::Abort));
    assert_eq!(destination.owner(), Some(Side::Here));
}

#[test]
fn a_source_that_is_asked_gives_its_word() {
    let asked = |source: &mut SourceHandover| match source.step(heard(Word::Query)).unwrap()[..] {
        [Output::Send(message)] => message.word,
        ref other => panic!("{other:?}"),
    };
    let (mut source, mut here) = (source(), Process::default());
    assert_eq!(asked(&mut source), Word::Answer(Verdict::Unknown));
    here.source(&mut source, heard(Word::Ready)).unwrap();
    assert_eq!(asked(&mut source), Word::Commit);
    here.source(&mut source, Input::Expired(Timer::Reply)).unwrap();
    assert_eq!(asked(&mut source), Word::Commit);
    here.source(&mut source, resolve(Side::Peer)).unwrap();
    assert_eq!(asked(&mut source), Word::Commit);
    here.source(&mut source, heard(Word::Running)).unwrap();
    assert_eq!(asked(&mut source), Word::Answer(Verdict::Committed));

    let mut kept = self::source();
    here.source(&mut kept, Input::Cancel).unwrap();
    assert_eq!(asked(&mut kept), Word::Abort);
    assert!(here.permits.len() == 1, "asking gives nothing out");
}

#[test]
fn a_failed_record_takes_back_only_the_step_that_it_belongs_to() {
    let (mut source, mut here) = (source(), Process::default());
    here.source(&mut source, heard(Word::Ready)).unwrap();
    assert!(source.step(Input::Expired(Timer::Ready)).unwrap().is_empty());
    assert!(source.step(Input::RecordFailed).unwrap().is_empty());
    assert_eq!(source.owner(), None);

    let (mut destination, mut there) =
        (DestinationHandover::begin(particulars()), Process::default());
    there.destination(&mut destination, Input::Complete).unwrap();
    assert!(destination.step(Input::Cont).is_err());
    assert!(destination.step(Input::RecordFailed).unwrap().is_empty());
    assert_eq!(destination.phase(), DestinationPhase::Ready);
}

#[test]
fn what_only_the_other_role_says_is_an_error() {
    let mut source = source();
    for word in [Word::Commit, Word::Abort] {
        assert_eq!(source.step(heard(word)).unwrap_err().why, Denial::Unexpected(word));
    }
    assert_eq!(source.step(Input::Complete).unwrap_err().why, Denial::NotForThisRole);
    let mut destination = DestinationHandover::begin(particulars());
    for word in [Word::Ready, Word::Running, Word::Commit, Word::Answer(Verdict::Refused)] {
        assert_eq!(destination.step(heard(word)).unwrap_err().why, Denial::Unexpected(word));
    }
    assert_eq!(destination.phase(), DestinationPhase::Preparing);
}

#[test]
fn another_handovers_message_is_not_taken_for_this_ones() {
    let other = Token([8; 16]);
    let message = Input::Received(other.says(Word::Ready));
    let mut source = source();
    let error = source.step(message).unwrap_err();
    assert_eq!((error.token, error.why), (TOKEN, Denial::OtherToken(other)));
    assert_eq!(source.phase(), SourcePhase::Offered);
}

#[test]
fn a_dead_sources_witness_tells_the_destination_until_it_has_heard() {
    let (mut source, mut here) = (source(), Process::default());
    here.source(&mut source, heard(Word::Ready)).unwrap();
    drop(source);
    let (mut witnesses, unreadable) = Witness::of_all(&mut here.journal).unwrap();
    assert_eq!((witnesses.len(), unreadable.len()), (1, 0));
    let witness = &mut witnesses[0];
    assert_eq!(witness.wake()[0], Output::Send(TOKEN.says(Word::Commit)));
    let standing = witness.standing().unwrap();
    assert_eq!((standing.phase, standing.owner), ("gone", None));
    assert_eq!(witness.step(Input::Cont).unwrap_err().code(), Code::NotOwner);
    assert_eq!(witness.step(resolve(Side::Here)).unwrap_err().code(), Code::NotOwner);
    let mut said = vec![];
    witness
        .drive(heard(Word::Running), &mut here.journal, &mut |output| said.push(output))
        .unwrap();
    assert!(said.contains(&Output::Send(TOKEN.says(Word::Answer(Verdict::Committed)))));
    assert!(witness.is_done() && witness.standing().is_none());
    assert_eq!(here.journal, MemoryJournal::default());
}

#[test]
fn a_guest_that_died_with_its_source_and_was_refused_is_reported_lost() {
    let record =
        Record { role: Role::Source, decision: Decision::Open, particulars: particulars() };
    let mut witness = Witness::new(record);
    let outputs = witness.step(heard(Word::Answer(Verdict::Refused))).unwrap();
    assert!(outputs.contains(&Output::Notice(Notice::Lost)));
    assert!(outputs.contains(&Output::Send(TOKEN.says(Word::Abort))));
}

#[test]
fn an_operator_can_refuse_for_a_dead_destination() {
    let record =
        Record { role: Role::Destination, decision: Decision::Open, particulars: particulars() };
    let mut journal = MemoryJournal::default();
    journal.put(&record).unwrap();
    let mut witness = Witness::new(record);
    let asked = |witness: &mut Witness| witness.step(heard(Word::Query)).unwrap();
    let answer = |verdict| vec![Output::Send(TOKEN.says(Word::Answer(verdict)))];
    assert_eq!(asked(&mut witness), answer(Verdict::Unknown));
    let unfenced = Input::Resolve { owner: Side::Peer, fenced: false };
    assert_eq!(witness.step(unfenced).unwrap_err().code(), Code::NotFenced);
    journal.failures = 1;
    assert!(witness.drive(resolve(Side::Peer), &mut journal, &mut drop).is_err());
    assert_eq!(asked(&mut witness), answer(Verdict::Unknown));
    witness.drive(resolve(Side::Peer), &mut journal, &mut drop).unwrap();
    assert_eq!(asked(&mut witness), answer(Verdict::Refused));
    assert_eq!(journal.get(witness.key()).unwrap().unwrap().decision, Decision::Refused);
}

#[test]
fn a_dead_owner_is_not_disowned() {
    let decision = Decision::Committed;
    let record = Record { role: Role::Destination, decision, particulars: particulars() };
    let mut witness = Witness::new(record);
    let error = witness.step(heard(Word::Abort)).unwrap_err();
    assert_eq!(error.why, Denial::Contradiction(Word::Abort));
    assert_eq!(witness.step(resolve(Side::Peer)).unwrap_err().code(), Code::InvalidState);
    let answer = Output::Send(TOKEN.says(Word::Answer(Verdict::Committed)));
    assert_eq!(witness.step(heard(Word::Query)).unwrap(), [answer]);
}

#[test]
fn nothing_is_known_of_a_token_without_a_record() {
    for word in [Word::Query, Word::Commit, Word::Abort] {
        let answer = Witness::answer_without_record(TOKEN.says(word));
        assert_eq!(answer, Some(TOKEN.says(Word::Answer(Verdict::Unknown))));
    }
    assert_eq!(Witness::answer_without_record(TOKEN.says(Word::Running)), None);
}

#[test]
fn a_standing_says_who_owns_which_machine_since_when() {
    let expected = |role, phase, owner| Standing { role, phase, owner, particulars: particulars() };
    let (mut source, mut here) = (source(), Process::default());
    assert_eq!(source.standing(), expected(Role::Source, "offered", Some(Side::Here)));
    here.source(&mut source, heard(Word::Ready)).unwrap();
    assert_eq!(source.standing(), expected(Role::Source, "committing", None));
    let mut destination = DestinationHandover::begin(particulars());
    let preparing = expected(Role::Destination, "preparing", Some(Side::Peer));
    assert_eq!(destination.standing(), preparing);
    Process::default().destination(&mut destination, Input::Complete).unwrap();
    assert_eq!(destination.standing(), expected(Role::Destination, "ready", None));
}
