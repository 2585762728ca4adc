//! Who the caller is inside: the id map, and the account files that give the ids their names.
//!
//! The image's `/etc/passwd` and `/etc/group` are shown with the caller's lines in place of those that
//! have the same id or name, or at the end. Lines that make no sense stay as they are; a file that is not
//! text is not touched.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::home::Home;
use super::{Because, HostPath, IdMap};
use crate::host::subordinate::Subordinate;
use crate::host::{Host, User};

/// The ids that the user namespace maps, and why the caller's is the only one, where root inside is that alone.
/// `one_id`: who asked for just this.
pub fn id_map(fakeroot: bool, one_id: Option<&Because>, host: &Host) -> (IdMap, Option<String>) {
    let (uid, gid) = (host.uid, host.gid);
    if uid == 0 {
        return (IdMap::Whole, None);
    }
    if !fakeroot {
        return (IdMap::Caller { uid, gid }, None);
    }
    if let Some(because) = one_id {
        return (IdMap::Root { uid, gid }, Some(because.origin().to_owned()));
    }
    match host.subordinate() {
        Ok(found) => {
            let Subordinate { uids, gids, newuidmap, newgidmap } = found.clone();
            let (newuidmap, newgidmap) = (HostPath(newuidmap), HostPath(newgidmap));
            (IdMap::Subordinate { uid, gid, uids, gids, newuidmap, newgidmap }, None)
        }
        Err(unusable) => (IdMap::Root { uid, gid }, Some(unusable.to_string())),
    }
}

/// Who the caller is inside.
#[derive(Debug, Clone)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The passwd entry.
    pub user: User,
    /// The home directory.
    pub home: PathBuf,
    /// The groups with their names.
    pub groups: Vec<(u32, OsString)>,
}

impl Caller {
    /// Who the caller is with these ids and this home.
    pub fn inside(ids: &IdMap, home: &Home, host: &Host) -> Self {
        let home = home.target.clone();
        match ids {
            IdMap::Root { .. } | IdMap::Subordinate { .. } => {
                let user = User { name: "root".into(), gecos: "root".into(), ..host.user().clone() };
                Self { uid: 0, gid: 0, user, home, groups: vec![(0, "root".into())] }
            }
            IdMap::Caller { .. } | IdMap::Whole => {
                let groups = host.group_names().to_vec();
                Self { uid: host.uid, gid: host.gid, user: host.user().clone(), home, groups }
            }
        }
    }
}

/// `/etc/passwd` for the container, from the image's (empty if it has none). `None`: leave it as it is.
/// `has` tells whether the image has a file; a login shell that it lacks becomes `/bin/sh`.
pub fn passwd(caller: &Caller, image: &[u8], has: &dyn Fn(&Path) -> bool) -> Option<Vec<u8>> {
    let (user, home) = (&caller.user, &caller.home);
    let shell = if user.shell.as_os_str().is_empty() || !has(&user.shell) {
        Path::new("/bin/sh")
    } else {
        &user.shell
    };
    let name = field(user.name.as_bytes());
    let (uid, gid) = (caller.uid.to_string(), caller.gid.to_string());
    let line = [
        &name,
        b"x".as_slice(),
        uid.as_bytes(),
        gid.as_bytes(),
        &field(user.gecos.as_bytes()),
        &field(home.as_os_str().as_bytes()),
        &field(shell.as_os_str().as_bytes()),
    ]
    .join(&b':');
    let mut lines = text_lines(image)?;
    if image.is_empty() && caller.uid != 0 {
        lines.push(b"root:x:0:0:root:/root:/bin/sh".to_vec());
    }
    // The caller's uid under another name, and the caller's name with another uid, both give way.
    replace(&mut lines, line, |old| part(old, 2) == Some(uid.as_bytes()) || part(old, 0) == Some(&name));
    Some(joined(lines))
}

