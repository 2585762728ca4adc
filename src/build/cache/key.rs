//! What a step's result depends on, as one number: equal keys mean that the earlier result is this one.
//!
//! ```text
//! base ──▶ Chain ──key(facts)──▶ Key ──▶ look it up, or run the step and keep the layer
//!            ▲                                     │
//!            └──────── then(instance) ◀────────────┘
//! ```
//!
//! A chain goes on from what a step *gave*, not from what it was asked for: each kept layer has a random number of
//! its own (its instance), and the next key is made from it. A step that ran again may have given something else
//! (a mirror moved on), and a layer is only right over the very one it was made on; so whatever stood on the old one
//! is not found any more.
//!
//! What is in a key, and why:
//!
//! - the section's name, app and text after its templates were filled in: what is run. The values of templates
//!   reach a step by its text alone, so a value that no line of it uses does not make it run again.
//! - the program that reads the text: `-c /bin/bash`, `#!`
//! - the variables that the step sees, except those that say nothing to it (the builder leaves these out)
//! - the kind of ids: real root, subordinate ids and a single id leave different owners on disk
//! - the architecture, the list of binds and devices that are brought in (what is in them is not looked at)
//! - for files, the digest of what is copied
//! - the format's number: it changes when a skiff does the same step in another way

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::plan::Lines;

/// Changes when the same step leaves something else behind than before.
pub const FORMAT: u32 = 1;

/// 32 bytes that stand for something; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// What a kept result is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Digest);

/// Which of the results with the same key: a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instance(pub Digest);

impl Digest {
    /// Of 32 bytes.
    pub fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl Display for Digest {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, out)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 64 || digits.iter().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!("{text:?} is no digest"));
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Self(bytes))
    }
}

impl Display for Key {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl Key {
    /// The key that `text` is, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        Digest::try_from(text.to_owned()).ok().map(Self)
    }
}

impl Instance {
    /// A new one, like no other.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                // A kernel or filter without getrandom: still like no other on this machine.
                Err(_) => return Self(unlike_others()),
            }
        }
        Self(Digest(bytes))
    }
}

fn unlike_others() -> Digest {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut hash = Hash::new("instance");
    hash.number("time", now.as_nanos() as u64);
    hash.number("process", u64::from(std::process::id()));
    hash.number("count", COUNT.fetch_add(1, Ordering::Relaxed));
    hash.finish()
}

/// A hash of named fields. Each is written with its length, so that no two lists of fields give the same bytes.
#[derive(Debug, Clone)]
pub(super) struct Hash(Sha256);

impl Hash {
    pub(super) fn new(kind: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.bytes("skiff", kind.as_bytes());
        hash.number("format", u64::from(FORMAT));
        hash
    }

    pub(super) fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.bytes(name, &value.to_le_bytes());
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// What a stage stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image or a directory; see [`super::identity`].
    Image(Digest),
    /// What an agent made of the keys of the header, in the order of the plan.
    Agent {
        /// Its name.
        agent: String,
        /// The keys and their values.
        keys: Vec<(String, String)>,
        /// The architecture it was made for.
        architecture: String,
        /// Whose ids.
        ids: Ids,
    },
}

/// How root is given to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The caller is root.
    Root,
    /// By subordinate ids.
    Subordinate,
    /// By a single id, the rest recorded.
    Single,
}

/// What a step depends on besides what it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The section's name.
    pub section: &'a str,
    /// The app it is for.
    pub app: Option<&'a str>,
    /// The program that reads its text, with arguments; empty where there is none.
    pub by: &'a str,
    /// Its text, templates filled in.
    pub text: &'a [Lines],
    /// Binds, devices and whatever else of the host is brought in by flags, as they are given.
    pub binds: &'a [String],
    /// How root is given to it.
    pub ids: Ids,
    /// The architecture.
    pub architecture: &'a str,
    /// What is copied: where to (and any other option of the copy), and the digest of what. In order.
    pub copied: Vec<(String, Digest)>,
}

/// Where a stage has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain(Digest);

impl Base {
    /// The key under which the base that an agent makes is kept.
    pub fn key(&self) -> Key {
        Key(Chain::new(self).0)
    }
}

impl Chain {
    /// The start of a stage.
    pub fn new(base: &Base) -> Self {
        let mut hash = Hash::new("base");
        match base {
            Base::Scratch => hash.bytes("kind", b"scratch"),
            Base::Image(identity) => hash.bytes("image", &identity.0),
            Base::Agent { agent, keys, architecture, ids } => {
                hash.bytes("agent", agent.as_bytes());
                hash.bytes("architecture", architecture.as_bytes());
                hash.number("ids", *ids as u64);
                for (key, value) in keys {
                    hash.bytes("key", key.as_bytes());
                    hash.bytes("value", value.as_bytes());
                }
            }
        }
        Self(hash.finish())
    }

