//! Files that are read one after the other: which ones come next.
//!
//! They are put into the kernel's page cache before anyone asks for them ([`super::store`]), so that reading them
//! costs no request. What comes next is the order of the image: packers write inodes and data in the order of the
//! directories, and `tar`, `cp -r`, `grep -r` and `find | xargs` read them so.
//!
//! ```text
//! inode table   a b c d e f g h i j k … p q r …
//! a read        nothing yet: it may be the only one
//! b read        a sequence; b's reader has c and d before we could, so hand over e f g h, but for the one in the
//!               middle, the mark
//! c, d read,    the reader has come so far: hand over the next, so that twice as many are ahead of it, but for the
//! mark read     mark in their middle
//! …             up to p, of which the kernel does not know yet: its directory has not been listed
//! p listed      hand over p q r …, until as many are handed over as may be without a read; what the kernel does not
//!               take yet, since the program that listed them has not gone on, is tried again at the next listing
//! ```
//!
//! A read of the mark is the only way to learn that the reader goes on, since the kernel asks nothing about files that
//! it has. It takes data only of files that it knows.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::image::squashfs::{Content, Inode, Squashfs};

/// The longest file that is handed over, in bytes.
const MOST_FILE_BYTES: u64 = 512 << 10;
/// Most files that are handed over ahead of a reader, and most bytes at a time.
const MOST_FILES: usize = 64;
const MOST_BYTES: u64 = 4 << 20;
/// Files that are handed over first.
const FIRST_FILES: usize = 4;
/// How near, in files, a read goes on with a sequence.
const NEAR_FILES: usize = 4;
/// Files right after the one that is read, which are left to the reader: it would ask for them meanwhile.
const LEFT_FILES: usize = 2;
/// Other inodes (directories, links) that are passed over for each file.
const PASSED_OVER: usize = 4;
/// Sequences that are followed at a time.
const READERS: usize = 16;
/// Files that are remembered as handed over, or about to be.
const REMEMBERED: usize = 2048;
/// Inodes with greater numbers are taken for known to the kernel: two MiB of bits.
const MOST_KNOWN: usize = 16 << 20;

/// What is being read in sequence.
#[derive(Default)]
pub struct Follow {
    known: Known,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Newest first.
    readers: VecDeque<Reader>,
    given: Given,
    /// Files that the kernel did not know yet.
    early: Vec<Arc<Inode>>,
}

/// One sequence. Places are those of inodes in the table ([`crate::image::squashfs::InodeRef`]).
struct Reader {
    /// The place of the file read last.
    at: u64,
    /// A file up to this place goes on with the sequence.
    until: u64,
    /// The inode up to which all is handed over, or passed over.
    handed: Arc<Inode>,
    /// The number of the file after it, if the kernel does not know that yet.
    awaited: Option<u32>,
    /// How many files may be handed over ahead of the reader; 0 while there was but one.
    files: usize,
    /// The places of those that are.
    ahead: VecDeque<u64>,
}

/// The inodes that the kernel was told of by this worker, a bit for each number. It may have forgotten them meanwhile.
#[derive(Default)]
struct Known(Mutex<Vec<u64>>);

