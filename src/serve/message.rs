//! Messages with descriptors between a container's process and the keeper.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most descriptors in one message: two namespaces, a pidfd and the FUSE queues.
const MOST_FDS: usize = 24;

/// A container's process wants to join; its pidfd comes with it.
pub const JOIN: u8 = b'J';
/// The answer to JOIN: the user namespace and the template mount namespace come with it.
pub const WELCOME: u8 = b'W';
/// The first container's process hands over the FUSE queues.
pub const HAND_OVER: u8 = b'H';
/// It lets others join: its pidfd, the user namespace and the finished template come with it.
pub const SHARE: u8 = b'S';

/// Without FUSE, the server to the first container: the image is unpacked. A pipe with [`super::Unpacked`] comes along.
pub const READY: u8 = b'R';
/// The same: it could not be unpacked. A pipe with the reason comes along.
pub const FAILED: u8 = b'F';
/// Without FUSE, the first container to the server: its user namespace comes along, whose processes use the image.
pub const USERS: u8 = b'U';

/// Two connected sockets that keep messages apart.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message.
pub fn send(socket: BorrowedFd<'_>, kind: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let bytes = [kind];
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends one message with a short text, in a pipe.
pub fn send_text(socket: BorrowedFd<'_>, kind: u8, text: &[u8]) -> io::Result<()> {
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // As much as fits into a pipe without anyone reading.
    rustix::io::write(&to, &text[..text.len().min(MOST_TEXT)])?;
    send(socket, kind, &[from.as_fd()])
}

/// A page, which every pipe holds.
const MOST_TEXT: usize = 4096;

/// A message: its kind and its descriptors.
pub struct Message {
    pub kind: u8,
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The text that came along.
    pub fn text(self) -> io::Result<String> {
        let Some(pipe) = self.fds.into_iter().next() else { return Ok(String::new()) };
        let mut text = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(pipe), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Waits for the next message; `None` when the other side is gone.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Message>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 1];
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket.as_fd(), buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if received.bytes < bytes.len() {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Some(Message { kind: bytes[0], fds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message_and_a_closed_peer_is_none() {
        let (here, there) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(here.as_fd(), JOIN, &[file.as_fd()]).unwrap();
        send(here.as_fd(), WELCOME, &[]).unwrap();
        let first = receive(there.as_fd()).unwrap().unwrap();
        assert_eq!((first.kind, first.fds.len()), (JOIN, 1));
        let second = receive(there.as_fd()).unwrap().unwrap();
        assert_eq!((second.kind, second.fds.len()), (WELCOME, 0));
        drop(here);
        assert!(receive(there.as_fd()).unwrap().is_none());
    }
}
