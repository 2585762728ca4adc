//! The one error type: what was tried, why it failed, and what to do about it.
//!
//! Errors travel by `?` up to `main`, which prints them once:
//!
//! ```text
//! skiff: cannot open image "a.sif": no such file or directory
//! hint: ...
//! ```
//!
//! A message says what was attempted and on what, in lower case without a full stop; the cause follows
//! after a colon; the hint, if any, is a sentence that tells the user what to do.

use std::{fmt, io};

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line asks for something that makes no sense.
    Usage,
    /// An image is missing, damaged, hostile, or of a kind that cannot be used.
    Image,
    /// This machine does not allow or provide something.
    Host,
    /// Reading or writing a file failed (no such file, no space, no permission).
    Io,
    /// The user's program could not be started.
    Program,
    /// The user asked to stop (Ctrl-C, SIGTERM).
    Interrupted,
    /// skiff itself is wrong.
    Internal,
}

/// An error with the object it concerns and a hint. See the module's header for the wording.
#[derive(Debug)]
pub struct Error {
    /// What the error is about.
    pub kind: Kind,
    /// What was attempted, on what.
    pub message: String,
    /// Why it failed, if something below said so.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// What the user can do.
    pub hint: Option<String>,
}

/// The result of everything in skiff that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether a file that may be missing is: it is not there, or lies where somebody else's, or an automounter that is down,
/// shows nothing.
pub fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, hint: None }
    }

    /// A damaged or unusable image.
    pub fn image(message: impl Into<String>) -> Self {
        Self::new(Kind::Image, message)
    }

    /// A mistake on the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Something this machine does not allow or provide.
    pub fn host(message: impl Into<String>) -> Self {
        Self::new(Kind::Host, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The operating system's error number at the root of this error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && let Some(errno) = io.raw_os_error()
            {
                return Some(errno);
            }
            cause = error.source();
        }
        None
    }

    /// The status `main` exits with: 255, which no batch system mistakes for the program's own (`docs/commands.md` lists
    /// them). After a request to stop the signal ends it, if that is known; else 130.
    pub fn exit_code(&self) -> i32 {
        if self.kind == Kind::Interrupted { 130 } else { 255 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.message)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            match error.downcast_ref::<Self>() {
                // Its own Display already walks the chain below it.
                Some(inner) => return write!(out, ": {inner}"),
                None => write!(out, ": {}", describe(error))?,
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// An operating system error without Rust's "(os error N)", in lower case as the rest.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let text = match error.downcast_ref::<nix::Error>() {
        Some(errno) => io::Error::from(*errno).to_string(),
        None => error.to_string(),
    };
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // "I/O error", "EOF": an abbreviation keeps its capitals.
        Some(first) if !letters.clone().next().is_some_and(|c| c.is_uppercase() || c == '/') => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Turns a lower-level failure into an [`Error`] that says what was being tried.
pub trait Context<T> {
    /// The kind and the attempted action; the original error becomes the cause.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;

    /// [`Context::context`] with [`Kind::Io`].
    fn tried(self, message: impl FnOnce() -> String) -> Result<T>
    where
        Self: Sized,
    {
        self.context(Kind::Io, message)
    }
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(kind, message()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_cause_and_errno_are_kept() {
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        let error = Err::<(), _>(missing).tried(|| "cannot open image \"a.sif\"".into()).unwrap_err();
        assert_eq!(error.to_string(), "cannot open image \"a.sif\": no such file or directory");
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert_eq!(error.exit_code(), 255);
        let outer = Error::new(Kind::Program, "cannot run").because(error);
        assert_eq!(outer.to_string(), "cannot run: cannot open image \"a.sif\": no such file or directory");
    }

    #[test]
    fn every_source_of_errnos_is_worded_alike() {
        let error = Error::host("x").because(nix::Error::ENOENT);
        assert_eq!(error.to_string(), "x: no such file or directory");
    }

    #[test]
    fn abbreviations_keep_their_capitals() {
        let error = Error::new(Kind::Io, "x").because(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(error.to_string(), "x: input/output error");
    }
}
