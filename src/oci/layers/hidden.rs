//! Whether a file of a layer shows, going by the names in the layers above it alone.
//!
//! It is a guess that spares work: what is surely hidden is not packed. Links among the directories may make it
//! wrong, as may names of a hidden file; the merge knows better in the end, and what it misses is fetched then.

use super::entry::{Name, What, names};
use std::collections::HashMap;

/// What the layers above say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// A directory, of which what lies below shows.
    Directory,
    /// Something that hides what lies below: no directory, an opaque one, or nothing at all.
    End,
}

/// What the layers above the one being read say.
#[derive(Debug, Default)]
pub struct Hidden {
    said: HashMap<Box<[u8]>, Said>,
    /// Of the layer being read: it hides nothing of its own.
    own: Vec<(Box<[u8]>, Said)>,
}

impl Hidden {
    /// Whether a file with this path is hidden.
    pub fn hides(&self, path: &[u8]) -> bool {
        if self.said.contains_key(path) || self.said.get(&[][..]) == Some(&Said::End) {
            return true;
        }
        let above = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        above.into_iter().any(|(at, _)| self.said.get(path.get(..at).unwrap_or_default()) == Some(&Said::End))
    }

    /// Takes down an entry of the layer being read.
    pub fn note(&mut self, path: &[u8], meaning: Name<'_>, what: &What) {
        let (path, said): (Box<[u8]>, _) = match meaning {
            Name::Note => return,
            Name::File if *what == What::Directory => (path.into(), Said::Directory),
            Name::File => (path.into(), Said::End),
            Name::Opaque(directory) => (directory.into(), Said::End),
            Name::Whiteout(directory, name) => {
                (names(directory).chain([name]).collect::<Vec<_>>().join(&b'/').into(), Said::End)
            }
        };
        self.own.push((path, said));
    }

    /// The next layer comes: what was taken down counts.
    pub fn next_layer(&mut self) {
        for (path, said) in self.own.drain(..) {
            let slot = self.said.entry(path).or_insert(said);
            if said == Said::End {
                *slot = said;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_an_end_is_hidden_and_a_layer_hides_nothing_of_its_own() {
        let mut hidden = Hidden::default();
        hidden.note(b"a", Name::File, &What::Directory);
        hidden.note(b"a/f", Name::File, &What::Regular(1));
        hidden.note(b"b/.wh.c", Name::Whiteout(b"b", b"c"), &What::Regular(0));
        hidden.note(b"d/.wh..wh..opq", Name::Opaque(b"d"), &What::Regular(0));
        assert!(!hidden.hides(b"a/f"));
        hidden.next_layer();
        for path in ["a", "a/f", "a/f/g", "b/c", "b/c/d", "d", "d/e"] {
            assert!(hidden.hides(path.as_bytes()), "{path}");
        }
        for path in ["a/g", "b/d", "b/cc", "e"] {
            assert!(!hidden.hides(path.as_bytes()), "{path}");
        }
        hidden.note(b".wh..wh..opq", Name::Opaque(b""), &What::Regular(0));
        hidden.next_layer();
        assert!(hidden.hides(b"e"));
    }
}
