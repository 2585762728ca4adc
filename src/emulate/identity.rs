//! Who a process says it is: the kernel's rules for user and group ids (credentials(7)), where every process is really
//! the one user that the namespace maps.
//!
//! What a process has set is remembered by a number that the process carries ([`notify::carry`]), which names an entry
//! of a table. So children inherit it, and keep it when their parent sets something else or ends, and there is nothing
//! to forget about processes that have ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::table::{Get, Set, Which};
use crate::sys::notify;

/// Ids of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    /// For files.
    pub files: u32,
}

/// "As it is", in the calls that set several.
pub const SAME: u32 = u32::MAX;

impl Ids {
    /// The ids after setuid(2) and its like. `free`: any may be set. The errno else.
    pub fn after(self, set: Set, ids: [u32; 3], free: bool) -> Result<Self, i32> {
        match set {
            Set::One => self.after_one(ids[0], free),
            Set::Two => self.after_two(ids[0], ids[1], free),
            Set::Three => self.after_three(ids, free),
            Set::Files => {
                let own = [self.real, self.effective, self.saved, self.files].contains(&ids[0]);
                let heeded = ids[0] != SAME && (free || own);
                Ok(if heeded { Self { files: ids[0], ..self } } else { self })
            }
        }
    }

    fn after_one(self, id: u32, free: bool) -> Result<Self, i32> {
        match id {
            SAME => Err(libc::EINVAL),
            _ if free => Ok(Self { real: id, effective: id, saved: id, files: id }),
            _ if id == self.real || id == self.saved => Ok(Self { effective: id, files: id, ..self }),
            _ => Err(libc::EPERM),
        }
    }

    fn after_two(self, real: u32, effective: u32, free: bool) -> Result<Self, i32> {
        let real_fits = [SAME, self.real, self.effective].contains(&real);
        let effective_fits = [SAME, self.real, self.effective, self.saved].contains(&effective);
        if !(free || real_fits && effective_fits) {
            return Err(libc::EPERM);
        }
        let mut new = self;
        new.real = chosen(real, self.real);
        new.effective = chosen(effective, self.effective);
        if real != SAME || (effective != SAME && effective != self.real) {
            new.saved = new.effective;
        }
        new.files = new.effective;
        Ok(new)
    }

    fn after_three(self, [real, effective, saved]: [u32; 3], free: bool) -> Result<Self, i32> {
        let fits = |id: u32| [SAME, self.real, self.effective, self.saved].contains(&id);
        if !(free || [real, effective, saved].into_iter().all(fits)) {
            return Err(libc::EPERM);
        }
        let effective = chosen(effective, self.effective);
        let (real, saved) = (chosen(real, self.real), chosen(saved, self.saved));
        Ok(Self { real, effective, saved, files: effective })
    }
}

fn chosen(id: u32, otherwise: u32) -> u32 {
    if id == SAME { otherwise } else { id }
}

/// All that a process says it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub user: Ids,
    pub group: Ids,
    /// The supplementary groups, sorted; none: those that it really has.
    pub groups: Option<Arc<[u32]>>,
    /// The lower half of its effective capabilities, as its ids give and take them. Really it keeps all that the
    /// program has: what it may do to files is not taken from it.
    capabilities: u32,
    /// Those of the program.
    had: u32,
    /// Which program has kept capabilities without being root: they end with the next one, which nobody tells of.
    kept_by: Option<Executed>,
}

/// Names the program that a process has executed, as far as needed: two that follow each other differ.
pub type Executed = u64;

/// Capabilities, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    Chown = 0,
    Setgid = 6,
    Setuid = 7,
    Mknod = 27,
}

/// Those that go with the id for files (`CAP_FS_SET` of the kernel): CAP_CHOWN to CAP_FSETID, CAP_LINUX_IMMUTABLE,
/// CAP_MKNOD.
const FOR_FILES: u32 = 0b1_1111 | 1 << 9 | 1 << 27;

