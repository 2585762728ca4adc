//! Whose turn it is to receive calls. The thread that has it answers them itself, one after the other, since handing
//! each to another thread costs more than most answers. But an answer may wait: for a file system that a filtered
//! process serves, whose own calls are not received meanwhile. So a thread that is at one answer for long loses its turn
//! to another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An answer that takes longer may be waiting. At most twice this passes until another thread receives.
const PATIENCE: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Turn {
    state: Mutex<State>,
    /// Told when the turn is free.
    free: Condvar,
    /// Told when calls come in again.
    awake: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of the turn that somebody has.
    held: Option<u64>,
    last: u64,
    /// Whether its holder is at an answer.
    at_answer: bool,
    /// So many answers were begun.
    begun: u64,
    /// Whether somebody looks after them.
    watched: bool,
}

/// A turn. It may be lost.
pub struct Token(u64);

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody has the turn, and takes it.
    pub fn take(&self) -> Token {
        let state = self.free.wait_while(self.state(), |state| state.held.is_some());
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        state.held = Some(state.last);
        Token(state.last)
    }

    /// Begins an answer.
    pub fn begin(&self, token: &Token) {
        let mut state = self.state();
        if state.held == Some(token.0) {
            state.at_answer = true;
            state.begun += 1;
            if !state.watched {
                state.watched = true;
                self.awake.notify_one();
            }
        }
    }

    /// Ends it. Whether the turn was not lost meanwhile.
    pub fn end(&self, token: &Token) -> bool {
        let mut state = self.state();
        let held = state.held == Some(token.0);
        if held {
            state.at_answer = false;
        }
        held
    }

    /// Waits for an answer that takes long, and takes the turn from who is at it. While no calls come it sleeps.
    pub fn wait_for_long_answer(&self) {
        let mut state = self.state();
        loop {
            state =
                self.awake.wait_while(state, |state| !state.watched).unwrap_or_else(PoisonError::into_inner);
            let begun = state.begun;
            drop(state);
            std::thread::sleep(PATIENCE);
            state = self.state();
            if state.begun != begun {
                continue;
            }
            if state.at_answer {
                state.at_answer = false;
                state.held = None;
                self.free.notify_one();
                return;
            }
            state.watched = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_lost_at_a_long_answer_alone() {
        let turn = Turn::default();
        let token = turn.take();
        turn.begin(&token);
        assert!(turn.end(&token));
        std::thread::scope(|scope| {
            scope.spawn(|| turn.wait_for_long_answer());
            std::thread::sleep(5 * PATIENCE);
            // Waiting for calls is no answer.
            turn.begin(&token);
            assert!(turn.end(&token));
            turn.begin(&token);
            let next = turn.take();
            assert!(!turn.end(&token));
            turn.begin(&next);
            assert!(turn.end(&next));
        });
    }
}