/// `/etc/group` for the container, from the image's (empty if it has none). `None`: leave it as it is.
pub fn group(caller: &Caller, image: &[u8], _has: &dyn Fn(&Path) -> bool) -> Option<Vec<u8>> {
    let user = field(caller.user.name.as_bytes());
    let mut lines = text_lines(image)?;
    if image.is_empty() && caller.gid != 0 {
        lines.push(b"root:x:0:".to_vec());
    }
    for (gid, name) in &caller.groups {
        let (gid, name) = (gid.to_string(), field(name.as_bytes()));
        let same = |old: &[u8]| part(old, 2) == Some(gid.as_bytes());
        let mut members: Vec<Vec<u8>> = lines
            .iter()
            .filter(|old| same(old))
            .flat_map(|old| part(old, 3).unwrap_or_default().split(|byte| *byte == b','))
            .filter(|member| !member.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        if !members.contains(&user) {
            members.push(user.clone());
        }
        let line = [&name, b"x".as_slice(), gid.as_bytes(), &members.join(&b',')].join(&b':');
        replace(&mut lines, line, |old| same(old) || part(old, 0) == Some(&name));
    }
    Some(joined(lines))
}

/// Puts `line` in the place of the first line that `same` names and removes the others, or adds it.
fn replace(lines: &mut Vec<Vec<u8>>, line: Vec<u8>, same: impl Fn(&[u8]) -> bool) {
    let place = lines.iter().position(|old| same(old)).unwrap_or(lines.len());
    let mut index = 0;
    lines.retain(|old| {
        index += 1;
        index - 1 < place || !same(old)
    });
    lines.insert(place, line);
}

fn text_lines(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    if file.contains(&0) {
        return None;
    }
    let lines = file.strip_suffix(b"\n").unwrap_or(file);
    if lines.is_empty() {
        return Some(Vec::new());
    }
    Some(lines.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
}

fn joined(lines: Vec<Vec<u8>>) -> Vec<u8> {
    let mut file = lines.join(&b'\n');
    file.push(b'\n');
    file
}

/// A field of a line with colons.
fn part(line: &[u8], index: usize) -> Option<&[u8]> {
    line.split(|byte| *byte == b':').nth(index)
}

/// Text that fits in a field: a colon or a line's end would begin another one.
fn field(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if matches!(byte, b':' | b'\n' | 0) { b'_' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::IdRange;

    fn everything(_: &Path) -> bool {
        true
    }

    fn ada() -> Caller {
        let host = Host::made_up(Path::new("/"));
        let home = crate::plan::home::plan_home(&crate::plan::asked::Asked::default(), &host).unwrap();
        Caller::inside(&id_map(false, None, &host).0, &home, &host)
    }

    fn passwd_of(image: &str) -> String {
        String::from_utf8(passwd(&ada(), image.as_bytes(), &everything).unwrap()).unwrap()
    }

    fn group_of(groups: &[(u32, &str)], image: &str) -> String {
        let groups = groups.iter().map(|(gid, name)| (*gid, (*name).into())).collect();
        String::from_utf8(group(&Caller { groups, ..ada() }, image.as_bytes(), &everything).unwrap()).unwrap()
    }

    const ADA: &str = "ada:x:1000:1000:Ada:/home/ada:/bin/bash\n";

    #[test]
    fn the_callers_line_is_added_or_takes_the_place_of_its_uid_and_name() {
        let root = "root:x:0:0::/root:/bin/sh\n";
        assert_eq!(passwd_of(root), format!("{root}{ADA}"));
        assert_eq!(passwd_of(root.trim_end()), format!("{root}{ADA}"));
        assert_eq!(
            passwd_of(&format!("{root}ubuntu:x:1000:1000::/:/x\nz:x:3:3::/:\n")),
            format!("{root}{ADA}z:x:3:3::/:\n")
        );
        assert_eq!(passwd_of(&format!("ada:x:77:7::/:\n{root}toor:x:1000:0::/:\n")), format!("{ADA}{root}"));
    }

    #[test]
    fn an_image_without_account_files_gets_root_and_the_caller() {
        assert_eq!(passwd_of(""), format!("root:x:0:0:root:/root:/bin/sh\n{ADA}"));
        assert_eq!(group_of(&[(1000, "ada")], ""), "root:x:0:\nada:x:1000:ada\n");
    }

    #[test]
    fn malformed_lines_stay_and_binary_files_are_left_alone() {
        assert_eq!(passwd_of("\n::::\nx\n# no\n"), format!("\n::::\nx\n# no\n{ADA}"));
        assert_eq!(passwd(&ada(), b"a\0b", &everything), None);
        assert_eq!(group(&ada(), b"\0", &everything), None);
    }

    #[test]
    fn a_shell_that_the_image_lacks_becomes_sh_and_no_field_breaks_the_line() {
        let user = User {
            name: "a:b".into(),
            gecos: "x\ny".into(),
            home: None,
            shell: "/bin/zsh".into(),
            gid: None,
        };
        let made =
            passwd(&Caller { user, home: "/".into(), ..ada() }, b"root:x:0:0::/:\n", &|_| false).unwrap();
        assert_eq!(String::from_utf8(made).unwrap(), "root:x:0:0::/:\na_b:x:1000:1000:x_y:/:/bin/sh\n");
    }

    #[test]
    fn groups_keep_their_members_and_take_the_hosts_names() {
        let image = "root:x:0:\nusers:x:100:bob,ada\nstaff:x:50:eve\nada:x:9:\n";
        let made = group_of(&[(1000, "ada"), (50, "physics"), (4000, "proj")], image);
        assert_eq!(
            made,
            "root:x:0:\nusers:x:100:bob,ada\nphysics:x:50:eve,ada\nada:x:1000:ada\nproj:x:4000:ada\n"
        );
    }

    #[test]
    fn root_maps_every_id_and_others_themselves_or_root() {
        let mut host = Host::made_up(Path::new("/nonexistent"));
        assert_eq!(id_map(false, None, &host), (IdMap::Caller { uid: 1000, gid: 1000 }, None));
        let (ids, because) = id_map(true, None, &host);
        assert_eq!(ids, IdMap::Root { uid: 1000, gid: 1000 });
        assert_eq!(because.as_deref(), Some("/etc/subuid has no subordinate user ids for ada"));
        host.uid = 0;
        assert_eq!(id_map(false, None, &host), (IdMap::Whole, None));
        assert_eq!(id_map(true, None, &host), (IdMap::Whole, None));
    }

    #[test]
    fn root_has_the_subordinate_ids_unless_told_otherwise() {
        let range = |first| vec![IdRange { first, count: 65_536 }];
        let host = Host::made_up(Path::new("/nonexistent"));
        let found = Subordinate {
            uids: range(100_000),
            gids: range(200_000),
            newuidmap: "/bin/u".into(),
            newgidmap: "/bin/g".into(),
        };
        host.subordinate.set(Ok(found)).unwrap();
        let (ids, because) = id_map(true, None, &host);
        assert_eq!(because, None);
        assert_eq!(
            ids,
            IdMap::Subordinate {
                uid: 1000,
                gid: 1000,
                uids: range(100_000),
                gids: range(200_000),
                newuidmap: HostPath("/bin/u".into()),
                newgidmap: HostPath("/bin/g".into()),
            }
        );
        let asked = Because::Flag("--ignore-subuid".into());
        let (ids, because) = id_map(true, Some(&asked), &host);
        assert_eq!(ids, IdMap::Root { uid: 1000, gid: 1000 });
        assert_eq!(because.as_deref(), Some("--ignore-subuid"));
        assert_eq!(id_map(false, None, &host).0, IdMap::Caller { uid: 1000, gid: 1000 });
    }
}