impl Identity {
    /// Root with the capabilities of this process.
    pub fn root() -> Self {
        let own = rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits());
        Self::with_capabilities(own as u32)
    }

    fn with_capabilities(capabilities: u32) -> Self {
        let root = Ids::default();
        Self { user: root, group: root, groups: None, had: capabilities, capabilities, kept_by: None }
    }

    pub fn ids(&self, which: Which) -> &Ids {
        match which {
            Which::User => &self.user,
            Which::Group => &self.group,
        }
    }

    pub fn get(&self, which: Which, get: Get) -> u32 {
        let ids = self.ids(which);
        match get {
            Get::Real => ids.real,
            Get::Effective => ids.effective,
        }
    }

    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities >> capability as u32 & 1 == 1
    }

    /// Takes user ids, with what the kernel does to capabilities (capabilities(7)).
    pub fn set_user(&mut self, new: Ids, set: Set) {
        let old = std::mem::replace(&mut self.user, new);
        let (mask, moved) = match set {
            Set::Files => (FOR_FILES, [old.files, new.files]),
            _ => (u32::MAX, [old.effective, new.effective]),
        };
        match moved.map(|id| id == 0) {
            [true, false] => self.capabilities &= !mask,
            [false, true] => self.capabilities |= mask & self.had,
            _ => {}
        }
    }

    /// Takes what capset(2) was asked for by a program. Root keeps all, since it has all again after the next execve.
    /// Others may have kept them (PR_SET_KEEPCAPS), to change their groups after their user.
    pub fn set_capabilities(&mut self, effective: u32, program: Option<Executed>) {
        if self.user.effective != 0 {
            self.capabilities = effective & self.had;
            self.kept_by = program.filter(|_| self.capabilities != 0);
        }
    }

    /// Without capabilities that another program than this had kept. `program` is asked for only where there are any.
    pub fn without_kept(mut self, program: impl FnOnce() -> Option<Executed>) -> Self {
        if self.kept_by.is_some() && self.user.effective != 0 && self.kept_by != program() {
            self.capabilities = 0;
        }
        self
    }

    /// Whether it is in a group, as far as files are concerned.
    pub fn is_in_group(&self, group: u32) -> bool {
        self.group.files == group || self.groups.as_ref().is_some_and(|groups| groups.contains(&group))
    }
}

/// Identities that processes have set, by the number that they carry.
#[derive(Default)]
pub struct Identities(Mutex<Table>);

#[derive(Default)]
struct Table {
    entries: Vec<Arc<Identity>>,
    places: HashMap<Arc<Identity>, u64>,
    /// In all entries.
    groups: usize,
}

/// Carried numbers from here on are places in the table. ("skiff" in ASCII, so that nobody has it by chance.)
const FIRST_NUMBER: u64 = 0x736b_6966_6600_0000;
/// More different identities, or groups in all of them, are refused.
const MOST_ENTRIES: usize = 1 << 16;
const MOST_GROUPS: usize = 1 << 22;

impl Identities {
    /// What a process has set; none when it has set nothing.
    pub fn of(&self, thread: libc::pid_t) -> Option<Arc<Identity>> {
        let place = notify::carried(thread).ok()?.checked_sub(FIRST_NUMBER)?;
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.entries.get(usize::try_from(place).ok()?).cloned()
    }

    /// Remembers what a process has set.
    ///
    /// # Errors
    /// EAGAIN when there are too many different ones.
    pub fn set(&self, thread: libc::pid_t, identity: Identity) -> Result<(), i32> {
        let place = self.0.lock().unwrap_or_else(PoisonError::into_inner).place_of(identity)?;
        // A process whose hard limit on file locks is low carries nothing, and stays root: the call succeeds all the
        // same, as every one does where nothing is remembered.
        let _ = notify::carry(thread, FIRST_NUMBER + place);
        Ok(())
    }
}

