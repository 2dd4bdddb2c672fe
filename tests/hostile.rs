//! Peers that are slow, rude or out of order. Whatever they do, the control socket answers, the guest
//! goes on, and the next move works.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/peer.rs"]
mod peer;
mod support;

use peer::{Destination, connect, greet, greeting, hear_out, next, say, welcome, welcome_at};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::{Host, wait};
use wire::{Describe, Message, PassEnd, Ready, Role, Running, State, Verdict};

const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "2", "--cmdline", "ws=16M rate=5000"];
const TOKEN: [u8; 16] = [7; 16];

/// A machine that waits answers its control socket, and takes a guest.
fn still_works(host: &Host, to: &str) {
    assert_eq!(host.state("b"), "inmigrate");
    let mut source = host.selfcheck("a", &SHAPE);
    let report = host.migrate("a", to, &[]);
    assert_eq!(report["status"], "completed", "{report:#}");
    source.kill();
}

#[test]
fn connections_that_say_nothing_or_say_it_slowly_keep_no_source_out() {
    let host = Host::new();
    let (destination, to) = host.incoming("b", &[]);
    // More than are listened to at a time, and all of them stay.
    let strangers: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = connect(&to);
            // Nothing, or a part of a greeting.
            let _ = stream.write_all(&greeting(Role::Control, 0)[..number % 40]);
            stream
        })
        .collect();
    still_works(&host, &to);
    drop(strangers);
    destination.check_all();
}

#[test]
fn whoever_is_no_source_is_turned_away_and_the_next_may_come() {
    let host = Host::new();
    let (destination, to) = host.incoming("b", &[]);
    // One that does not come to its greeting's end.
    let mut silent = connect(&to);
    silent.write_all(&greeting(Role::Control, 0)[..20]).unwrap();
    // Another protocol.
    let mut stream = connect(&to);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(hear_out(&mut stream), []);
    // A first message that is none, and one that announces more than any greeting has.
    for first in [Message::Ping(1).encode(), vec![0, 0, 0, 1, 9, 0, 0, 0]] {
        let mut stream = connect(&to);
        stream.write_all(&[&wire::MAGIC[..], &first].concat()).unwrap();
        assert_eq!(hear_out(&mut stream), []);
    }
    // Pages of no motion.
    let (_, answer) = greet(&to, Role::Data);
    assert!(matches!(answer, Message::Refused(_)), "{answer:?}");
    // A question about nothing that is known here.
    let (mut stream, answer) = greet(&to, Role::Question);
    assert!(matches!(answer, Message::Welcome(_)), "{answer:?}");
    say(&mut stream, &Message::Query(TOKEN));
    let answer = wire::read_message(&mut stream).unwrap();
    assert_eq!(answer, Message::Answer(TOKEN, Verdict::Unknown));
    drop(stream);
    still_works(&host, &to);
    destination.check_all();
    assert_eq!(hear_out(&mut silent), [], "it was closed by then, or is soon");
}

#[test]
fn sound_messages_in_a_wrong_order_end_that_motion_and_no_other() {
    let host = Host::new();
    let (destination, to) = host.incoming("b", &[]);
    let describe = |connections, description| {
        Message::Describe(Describe { description, connections, check_only: false, token: TOKEN })
    };
    let state = State { state: vec![0x80], run: true, data_pages: 0, zero_pages: 0 };
    for (wrong, turned_away) in [
        (Message::Commit(TOKEN), true),
        (Message::State(state), true),
        (Message::PassEnd(PassEnd { pass: 1, data_pages: 0, zero_pages: 0 }), true),
        (Message::Ready(Ready { token: TOKEN, restore: 0 }), true),
        (Message::Running(Running { token: TOKEN, start: 0, held: 0 }), true),
        (Message::Answer(TOKEN, Verdict::Committed), true),
        // No machine is described by that, and none can be had with so many connections.
        (describe(1, vec![0x80]), true),
        (describe(u16::MAX, vec![0x80]), true),
        (Message::Abort(TOKEN), true),
        (Message::Query(TOKEN), true),
    ] {
        let (mut control, answer) = greet(&to, Role::Control);
        assert!(matches!(answer, Message::Welcome(_)), "before {wrong:?}: {answer:?}");
        say(&mut control, &wrong);
        let said = hear_out(&mut control);
        let refused = matches!(said.last(), Some(Message::Failed(_) | Message::Refused(_)));
        assert_eq!(refused, turned_away, "after {wrong:?} it said {said:?}");
        assert_eq!(host.state("b"), "inmigrate");
    }
    // Half a frame, and then nothing more.
    let (mut control, _) = greet(&to, Role::Control);
    control.write_all(&describe(1, vec![0; 4096]).encode()[..100]).unwrap();
    drop(control);
    wait("the half frame to be given up", || {
        let (control, answer) = greet(&to, Role::Control);
        drop(control);
        matches!(answer, Message::Welcome(_)).then_some(())
    });
    wait_until_free(&to);
    still_works(&host, &to);
    destination.check_all();
}

