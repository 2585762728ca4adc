//! At a terminal: Ctrl-C, Ctrl-Z, job control, shells. The terminal is a pseudo terminal of the test's, and in it a bash
//! of the host with job control, as a user has it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::*;

/// A shell at a terminal.
pub struct Terminal {
    shell: Child,
    master: fs::File,
    said: String,
}

/// Nothing of a test takes longer to be said.
const PATIENCE: Duration = Duration::from_secs(60);

impl Terminal {
    /// A bash of the host at a new terminal, without echo and prompt.
    pub fn new(place: &Place) -> Self {
        let bash = ["bash", "--noediting", "--norc", "--noprofile", "-i"];
        let mut terminal =
            Self::of(place, |command| command.args(bash).env("PS1", "").env("PS2", "").env("TERM", "dumb"));
        terminal.line("bind 2>/dev/null; PS1=; echo rea''dy");
        terminal.expect("ready\r\n");
        terminal
    }

    /// A program at a new terminal without echo, as the leader of its session.
    fn of(place: &Place, program: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let pty = nix::pty::openpty(None, None).expect("a terminal can be made");
        for end in [&pty.master, &pty.slave] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).expect("a descriptor can be marked");
        }
        let mut modes = tcgetattr(&pty.slave).expect("it is a terminal");
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&pty.slave, OptionalActions::Now, &modes).expect("echo can be turned off");
        let copy = || Stdio::from(pty.slave.try_clone().expect("a descriptor can be copied"));
        if nix::unistd::geteuid().is_root() {
            // As login does: who sits at a terminal may open it.
            let uid = nix::unistd::Uid::from_raw(crate::harness::user().uid);
            nix::unistd::fchown(&pty.slave, Some(uid), None).expect("a terminal can be given away");
        }
        let mut command = place.command("setsid");
        program(command.arg("--ctty")).env("skiff", skiff_binary());
        let shell = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("setsid starts");
        Self { shell, master: OwnedFd::into(pty.master), said: String::new() }
    }

    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    pub fn line(&mut self, line: &str) {
        self.press(&format!("{line}\n"));
    }

    /// Waits until `text` has been said, and forgets what was said until then.
    pub fn expect(&mut self, text: &str) {
        self.expect_one_of(&[text]);
    }

    /// Waits until one of `texts` has been said, forgets what was said until then, and gives its place in the list.
    pub fn expect_one_of(&mut self, texts: &[&str]) -> usize {
        let end = Instant::now() + PATIENCE;
        loop {
            for (place, text) in texts.iter().enumerate() {
                if let Some(at) = self.said.find(text) {
                    self.said.drain(..at + text.len());
                    return place;
                }
            }
            self.listen(end, texts);
        }
    }

    /// Takes what is said next, while `texts` are waited for.
    fn listen(&mut self, end: Instant, texts: &[&str]) {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).expect("a short time");
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        let count = rustix::event::poll(&mut ready, Some(&limit)).expect("a terminal can be watched");
        assert!(count > 0, "the terminal never said {texts:?}, but {:?}", self.said);
        let mut bytes = [0; 4096];
        // EIO when the last program at the terminal has ended.
        let count = self.master.read(&mut bytes).unwrap_or(0);
        assert!(count > 0, "the terminal is gone before it said {texts:?}; it said {:?}", self.said);
        self.said.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }

    /// What a command says at the terminal, with all that is no text.
    pub fn hear(&mut self, command: &str) -> String {
        self.line(&format!("echo be''gin; {command}; echo en''d"));
        self.expect("begin\r\n");
        let end = Instant::now() + PATIENCE;
        while !self.said.contains("end\r\n") {
            self.listen(end, &["end"]);
        }
        let at = self.said.find("end\r\n").expect("it was just found");
        let heard = self.said.drain(..at).collect();
        self.said.clear();
        heard
    }

    /// What the shell says the last command's status was.
    pub fn expect_status(&mut self, status: i32) {
        self.line("echo sta''tus $?.");
        self.expect(&format!("status {status}.\r\n"));
    }

    pub fn end(mut self) {
        self.line("exit 0");
        let status = self.shell.wait().expect("a child can be waited for");
        assert!(status.success(), "{status}: {:?}", self.said);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failure: the rest is found by the place.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";
pub const CTRL_Z: &str = "\x1a";
const CTRL_BACKSLASH: &str = "\x1c";

/// A terminal for each way to run a program, with the flags of that way in `$flags`.
fn at_terminals(name: &str, test: impl Fn(&mut Terminal, &Place)) {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new(name);
    place.busybox_image();
    for flags in WAYS {
        let mut terminal = Terminal::new(&place);
        terminal.line(&format!("flags='{}'", flags.join(" ")));
        eprintln!("at a terminal, with {flags:?}");
        test(&mut terminal, &place);
        terminal.end();
    }
}

#[test]
fn ctrl_c_ends_a_program_that_does_not_heed_it() {
    at_terminals("terminal-interrupt", |terminal, place| {
        for (key, status) in [(CTRL_C, 130), (CTRL_BACKSLASH, 131)] {
            // Not a shell: one that is process 1 cannot carry out on itself what it has caught.
            terminal.line("ulimit -c 0; $skiff exec $flags busybox.sif sleep 1000");
            wait_until("the program runs", || runs(place, "sleep 1000"));
            terminal.press(key);
            terminal.expect_status(status);
        }
    });
}

#[test]
fn ctrl_c_reaches_a_program_that_heeds_it_once() {
    at_terminals("terminal-trap", |terminal, place| {
        let script = "n=0; trap 'n=$((n+1)); echo caught $n.' INT; echo here; \
                      until [ -e stop ]; do sleep 0.02; done; rm -f stop; echo end $n.; exit 7";
        place.write("script", script);
        terminal.line("$skiff exec $flags busybox.sif sh ./script");
        terminal.expect("here\r\n");
        terminal.press(CTRL_C);
        terminal.expect("caught 1.\r\n");
        terminal.press(CTRL_C);
        terminal.expect("caught 2.\r\n");
        // The terminal is the program's, so the stop comes from elsewhere.
        place.write("stop", "");
        terminal.expect("end 2.\r\n");
        terminal.expect_status(7);
    });
}

#[test]
fn ctrl_z_stops_a_program_and_fg_lets_it_go_on() {
    at_terminals("terminal-stop", |terminal, _| {
        terminal.line("$skiff exec $flags busybox.sif sh -c 'echo he''re; while read word; do echo got $word.; done; exit 4'");
        terminal.expect("here\r\n");
        for word in ["one", "two"] {
            terminal.press(CTRL_Z);
            terminal.expect("Stopped");
            // The shell has the terminal again.
            terminal.line("echo sh''ell; jobs -s | grep -c Stopped");
            terminal.expect("shell\r\n1\r\n");
            terminal.line("fg >/dev/null");
            terminal.line(word);
            terminal.expect(&format!("got {word}.\r\n"));
        }
        terminal.press(CTRL_D);
        terminal.expect_status(4);
    });
}

#[test]
fn a_program_in_the_background_stops_when_it_reads_and_is_seen_to_end() {
    at_terminals("terminal-background", |terminal, _| {
        terminal.line("$skiff exec $flags busybox.sif sh -c 'echo got $(head -n 1).' &");
        wait_until("the job stops", || children(pid(&terminal.shell)).iter().any(|(_, state)| state == "T"));
        terminal.line("jobs -s | grep -c Stopped");
        terminal.expect("\r\n1\r\n");
        terminal.line("fg >/dev/null");
        terminal.line("word");
        terminal.expect("got word.\r\n");
        terminal.expect_status(0);
        terminal.line("$skiff exec $flags busybox.sif sh -c 'exit 5' & wait $!; echo ended $?.");
        terminal.expect("ended 5.\r\n");
    });
}

#[test]
fn a_pipeline_at_a_terminal_is_one_job() {
    at_terminals("terminal-pipeline", |terminal, place| {
        terminal.line("$skiff exec $flags busybox.sif sleep 1000 | cat");
        wait_until("the program runs", || runs(place, "sleep 1000"));
        terminal.press(CTRL_C);
        terminal.line("echo aft''er");
        terminal.expect("after\r\n");
    });
}

#[test]
fn programs_see_the_terminal() {
    at_terminals("terminal-seen", |terminal, _| {
        terminal.line("stty rows 33 cols 77; tty");
        terminal.expect("/dev/pts/");
        terminal.line("$skiff exec $flags busybox.sif sh -c 'stty size; tty >/dev/null && echo terminal.'");
        terminal.expect("33 77\r\nterminal.\r\n");
        terminal
            .line("$skiff exec --contain $flags busybox.sif sh -c 'stty size; test -t 0 && echo terminal.'");
        terminal.expect("33 77\r\nterminal.\r\n");
    });
}

#[test]
fn a_shell_in_the_container_has_job_control_of_its_own() {
    at_terminals("terminal-shell", |terminal, _| {
        terminal.line("$skiff shell $flags busybox.sif");
        terminal.line("PS1=; echo in''side");
        terminal.expect("inside\r\n");
        terminal.line("sh -c 'echo he''re; exec sleep 1000'");
        terminal.expect("here\r\n");
        terminal.press(CTRL_C);
        terminal.line("echo status $?.");
        terminal.expect("status 130.\r\n");
        terminal.line("sh -c 'echo he''re; read word; echo got $word.'");
        terminal.expect("here\r\n");
        terminal.press(CTRL_Z);
        terminal.expect("Stopped");
        terminal.line("fg >/dev/null");
        terminal.line("word");
        terminal.expect("got word.\r\n");
        terminal.line("exit 6");
        // The host's shell has the terminal back.
        terminal.expect_status(6);
    });
}

#[test]
fn a_terminal_that_is_hung_up_is_heard_of_by_the_program() {
    if !able(&NEEDS) {
        return;
    }
    let place = Place::new("terminal-hangup");
    place.busybox_image();
    let script = "trap 'echo hung up >said; exit 3' HUP; echo here; while :; do sleep 0.02; done";
    for flags in WAYS {
        // The kernel tells the leader of the session alone, as where ssh starts it.
        let words = [&["exec"], flags, &["busybox.sif", "sh", "-c", script]].concat();
        let mut terminal = Terminal::of(&place, |command| command.arg(skiff_binary()).args(words));
        terminal.expect("here\r\n");
        let null = fs::File::open("/dev/null").expect("/dev/null can be opened");
        drop(std::mem::replace(&mut terminal.master, null));
        assert_eq!(terminal.shell.wait().expect("it ends").code(), Some(3), "{flags:?}");
        assert_eq!(fs::read_to_string(place.work("said")).expect("it said something"), "hung up\n");
        fs::remove_file(place.work("said")).expect("a file can be removed");
    }
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let place = Place::new("terminal-colours");
    let mut terminal = Terminal::new(&place);
    let colour = "\x1b[";
    // An error of ours, one of the command line's, a report, help: on standard error and on standard output.
    for words in ["exec missing.sif true", "exec --nonsense", "doctor", "--help"] {
        let text = terminal.hear(&format!("TERM=xterm $skiff {words}"));
        let coloured = text.contains(colour);
        assert!(coloured, "{words}: {text:?}");
        let empty = terminal.hear(&format!("TERM=xterm NO_COLOR= $skiff {words}"));
        assert_eq!(empty.contains(colour), coloured, "{words}: {empty:?}");
        for without in [
            "NO_COLOR=1 $skiff",
            "SKIFF_NOCOLOR=1 $skiff",
            "APPTAINER_NOCOLOR=1 $skiff",
            "$skiff --no-color",
            "TERM=dumb $skiff",
        ] {
            let text = terminal.hear(&format!("TERM=xterm; {without} {words}"));
            assert!(!text.is_empty() && !text.contains('\x1b'), "{without} {words}: {text:?}");
        }
        let piped = terminal.hear(&format!("TERM=xterm $skiff {words} 2>&1 | cat"));
        assert!(!piped.is_empty() && !piped.contains('\x1b'), "{words}: {piped:?}");
    }
    terminal.end();
}