impl Table {
    fn place_of(&mut self, identity: Identity) -> Result<u64, i32> {
        if let Some(place) = self.places.get(&identity) {
            return Ok(*place);
        }
        let groups = self.groups + identity.groups.as_ref().map_or(0, |groups| groups.len());
        if self.entries.len() >= MOST_ENTRIES || groups > MOST_GROUPS {
            return Err(libc::EAGAIN);
        }
        let (place, identity) = (self.entries.len() as u64, Arc::new(identity));
        self.entries.push(Arc::clone(&identity));
        self.places.insert(identity, place);
        self.groups = groups;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, files: effective }
    }

    #[test]
    fn root_takes_any_id_and_others_only_their_own() {
        let root = Ids::default();
        let ada = ids(7, 7, 7);
        assert_eq!(root.after(Set::One, [7, 0, 0], true), Ok(ada));
        assert_eq!(ada.after(Set::One, [0, 0, 0], false), Err(libc::EPERM));
        assert_eq!(ada.after(Set::One, [7, 0, 0], false), Ok(ada));
        assert_eq!(root.after(Set::One, [SAME, 0, 0], true), Err(libc::EINVAL));
        // A set-user-id program that takes its privileges back, and gives them up for good.
        let dropped = root.after(Set::Three, [7, 7, 0], true).unwrap();
        assert_eq!(dropped, ids(7, 7, 0));
        assert_eq!(dropped.after(Set::One, [0, 0, 0], false), Ok(ids(7, 0, 0)));
        assert_eq!(dropped.after(Set::Three, [SAME, 0, SAME], false), Ok(ids(7, 0, 0)));
        assert_eq!(dropped.after(Set::Three, [SAME, 8, SAME], false), Err(libc::EPERM));
    }

    #[test]
    fn two_ids_move_the_saved_one_as_the_kernel_does() {
        let root = Ids::default();
        assert_eq!(root.after(Set::Two, [SAME, 7, 0], true), Ok(ids(0, 7, 7)));
        assert_eq!(root.after(Set::Two, [7, SAME, 0], true), Ok(ids(7, 0, 0)));
        let swapped = ids(7, 8, 9);
        assert_eq!(swapped.after(Set::Two, [8, 7, 0], false), Ok(ids(8, 7, 7)));
        assert_eq!(swapped.after(Set::Two, [SAME, 7, 0], false), Ok(ids(7, 7, 9)));
        assert_eq!(swapped.after(Set::Two, [SAME, 9, 0], false), Ok(ids(7, 9, 9)));
        assert_eq!(swapped.after(Set::Two, [9, SAME, 0], false), Err(libc::EPERM));
        assert_eq!(swapped.after(Set::Two, [SAME, SAME, 0], false), Ok(swapped));
    }

    #[test]
    fn the_id_for_files_moves_alone_and_never_fails() {
        let ada = ids(7, 8, 9);
        assert_eq!(ada.after(Set::Files, [9, 0, 0], false), Ok(Ids { files: 9, ..ada }));
        assert_eq!(ada.after(Set::Files, [1, 0, 0], false), Ok(ada));
        assert_eq!(ada.after(Set::Files, [1, 0, 0], true), Ok(Ids { files: 1, ..ada }));
        assert_eq!(ada.after(Set::Files, [SAME, 0, 0], true), Ok(ada));
    }

    #[test]
    fn capabilities_go_and_come_with_the_ids() {
        let has =
            |who: &Identity| [Capability::Setgid, Capability::Chown].map(|capability| who.has(capability));
        let mut who = Identity::with_capabilities(u32::MAX);
        assert_eq!(has(&who), [true, true]);
        who.set_user(Ids { files: 7, ..who.user }, Set::Files);
        assert_eq!(has(&who), [true, false]);
        who.set_user(Ids { files: 0, ..who.user }, Set::Files);
        assert_eq!(has(&who), [true, true]);
        who.set_user(ids(0, 7, 0), Set::Three);
        assert_eq!(has(&who), [false, false]);
        who.set_user(ids(0, 0, 0), Set::Three);
        who.set_capabilities(0, None);
        assert_eq!(has(&who), [true, true]);
        who.set_user(ids(7, 7, 7), Set::Three);
        who.set_capabilities(1 << Capability::Setgid as u32, Some(1));
        assert_eq!(has(&who.clone().without_kept(|| Some(1))), [true, false]);
        assert_eq!(has(&who.without_kept(|| Some(2))), [false, false]);
    }

    #[test]
    fn equal_identities_share_an_entry_and_there_is_an_end() {
        let mut table = Table::default();
        let other = |real| Identity { user: ids(real, 1, 1), ..Identity::with_capabilities(0) };
        assert_eq!((table.place_of(other(1)), table.place_of(other(2))), (Ok(0), Ok(1)));
        assert_eq!(table.place_of(other(1)), Ok(0));
        for real in 3..=MOST_ENTRIES as u32 {
            table.place_of(other(real)).unwrap();
        }
        assert_eq!(table.place_of(other(u32::MAX)), Err(libc::EAGAIN));
        assert_eq!(table.place_of(other(5)), Ok(4));
    }
}