/// The last source that was let in has been given up.
fn wait_until_free(to: &str) {
    wait("the destination to wait again", || {
        let (mut control, answer) = greet(to, Role::Control);
        let free = matches!(answer, Message::Welcome(_));
        if free {
            // It is told why, and has let go when the connection ends.
            say(&mut control, &Message::Commit(TOKEN));
            hear_out(&mut control);
        }
        free.then_some(())
    });
}

#[test]
fn a_source_that_greets_and_never_says_what_is_to_come_is_turned_away() {
    let host = Host::new();
    // Nobody waits for so long; what is set later holds at once.
    let (destination, to) = host.incoming("b", &["--stall-limit", "1h"]);
    let parameters = host.ask("b", "query-migrate-parameters", None).unwrap();
    assert_eq!(parameters["x-whimbrel-stall-limit"], 3_600_000);
    let (mut control, _) = greet(&to, Role::Control);
    let mut pinging = control.try_clone().unwrap();
    let pings = thread::spawn(move || {
        let mut number = 0;
        while pinging.write_all(&Message::Ping(number).encode()).is_ok() {
            number += 1;
            thread::sleep(Duration::from_millis(100));
        }
    });
    host.ask("b", "migrate-set-parameters", json!({ "x-whimbrel-stall-limit": 800 })).unwrap();
    let said = hear_out(&mut control);
    assert!(said.iter().any(|m| matches!(m, Message::Pong(..))), "{said:?}");
    let Some(Message::Failed(failed)) = said.last() else { panic!("{said:?}") };
    assert!(failed.why.contains("for 0.8 s"), "{failed:?}");
    host.ask("b", "migrate-set-parameters", json!({ "x-whimbrel-stall-limit": 60_000 })).unwrap();
    assert_eq!(host.state("b"), "inmigrate");
    drop(control);
    pings.join().unwrap();
    still_works(&host, &to);
    destination.check_all();
}

#[test]
fn questions_and_strangers_in_masses_do_not_disturb_a_move() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let (destination, to) = host.incoming("b", &[]);
    let over = Arc::new(AtomicBool::new(false));
    // Each greets, asks a lot, reads nothing, and goes with all that unread: a reset.
    let nuisances: Vec<_> = [Role::Question, Role::Data]
        .map(|role| {
            let (over, to) = (over.clone(), to.clone());
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(to.strip_prefix("tcp:").unwrap())
                    else {
                        continue;
                    };
                    let asked = Message::Query(TOKEN).encode().repeat(200);
                    let _ = stream.write_all(&[greeting(role, 0), asked].concat());
                }
            })
        })
        .into();
    // Long enough to be disturbed; and how fast the guest writes meanwhile, or how slow strangers make the
    // destination, is not to decide whether it ends.
    let more = ["--max-bandwidth", "8M", "--max-blackout", "unlimited"];
    let report = host.migrate("a", &to, &more);
    over.store(true, Ordering::Relaxed);
    nuisances.into_iter().for_each(|nuisance| nuisance.join().unwrap());
    assert_eq!(report["status"], "completed", "{report:#}");
    destination.check_all();
    drop(source);
}

/// A move to a destination that a test plays.
fn towards(host: &Host, to: &str) -> Child {
    host.begin_migrate("a", to, &["--connections", "1", "--max-blackout", "unlimited"])
}

#[test]
fn a_destination_that_answers_out_of_order_does_not_get_the_guest() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    for wrong in [
        |token| vec![Message::Running(Running { token, start: 0, held: 0 })],
        |token| vec![Message::Answer(token, Verdict::Committed)],
        |token| vec![Message::Ready(Ready { token, restore: 0 })],
        |token| vec![Message::Commit(token)],
        |_| vec![Message::PassDone(1), Message::PassDone(9)],
        |_| {
            vec![
                Message::Accepted { save: u64::MAX, restore: 0 },
                Message::Accepted { save: 0, restore: 0 },
            ]
        },
    ] {
        let peer = Destination::listen();
        let mut job = towards(&host, &peer.address());
        let (mut control, token) = peer.described();
        for message in wrong(token) {
            say(&mut control, &message);
        }
        // It hangs up, with or without a last word.
        while next(&mut control).is_ok() {}
        assert_eq!(job.wait().unwrap().code(), Some(1));
        assert_eq!(host.motion("a")["status"], "failed");
        host.wait_for_state("a", "running");
    }
    host.goes_on(&source);
}