    /// The key of a step that is done here.
    pub fn key(&self, facts: &Facts<'_>) -> Key {
        let mut hash = Hash::new("step");
        hash.bytes("after", &self.0.0);
        hash.bytes("section", facts.section.as_bytes());
        hash.number("for an app", u64::from(facts.app.is_some()));
        hash.bytes("app", facts.app.unwrap_or_default().as_bytes());
        hash.bytes("by", facts.by.as_bytes());
        // Where it stands in the definition does not matter.
        for line in text_lines(facts.text) {
            hash.bytes("line", line.1.as_bytes());
        }
        facts.binds.iter().for_each(|bind| hash.bytes("bind", bind.as_bytes()));
        hash.number("ids", facts.ids as u64);
        hash.bytes("architecture", facts.architecture.as_bytes());
        for (target, digest) in &facts.copied {
            hash.bytes("copied to", target.as_bytes());
            hash.bytes("copied", &digest.0);
        }
        Key(hash.finish())
    }

    /// What the next step stands on, after one whose result is this.
    #[must_use]
    pub fn then(&self, result: Instance) -> Self {
        let mut hash = Hash::new("result");
        // The instance alone would do; the chain keeps a layer that two bases share apart.
        hash.bytes("after", &self.0.0);
        hash.bytes("instance", &result.0.0);
        Self(hash.finish())
    }

    /// As a digest, for the record of a build.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

/// The lines of a text with their numbers in the definition.
pub(super) fn text_lines(text: &[Lines]) -> impl Iterator<Item = (u32, &str)> {
    text.iter().flat_map(|part| (part.line..).zip(part.text.split('\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: u32, text: &str) -> Vec<Lines> {
        vec![Lines { line, text: text.into() }]
    }

    fn facts(text: &[Lines]) -> Facts<'_> {
        Facts {
            section: "post",
            app: None,
            by: "/bin/sh -ex",
            text,
            binds: &[],
            ids: Ids::Single,
            architecture: "amd64",
            copied: vec![("/a".into(), Digest([1; 32]))],
        }
    }

    #[test]
    fn every_fact_is_in_the_key() {
        let script = text(3, "a\nb\n");
        let chain = Chain::new(&Base::Scratch);
        let key = |change: &dyn Fn(&mut Facts<'_>)| {
            let mut facts = facts(&script);
            change(&mut facts);
            chain.key(&facts)
        };
        let keys = [
            key(&|_| {}),
            key(&|facts| facts.section = "setup"),
            key(&|facts| facts.app = Some("")),
            key(&|facts| facts.app = Some("x")),
            key(&|facts| facts.by = "/bin/bash"),
            key(&|facts| facts.text = &[]),
            key(&|facts| facts.ids = Ids::Root),
            key(&|facts| facts.ids = Ids::Subordinate),
            key(&|facts| facts.architecture = "arm64"),
            key(&|facts| facts.copied[0].0 = "/b".into()),
            key(&|facts| facts.copied[0].1 = Digest([2; 32])),
            key(&|facts| facts.copied.clear()),
            Chain::new(&Base::Image(Digest([0; 32]))).key(&facts(&script)),
            chain.then(Instance(Digest([0; 32]))).key(&facts(&script)),
            chain.then(Instance(Digest([1; 32]))).key(&facts(&script)),
        ];
        let binds = ["/a:/b".to_owned()];
        let mut bound = facts(&script);
        bound.binds = &binds;
        let mut all: Vec<Key> = keys.into_iter().chain([chain.key(&bound)]).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn where_the_text_stands_is_not() {
        let chain = Chain::new(&Base::Scratch);
        let whole = text(3, "a\nb\nc");
        let parts = [Lines { line: 30, text: "a\nb".into() }, Lines { line: 50, text: "c".into() }];
        assert_eq!(chain.key(&facts(&whole)), chain.key(&facts(&parts)));
        assert_ne!(chain.key(&facts(&whole)), chain.key(&facts(&text(3, "a\nb c"))));
    }

    #[test]
    fn bases_differ_by_what_they_are_made_of() {
        let agent = |keys: &[(&str, &str)], ids| Base::Agent {
            agent: "debootstrap".into(),
            keys: keys.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            architecture: "amd64".into(),
            ids,
        };
        let mut keys = vec![
            Base::Scratch.key(),
            Base::Image(Digest([7; 32])).key(),
            agent(&[], Ids::Root).key(),
            agent(&[], Ids::Single).key(),
            agent(&[("osversion", "trixie")], Ids::Root).key(),
            agent(&[("osversiontrixie", "")], Ids::Root).key(),
        ];
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn keys_are_written_and_read() {
        let key = Base::Scratch.key();
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        assert_eq!(Key::parse(&key.to_string().to_uppercase()), None);
        assert_eq!((Key::parse(""), Key::parse("../x")), (None, None));
        assert_ne!(Instance::random(), Instance::random());
        assert_ne!(unlike_others(), unlike_others());
    }
}
