//! Signals that come while a container is being made, at every moment of it: each counts once, whether the program is
//! there yet or not. `SKIFF_TEST_ROUNDS` says how often it is tried.

use std::time::Instant;

use super::terminal::{CTRL_C, CTRL_Z, Terminal};
use super::*;

/// Answers each line with how many SIGINTs it has seen, until one says that it shall end. (A SIGINT makes busybox's
/// `read` fail, too.)
const COUNT: &str = "n=0; f=0; trap 'n=$((n+1))' INT; while [ $f -lt 9 ]; do \
                     if read word; then [ $word != end ] || exit 0; echo got $n.; else f=$((f+1)); fi; done; exit 1";

fn rounds() -> u32 {
    std::env::var("SKIFF_TEST_ROUNDS").map_or(40, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Moments from the start of a container until its program has been there for a while: all of them in equal steps, in
/// an order that leaps about.
fn moments(start: impl Fn()) -> impl Iterator<Item = Duration> {
    let begin = Instant::now();
    (0..5).for_each(|_| start());
    let (whole, rounds) = (begin.elapsed() / 4, rounds());
    (0..rounds).map(move |round| whole * (round * 7 % rounds) / rounds)
}

/// How many SIGINTs the program has seen; `None` when it is gone.
fn seen(child: &mut Child, out: &mut BufReader<ChildStdout>) -> Option<u32> {
    let mut said = String::new();
    writeln!(child.stdin.as_mut().expect("stdin is piped"), "?").ok()?;
    out.read_line(&mut said).expect("a pipe can be read");
    let count = said.trim_end().strip_prefix("got ")?.strip_suffix('.')?;
    Some(count.parse().expect("a count"))
}

fn end(child: &mut Child) {
    writeln!(child.stdin.as_mut().expect("stdin is piped"), "end").expect("it reads");
}

/// Starts containers, sends a SIGINT to each in a different moment, and sees what became of it.
fn interrupt(place: &Place, flags: &[&str], whole_group: bool) {
    let start = || {
        let mut command = command(place, flags, COUNT);
        command.env("SKIFF_LINGER", "1000").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("skiff starts");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        (child, out)
    };
    let (mut died, mut lived) = (0, 0);
    let moments = moments(|| {
        let (mut child, mut out) = start();
        assert_eq!(seen(&mut child, &mut out), Some(0));
        end(&mut child);
        assert!(child.wait().expect("it ends").success());
    });
    for moment in moments {
        let (mut child, mut out) = start();
        std::thread::sleep(moment);
        let target = if whole_group { Pid::from_raw(-pid(&child).as_raw()) } else { pid(&child) };
        kill(target, Signal::SIGINT).expect("it lives");
        let how = format!("{flags:?}, whole group: {whole_group}, after {moment:?}");
        let mut count = seen(&mut child, &mut out);
        let latest = Instant::now() + Duration::from_secs(10);
        while count == Some(0) {
            assert!(Instant::now() < latest, "a SIGINT is lost: {how}");
            count = seen(&mut child, &mut out);
        }
        if count.is_some() {
            // One that counts again would come about now.
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(seen(&mut child, &mut out), Some(1), "{how}");
            end(&mut child);
            lived += 1;
        }
        let status = child.wait().expect("it ends");
        match (count, status.signal(), status.code()) {
            (Some(_), None, Some(0)) | (None, Some(libc::SIGINT), None) => {}
            // A shell that has caught it cannot carry it out on itself as process 1.
            (None, None, Some(130)) if flags.contains(&"--no-init") => {}
            other => panic!("{other:?}: {how}"),
        }
        died += u32::from(count.is_none());
    }
    assert!(
        died > 0 && lived > 0,
        "{flags:?}: {died} died of it, {lived} saw it: not all moments were tried"
    );
}

#[test]
fn a_signal_that_is_sent_while_a_container_is_made_counts_once() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("arriving-sent");
    place.busybox_image();
    for flags in WAYS {
        interrupt(&place, flags, false);
    }
}

#[test]
fn a_signal_to_the_whole_group_while_a_container_is_made_counts_once() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("arriving-group");
    place.busybox_image();
    // Without init nothing can tell it from one for the caller's process alone. Here and below, that way is left out.
    for flags in &WAYS[..2] {
        interrupt(&place, flags, true);
    }
}

/// Starts containers at terminals, presses a key in a different moment at each, and has the rest looked at.
fn press(name: &str, key: &str, look: impl Fn(&mut Terminal)) {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new(name);
    place.busybox_image();
    place.write("count", COUNT);
    // It is in the foreground when it says something.
    let start = "sh -c 'echo he''re; exec $skiff exec $* busybox.sif sh ./count' sh $flags";
    for flags in &WAYS[..2] {
        let terminal = std::cell::RefCell::new(Terminal::new(&place));
        let begin = || {
            terminal.borrow_mut().line(start);
            terminal.borrow_mut().expect("here\r\n");
        };
        // What the shell answers where the program is no more.
        let prepare =
            format!("export SKIFF_LINGER=1000; flags='{}'; ask() {{ echo died $?.; }}", flags.join(" "));
        terminal.borrow_mut().line(&prepare);
        let moments = moments(|| {
            begin();
            let mut terminal = terminal.borrow_mut();
            terminal.line("ask");
            terminal.expect("got 0.\r\n");
            terminal.line("end");
            terminal.expect_status(0);
        });
        for moment in moments {
            eprintln!("{flags:?}: pressed after {moment:?}");
            begin();
            std::thread::sleep(moment);
            terminal.borrow_mut().press(key);
            look(&mut terminal.borrow_mut());
        }
        terminal.into_inner().end();
    }
}

#[test]
fn ctrl_c_while_a_container_is_made_counts_once() {
    press("arriving-interrupt", CTRL_C, |terminal| {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            terminal.line("ask");
            match terminal.expect_one_of(&["died 130.\r\n", "got 1.\r\n", "got 0.\r\n"]) {
                0 => break,
                1 => {
                    terminal.line("end");
                    terminal.expect_status(0);
                    break;
                }
                _ => assert!(Instant::now() < end, "a SIGINT is lost"),
            }
        }
    });
}

#[test]
fn ctrl_z_while_a_container_is_made_stops_it_and_fg_lets_it_go_on() {
    press("arriving-stop", CTRL_Z, |terminal| {
        terminal.expect("Stopped");
        terminal.line("fg >/dev/null");
        terminal.line("ask");
        terminal.expect("got 0.\r\n");
        terminal.line("end");
        terminal.expect_status(0);
    });
}