#[test]
fn a_destination_that_claims_a_guest_without_its_state_does_not_get_it() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let peer = Destination::listen();
    let to = peer.address();
    // Frozen: the guest stands still, and its state comes last of all.
    let mut job = host.begin_migrate("a", &to, &["--frozen", "--connections", "1"]);
    let (mut control, token) = peer.described();
    say(&mut control, &Message::Accepted { save: 0, restore: 0 });
    let data = peer.welcome();
    say(&mut control, &Message::Running(Running { token, start: 0, held: 0 }));
    say(&mut control, &Message::Answer(token, Verdict::Committed));
    while next(&mut control).is_ok() {}
    drop((control, data, peer));
    assert_eq!(job.wait().unwrap().code(), Some(1));
    host.goes_on(&source);
}

#[test]
fn a_move_to_a_destination_that_drips_is_cancelled_at_once() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    // It takes forever to say welcome.
    let peer = Destination::listen();
    let mut job = towards(&host, &peer.address());
    let mut control = peer.accept();
    control.write_all(&welcome()[..5]).unwrap();
    cancel(&host, &mut job);
    drop((control, peer));
    // It takes pages a few at a time, and says that it has them.
    let peer = Destination::listen();
    let mut job = towards(&host, &peer.address());
    let (mut control, _) = peer.described();
    say(&mut control, &Message::Accepted { save: 0, restore: 0 });
    let dripping = thread::spawn(move || while next(&mut control).is_ok() {});
    let mut data = peer.welcome();
    data.read_exact(&mut [0; 4096]).unwrap();
    host.wait_for_motion("a", "active");
    cancel(&host, &mut job);
    dripping.join().unwrap();
    host.goes_on(&source);
}

#[test]
fn a_destination_that_says_nothing_is_given_up_as_soon_as_is_wanted() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    let peer = Destination::listen();
    let to = peer.address();
    let slowly = ["--connections", "1", "--max-bandwidth", "1M", "--stall-limit", "1h"];
    let mut job = host.begin_migrate("a", &to, &slowly);
    let (mut control, _) = peer.described();
    say(&mut control, &Message::Accepted { save: 0, restore: 0 });
    let data = peer.welcome();
    host.wait_for_motion("a", "active");
    host.ask("a", "migrate-set-parameters", json!({ "x-whimbrel-stall-limit": 800 })).unwrap();
    assert_eq!(job.wait().unwrap().code(), Some(1));
    let motion = host.motion("a");
    assert_eq!(motion["x-whimbrel-report"]["error"]["code"], "link-stalled", "{motion:#}");
    assert!(motion["error-desc"].as_str().unwrap().contains("for 0.8 s"), "{motion:#}");
    drop((control, data, peer));
    host.ask("a", "migrate-set-parameters", json!({ "x-whimbrel-stall-limit": 60_000 })).unwrap();
    host.goes_on(&source);
}

#[test]
fn a_destination_whose_clock_is_another_gets_no_guest() {
    let host = Host::new();
    let source = host.selfcheck("a", &SHAPE);
    for seconds in [-20, 20] {
        let peer = Destination::listen();
        let mut job = towards(&host, &peer.address());
        let mut control = peer.accept();
        control.write_all(&welcome_at(seconds)).unwrap();
        assert_eq!(job.wait().unwrap().code(), Some(3));
        let motion = host.motion("a");
        assert_eq!(motion["x-whimbrel-report"]["error"]["code"], "clock-skew", "{motion:#}");
    }
    host.goes_on(&source);
}

/// Cancels a move whose destination is there and does nothing.
fn cancel(host: &Host, job: &mut Child) {
    wait("the move to begin", || (host.motion("a")["status"] != "none").then_some(()));
    let answer = host.qmp("a", "migrate_cancel", "{}");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert_eq!(job.wait().unwrap().code(), Some(4), "cancelled is status 4");
    assert_eq!(host.motion("a")["status"], "cancelled");
    assert_eq!(host.state("a"), "running");
}
