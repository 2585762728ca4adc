//! From the merged tree to the one that is packed.

use super::super::{Added, Addition};
use super::entry::{Attributes, names, wrong};
use super::merge::{Data, Inode, Kind, Merged};
use crate::error::{Error, Result};
use crate::pack::{Feed, Halt, NodeKind, PackOptions, Status, Streamed};
use std::collections::{BTreeMap, HashMap};

/// Adds a file that the layers do not have, or have otherwise.
pub fn add(merged: &mut Merged, addition: &Addition, feed: &mut Feed<'_>) -> Result<(), Halt> {
    let Some(parent) = merged.parent_of(&addition.path, addition.time)? else {
        // The image has something else in the way; it works as well without, as other images do.
        return Ok(());
    };
    let name = names(&addition.path).last().unwrap_or_default().to_vec();
    if merged.child(parent, &name).is_some() && !addition.replaces {
        return Ok(());
    }
    let (mode, kind) = match &addition.what {
        Added::Directory(mode) => (*mode, Kind::Directory(BTreeMap::new())),
        Added::Link(target) => (0o777, Kind::Symlink(target.as_bytes().into())),
        Added::File(mode, content) if content.is_empty() => (*mode, Kind::Regular(0, Data::Empty)),
        Added::File(mode, content) => {
            let mut rest = content.as_slice();
            let packed = feed.give(content.len() as u64, names(&addition.path).rev(), &mut |buffer| {
                let (piece, after) = rest.split_at_checked(buffer.len()).unwrap_or_default();
                buffer.copy_from_slice(piece);
                rest = after;
                Ok(())
            })?;
            (*mode, Kind::Regular(content.len() as u64, Data::Packed(packed)))
        }
    };
    let attributes = Attributes { mode, ..Attributes::implied(addition.time) };
    Ok(merged.put(parent, &name, Inode { attributes, kind })?)
}

/// All inodes that have a name, each once.
pub fn reachable(merged: &Merged) -> Vec<u32> {
    let mut seen = vec![false; merged.inodes.len()];
    let mut found = Vec::new();
    let mut ahead = vec![0];
    while let Some(next) = ahead.pop() {
        match seen.get_mut(next as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => continue,
        }
        found.push(next);
        if let Some(Kind::Directory(children)) = merged.inodes.get(next as usize).map(|inode| &inode.kind) {
            ahead.extend(children.values().rev());
        }
    }
    found
}

/// The tree as it is packed. Depth first, as a directory is walked.
pub fn streamed(merged: &Merged, options: &PackOptions) -> Result<Streamed> {
    let mut made = Streamed::default();
    let mut first_names = HashMap::new();
    add_node(&mut made, merged, options, (0, b"", 0))?;
    // Directories whose entries are still to be added: node and inode.
    let mut ahead = vec![(0, 0)];
    while let Some((node, inode)) = ahead.pop() {
        let Some(Kind::Directory(children)) = merged.inodes.get(inode as usize).map(|inode| &inode.kind)
        else {
            continue;
        };
        let start = made.tree.nodes.len() as u32;
        let mut below = Vec::new();
        for (name, &child) in children {
            let index = add_node(&mut made, merged, options, (node, name, child))?;
            match merged.inodes.get(child as usize).map(|inode| &inode.kind) {
                Some(Kind::Directory(_)) => below.push((index, child)),
                kind => match first_names.get(&child) {
                    Some(&first) => made.tree.join(index, first),
                    None => {
                        first_names.insert(child, index);
                        if let Some(Kind::Regular(_, Data::Packed(content))) = kind {
                            made.contents.push((index, *content));
                        }
                    }
                },
            }
        }
        let end = made.tree.nodes.len() as u32;
        if let Some(node) = made.tree.nodes.get_mut(node as usize) {
            node.kind = NodeKind::Directory(start..end);
        }
        ahead.extend(below.into_iter().rev());
    }
    Ok(made)
}

fn add_node(
    made: &mut Streamed,
    merged: &Merged,
    options: &PackOptions,
    (parent, name, inode): (u32, &[u8], u32),
) -> Result<u32> {
    let lost = || Error::new(crate::error::Kind::Internal, "the merge lost a file");
    let Inode { attributes, kind } = merged.inodes.get(inode as usize).ok_or_else(lost)?;
    let kind = match kind {
        Kind::Directory(_) => NodeKind::Directory(0..0),
        Kind::Regular(_, Data::Missing(_)) => return Err(wrong(name, "its content was not packed")),
        Kind::Regular(size, _) => NodeKind::Regular(*size),
        Kind::Symlink(target) => NodeKind::Symlink(target.clone()),
        Kind::BlockDevice(number) => NodeKind::BlockDevice(*number),
        Kind::CharDevice(number) => NodeKind::CharDevice(*number),
        Kind::Fifo => NodeKind::Fifo,
    };
    let (status, clamped) = Status::within(options, attributes.mode, attributes.owner, attributes.mtime);
    let index = made.tree.add(parent, name, status, kind)?;
    if clamped {
        made.warnings.clamped_times.count(|| made.tree.path(index));
    }
    if attributes.access_list {
        made.warnings.access_lists.count(|| made.tree.path(index));
    }
    if let Some(node) = made.tree.nodes.get_mut(index as usize) {
        node.xattrs.clone_from(&attributes.xattrs);
    }
    Ok(index)
}