/// The places of files that are handed over, or about to be; and the same in order of arrival.
#[derive(Default)]
struct Given {
    places: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Follow {
    /// Notes that the kernel is about to be told of `inode`.
    pub fn tell(&self, inode: &Inode) {
        self.known.set(inode.number, true);
    }

    /// The files to hand over now that the kernel was told of some.
    pub fn told(&self, image: &Squashfs) -> Vec<Arc<Inode>> {
        let State { readers, given, .. } = &mut *self.lock();
        let may_go_on = |reader: &&mut Reader| reader.awaited.is_some_and(|number| self.known.has(number));
        readers
            .iter_mut()
            .filter(may_go_on)
            .flat_map(|reader| reader.go_on(image, &self.known, given))
            .collect()
    }

    /// Notes that `inode` is being read from its start, and gives the files to hand over.
    pub fn note(&self, image: &Squashfs, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        let place = inode.reference.0;
        let State { readers, given, early } = &mut *self.lock();
        let was_given = given.places.remove(&place);
        early.retain(|file| file.reference.0 != place);
        let found = readers.iter().position(|reader| reader.at < place && place <= reader.until);
        let Some(mut reader) = found.and_then(|index| readers.remove(index)) else {
            readers.push_front(Reader::new(image, inode));
            readers.truncate(READERS);
            return Vec::new();
        };
        let next = reader.has_read(image, inode);
        let next = if was_given {
            // The reader is faster than we are: it must not meet us at the next file.
            for file in next {
                given.places.remove(&file.reference.0);
            }
            Vec::new()
        } else {
            reader.go_on(image, &self.known, given)
        };
        readers.push_front(reader);
        next
    }

    /// Whether the file is still to be handed over: its reader may have been faster.
    pub fn is_wanted(&self, inode: &Inode) -> bool {
        self.lock().given.places.contains(&inode.reference.0)
    }

    /// The file could not be handed over.
    pub fn not_given(&self, inode: &Inode) {
        self.lock().given.places.remove(&inode.reference.0);
    }

    /// The kernel did not know the file that was to be handed over. It may just have been told of it, and not know it
    /// before the program that asked has gone on; if it does not know it `again`, it has forgotten it.
    pub fn not_known(&self, inode: &Arc<Inode>, again: bool) {
        let State { given, early, .. } = &mut *self.lock();
        given.places.remove(&inode.reference.0);
        if again {
            self.known.set(inode.number, false);
        } else if early.len() < MOST_FILES {
            early.push(Arc::clone(inode));
        }
    }

    /// The files that the kernel did not know yet.
    pub fn again(&self) -> Vec<Arc<Inode>> {
        let State { given, early, .. } = &mut *self.lock();
        std::mem::take(early).into_iter().filter(|file| given.add(file.reference.0)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Of the file that was read first.
    fn new(image: &Squashfs, inode: &Arc<Inode>) -> Self {
        let handed = Arc::clone(inode);
        let ahead = VecDeque::new();
        let mut reader = Self { at: inode.reference.0, until: 0, handed, awaited: None, files: 0, ahead };
        reader.look_out(image);
        reader
    }

    /// Notes the next file that was read, and gives those right after it.
    fn has_read(&mut self, image: &Squashfs, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        let next: Vec<_> = files_after(image, inode, LEFT_FILES).collect();
        self.at = inode.reference.0;
        while self.ahead.pop_front_if(|place| *place <= self.at).is_some() {}
        let last = next.last().unwrap_or(inode);
        if self.handed.reference.0 < last.reference.0 {
            self.handed = Arc::clone(last);
            self.look_out(image);
        }
        self.files = if self.files == 0 { FIRST_FILES } else { (self.files * 2).min(MOST_FILES) };
        next
    }

    /// The files to hand over next.
    fn go_on(&mut self, image: &Squashfs, known: &Known, given: &mut Given) -> Vec<Arc<Inode>> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        self.awaited = None;
        let from = Arc::clone(&self.handed);
        for file in files_after(image, &from, self.files.saturating_sub(self.ahead.len())) {
            if !known.has(file.number) {
                self.awaited = Some(file.number);
                break;
            }
            self.handed = Arc::clone(&file);
            self.ahead.push_back(file.reference.0);
            bytes += file.size;
            files.push(file);
            if bytes > MOST_BYTES {
                break;
            }
        }
        if self.awaited.is_none() && !files.is_empty() {
            // Only a read leads on from here: that of the mark.
            files.remove(files.len() / 2);
        }
        self.look_out(image);
        files.retain(|file| given.add(file.reference.0));
        files
    }

    /// Expects what comes after that which is handed over.
    fn look_out(&mut self, image: &Squashfs) {
        let last = files_after(image, &self.handed, NEAR_FILES).last();
        self.until = self.until.max(last.map_or(0, |last| last.reference.0));
    }
}

/// Up to `files` files that come after `inode`, small enough to be handed over.
fn files_after(image: &Squashfs, inode: &Arc<Inode>, files: usize) -> impl Iterator<Item = Arc<Inode>> {
    let next = |at: &Arc<Inode>| {
        // What is broken is reported to who really reads it.
        let next = image.inode_after(at).ok()??;
        image.inode(next).ok()
    };
    let is_small = |inode: &Arc<Inode>| {
        matches!(inode.content, Content::Regular(_)) && (1..=MOST_FILE_BYTES).contains(&inode.size)
    };
    std::iter::successors(next(inode), move |at| next(at))
        .take(files * PASSED_OVER)
        .filter(is_small)
        .take(files)
}

impl Known {
    fn set(&self, number: u32, known: bool) {
        let mut words = self.words();
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= words.len() && word < MOST_KNOWN / 64 {
            words.resize(word + 1, 0);
        }
        if let Some(word) = words.get_mut(word) {
            *word = if known { *word | bit } else { *word & !bit };
        }
    }

    fn has(&self, number: u32) -> bool {
        let has = |word: &u64| word >> (number % 64) & 1 == 1;
        self.words().get(number as usize / 64).map_or(number as usize >= MOST_KNOWN, has)
    }

    fn words(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Given {
    /// False if it was one of them already.
    fn add(&mut self, place: u64) -> bool {
        if !self.places.insert(place) {
            return false;
        }
        self.order.push_back(place);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::source::Source;
    use crate::image::squashfs::OpenOptions;
    use crate::pack::{PackOptions, Progress, pack_directory};
    use std::ops::Range;
    use std::sync::atomic::AtomicBool;

    /// An image of the files 0 to 199, the second hundred in a directory of their own.
    struct Image {
        image: Squashfs,
        files: Vec<Arc<Inode>>,
        follow: Follow,
    }

    impl Image {
        fn new() -> Self {
            let tree = tempfile::tempdir().unwrap();
            for number in 0..200 {
                let directory = tree.path().join(if number < 100 { "a" } else { "b" });
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(directory.join(format!("{number:03}")), "some text").unwrap();
            }
            let output = tempfile::tempfile().unwrap();
            let watch = (&Progress::default(), &AtomicBool::new(false));
            pack_directory(tree.path(), &output, 0, &PackOptions::default(), watch).unwrap();
            let source = Source::whole(Arc::new(output)).unwrap();
            let image = Squashfs::open(source, OpenOptions::default()).unwrap();
            let file = |number: usize| {
                let path = format!("/{}/{number:03}", if number < 100 { "a" } else { "b" });
                image.resolve(path.as_ref()).unwrap().unwrap().1
            };
            let files = (0..200).map(file).collect();
            Self { image, files, follow: Follow::default() }
        }

        /// The same, with what the kernel was told of.
        fn told_of(files: Range<usize>) -> Self {
            let image = Self::new();
            image.tell(files);
            image
        }

        fn tell(&self, files: Range<usize>) {
            self.files[files].iter().for_each(|file| self.follow.tell(file));
        }

        /// The files that are handed over after a read of one.
        fn read(&self, file: usize) -> Vec<usize> {
            self.numbers(&self.follow.note(&self.image, &self.files[file]))
        }

        /// Those after a listing.
        fn listed(&self) -> Vec<usize> {
            self.numbers(&self.follow.told(&self.image))
        }

        fn numbers(&self, files: &[Arc<Inode>]) -> Vec<usize> {
            let number = |file: &Arc<Inode>| {
                self.files.iter().position(|one| one.reference == file.reference).unwrap()
            };
            files.iter().map(number).collect()
        }
    }

    #[test]
    fn a_sequence_is_handed_over_ever_further_ahead_but_for_its_marks() {
        let image = Image::told_of(0..200);
        assert_eq!(image.read(10), [0; 0], "it may be the only one");
        assert_eq!(image.read(11), [14, 15, 17], "12 and 13 are the reader's, 16 is the mark");
        assert_eq!(image.read(12), [18, 19, 21]);
        assert_eq!(image.read(13), [22, 23, 24, 25, 27, 28, 29]);
        for mark in [16, 20, 26] {
            image.read(mark);
        }
        let handed = |last: usize| image.follow.is_wanted(&image.files[last]);
        assert!(handed(26 + MOST_FILES) && !handed(27 + MOST_FILES), "never further than so many");
    }

    #[test]
    fn reads_here_and_there_hand_over_nothing() {
        let image = Image::told_of(0..200);
        for file in [50, 20, 150, 90, 10] {
            assert_eq!(image.read(file), [0; 0]);
        }
    }

    #[test]
    fn files_that_the_kernel_does_not_know_are_handed_over_once_they_are_listed() {
        let image = Image::told_of(0..100);
        assert_eq!((image.read(94), image.read(95)), (vec![], vec![98, 99]), "no mark: the listing leads on");
        assert_eq!(image.listed(), [0; 0]);
        image.tell(100..200);
        let next = image.listed();
        assert_eq!(next.first(), Some(&100), "{next:?}");
        assert_eq!(image.listed(), [0; 0], "once");
    }

    #[test]
    fn what_was_not_taken_is_tried_again_once() {
        let image = Image::told_of(0..200);
        image.read(10);
        image.read(11);
        let file = &image.files[14];
        assert!(image.follow.is_wanted(file));
        image.follow.not_known(file, false);
        assert!(!image.follow.is_wanted(file));
        assert_eq!(image.numbers(&image.follow.again()), [14]);
        assert!(image.follow.is_wanted(file));
        image.follow.not_known(file, true);
        assert!(image.follow.again().is_empty() && !image.follow.known.has(file.number));
    }

    #[test]
    fn a_reader_that_is_faster_is_not_met_at_its_next_file() {
        let image = Image::told_of(0..200);
        image.read(10);
        assert_eq!(image.read(11), [14, 15, 17]);
        assert_eq!(image.read(14), [0; 0], "its reader came first");
        let wanted: Vec<usize> =
            (14..18).filter(|file| image.follow.is_wanted(&image.files[*file])).collect();
        assert_eq!(wanted, [17], "15 is left to the reader");
    }

    #[test]
    fn a_sequence_without_reads_ends() {
        let image = Image::told_of(0..100);
        image.read(90);
        image.read(91);
        let mut handed = 0;
        for number in 100..200 {
            image.tell(number..number + 1);
            handed += image.listed().len();
        }
        assert!(handed <= MOST_FILES, "{handed} files ahead of a reader that does not go on");
    }

    #[test]
    fn numbers_that_no_image_of_ours_has_are_taken_for_known() {
        let known = Known::default();
        assert!(!known.has(0) && !known.has(MOST_KNOWN as u32 - 1) && known.has(MOST_KNOWN as u32));
        known.set(u32::MAX, true);
        assert!(known.words().is_empty() && known.has(u32::MAX));
        known.set(7, true);
        assert!(known.has(7) && !known.has(8));
    }
}
